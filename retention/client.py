"""A question in, the retention service's answer out, or an error that says who has to act.

    with Client(find(), timeout_s=120) as service:
        hold = service.post("/v1/holds", {...})
        service.get("/v1/holds", {"state": "Preserved"})

Where the service is, in this order: what the caller names, the variable TALLYHOLD_RETENTION (a
socket's path, or an https URL with TALLYHOLD_CERT, TALLYHOLD_KEY and TALLYHOLD_CA beside it), the
profile (~/.config/tallyhold/retention.toml with the keys service, cert, key, ca), the socket
/run/tallyhold/retention.sock.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import tomllib
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ENVIRONMENT: Final = "TALLYHOLD_RETENTION"
DEFAULT_SOCKET: Final = Path("/run/tallyhold/retention.sock")
PROFILE: Final = Path("tallyhold/retention.toml")
"""Under XDG_CONFIG_HOME, or ~/.config."""
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes; ten thousand holds with their scopes have fewer."""
MAX_SOCKET_PATH: Final = 107
"""Bytes of a socket's path, sun_path without its final zero (unix(7))."""
_KEYS: Final = ("service", "cert", "key", "ca")


class ServiceError(Exception):
    """The service did not do it. status: HTTP, 0 where there was no answer; code: a stable word;
    text: for the person who asked, without the code."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text


class NotRunning(ServiceError):
    """Nothing answers there; the text says what to look at."""


class Denied(ServiceError):
    """This person may not do that (403), or may not even connect."""


class Refused(ServiceError):
    """A rule forbids it (409), or the request itself is wrong (400)."""


class NotFound(ServiceError):
    """There is no such hold, purge or page (404)."""


class Busy(ServiceError):
    """Not now (503): a purge is under way, the engine is down, the clock is not trusted. The text
    says which. Asking again later is harmless."""


class ProfileError(ValueError):
    """Where the service is, is not said in a way that can be used."""


@dataclass(frozen=True, slots=True)
class Where:
    """A service: a socket's path, or an https URL and the files to come in with."""

    service: str
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def is_remote(self) -> bool:
        return self.service.startswith("https://")


def find(named: str = "", environ: Mapping[str, str] = os.environ) -> Where:
    """Where the service is; see the module. Raises ProfileError."""
    folder = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    profile = _profile(Path(folder) / PROFILE)
    service = named or environ.get(ENVIRONMENT) or profile.get("service") or str(DEFAULT_SOCKET)
    if service.startswith("unix:"):
        service = service.removeprefix("unix:")
    if "://" in service and not service.startswith("https://"):
        raise ProfileError(f"{service!r}: give a socket's path or an https:// URL")
    files = {
        name: Path(text).expanduser()
        for name in ("cert", "key", "ca")
        if (text := environ.get(f"TALLYHOLD_{name.upper()}") or profile.get(name))
    }
    where = Where(service, **files)
    if where.is_remote:
        missing = [name for name in ("cert", "key", "ca") if getattr(where, name) is None]
        if missing:
            names = ", ".join(f"TALLYHOLD_{name.upper()}" for name in missing)
            raise ProfileError(f"{service} needs a certificate: set {names}, or use a profile")
    return where


def _profile(path: Path) -> dict[str, str]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{path}: {error}") from None
    wrong = [key for key, value in data.items() if key not in _KEYS or not isinstance(value, str)]
    if wrong:
        raise ProfileError(f"{path}: {wrong[0]}: the keys are texts: {', '.join(_KEYS)}")
    return data


class Client:
    """One person's connection; requests one after another. Raises ServiceError of one kind each."""

    def __init__(self, where: Where, timeout_s: float = 120.0) -> None:
        self.where = where
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The JSON of an answer."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        return self._ask("GET", path + query, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the answer to a request with a body."""
        return self._ask("POST", path, json.dumps(body or {}).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            # A fresh connection each time: a person's requests are seconds apart, and a request
            # that may have been carried out is never sent twice.
            self.close()
            self._connection = self._open()
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            data = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, is_change=method != "GET") from None
        finally:
            self.close()
        return _answer(response.status, data)

    def _open(self) -> http.client.HTTPConnection:
        if not self.where.is_remote:
            return _UnixConnection(self.where.service, self._timeout_s)
        url = urllib.parse.urlsplit(self.where.service)
        assert self.where.cert and self.where.key and self.where.ca, "find() sees to it"
        try:
            context = ssl.create_default_context(cafile=self.where.ca)
            context.load_cert_chain(self.where.cert, self.where.key)
            port = url.port or 443
        except (OSError, ValueError) as error:
            files = ", ".join(
                str(each) for each in (self.where.cert, self.where.key, self.where.ca)
            )
            raise NotRunning(0, "profile", f"{files} cannot be used: {_words(error)}") from None
        return http.client.HTTPSConnection(
            url.hostname or "", port, context=context, timeout=self._timeout_s
        )

    def _unreachable(self, error: Exception, *, is_change: bool) -> ServiceError:
        where = self.where.service
        if isinstance(error, ssl.SSLCertVerificationError):
            return NotRunning(
                0,
                "tls",
                f"{where} is not who it should be: {error.verify_message}; check the CA file",
            )
        if isinstance(error, ssl.SSLError):
            return Denied(
                403, "tls", f"{where} does not take this certificate ({_words(error)}): it may have"
                " ended or been revoked; ask for a new one (tallyhold appliance staff)"
            )  # fmt: skip
        if isinstance(error, PermissionError):
            return Denied(
                403, "socket", f"you may not open {where}: ask to be put into its group, and log in"
                " again"
            )  # fmt: skip
        if isinstance(error, TimeoutError):
            done = "; it may have been carried out, so look before you ask again" * is_change
            return NotRunning(0, "timeout", f"{where} did not answer in time{done}")
        advice = f"is the service running? or name another with {ENVIRONMENT}"
        if isinstance(error, ConnectionRefusedError | FileNotFoundError | socket.gaierror):
            return NotRunning(0, "not-running", f"nothing answers at {where}: {advice}")
        done = "; the request may have been carried out, so look before you ask again" * is_change
        return NotRunning(0, "not-running", f"{where}: {_words(error)}{done}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; the host name is only for the header."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket, however long its path is."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(self.timeout)
        try:
            with short_path(Path(self._path)) as name:
                made.connect(name)
        except BaseException:
            made.close()
            raise
        self.sock = made


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits in sun_path, also where its path does not (proc(5))."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _answer(status: int, data: bytes) -> Any:
    if len(data) > MAX_ANSWER:
        raise ServiceError(status, "too-large", "the answer is larger than any should be")
    try:
        value = json.loads(data)
    except ValueError:
        raise ServiceError(
            status, "no-json", f"the answer ({status}) is not from this service"
        ) from None
    if status < 400:
        return value
    code = str(value.get("error", "error")) if isinstance(value, dict) else "error"
    text = str(value.get("message", "")) if isinstance(value, dict) else ""
    kinds = {400: Refused, 401: Denied, 403: Denied, 404: NotFound, 409: Refused, 503: Busy}
    raise kinds.get(status, ServiceError)(status, code, text or f"the service answered {status}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
