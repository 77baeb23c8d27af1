"""Addresses in, listening sockets out; certificate files in, a TLS context that follows them out.

Both doors of the retention service: a Unix socket for users of this machine, and HTTPS that asks
every client for a certificate. A new revocation list or a renewed certificate needs no restart:
the context is swapped within the handshake. Sessions cannot be resumed, because a resumed session
would not look at the list.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import ipaddress
import logging
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509

from retention.client import short_path
from retention.config import Tls

log = logging.getLogger(__name__)

BACKLOG: Final = 64
"""Connections that wait to be accepted; a person's command makes one."""
CONNECT_S: Final = 2.0
HANDSHAKE_S: Final = 10.0
Tell = Callable[[str], None]
"""Takes why a client was refused in its handshake, as a code."""


class DoorError(RuntimeError):
    """A listener cannot be opened, or certificate files not used; the message says what to do."""


def unix_socket(path: Path, mode: int, group: str) -> socket.socket:
    """A listening socket at `path`, for its owner and `group` only; raises DoorError.

    It appears under its name with its rights already set. What a dead service left there goes.
    """
    if _answers(path):
        raise DoorError(f"api.socket = {path}: another retention service answers there; stop it")
    new = path.with_name(f".{path.name}.new")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        gid = grp.getgrnam(group).gr_gid if group else -1
        if path.exists() and not path.is_socket():
            raise DoorError(f"api.socket = {path}: there is something else with this name")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with short_path(new) as name:
            made.bind(name)
        os.chmod(new, 0)
        if group:
            os.chown(new, -1, gid)
        os.chmod(new, mode)
        made.listen(BACKLOG)
        made.setblocking(False)
        os.replace(new, path)
    except KeyError:
        made.close()
        raise DoorError(f"api.group = {group!r}: this machine has no such group") from None
    except OSError as error:
        made.close()
        raise DoorError(_unix_words(path, group, error)) from None
    except BaseException:
        made.close()
        raise
    return made


def _answers(path: Path) -> bool:
    """Whether somebody listens at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            with short_path(path) as name:
                probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            # ENOTSOCK and the like: what is there is no service's, and is told of when binding.
            return isinstance(error, TimeoutError | BlockingIOError)
    return True


def _unix_words(path: Path, group: str, error: OSError) -> str:
    if error.errno == errno.EPERM and group:
        return f"api.group = {group!r}: the service's user has to be a member of this group"
    return f"api.socket = {path}: {error.strerror}"


def tcp_socket(key: str, at: str) -> socket.socket:
    """The socket of an address HOST:PORT, bound; raises DoorError."""
    host, _, port = at.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), int(port)))
        made.setblocking(False)
    except OSError as error:
        made.close()
        words = {
            errno.EADDRINUSE: "another program listens there already; stop it or choose another",
            errno.EACCES: "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }
        said = words.get(error.errno or 0, str(error.strerror))
        raise DoorError(f"{key} = {at!r}: {said}") from None
    return made


async def listen(
    made: socket.socket,
    factory: Callable[[], asyncio.Protocol],
    connections: Callable[[], int],
    limit: int,
    context: ssl.SSLContext | None,
) -> asyncio.Server:
    """Accept connections, `limit` at a time, and close those beyond as soon as they are made.

    connections: how many there are. Takes over the socket; raises DoorError.
    """
    loop = asyncio.get_running_loop()
    begun = 0  # accepted in this turn of the loop, and not among `connections` before the next

    def arrived() -> None:
        nonlocal begun
        begun -= 1

    def accept() -> asyncio.Protocol:
        nonlocal begun
        if connections() + begun >= limit:
            return _Full()
        begun += 1
        loop.call_soon(arrived)
        return factory()

    try:
        if made.family == socket.AF_UNIX:
            return await loop.create_unix_server(accept, sock=made)
        wait_s = HANDSHAKE_S if context else None
        return await loop.create_server(
            accept, sock=made, ssl=context, ssl_handshake_timeout=wait_s
        )
    except OSError as error:
        made.close()
        raise DoorError(f"a listener cannot be opened: {error.strerror}") from None


class _Full(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class TlsGate:
    """Makes the context, and makes it anew when a file has changed.

    tell: called in the event loop with the code of each refused certificate; it must not block.
    """

    def __init__(self, files: Tls, tell: Tell) -> None:
        self.files = files
        self._class = _telling(tell)
        self._lock = threading.Lock()
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._current: ssl.SSLContext | None = None
        self._revoked: frozenset[int] = frozenset()

    def context(self) -> ssl.SSLContext:
        """The context to listen with; raises DoorError in plain words."""
        context = self._fresh()
        context.sni_callback = self._swap
        return context

    def is_revoked(self, serial: int) -> bool:
        """For requests on connections older than the list."""
        self._fresh()
        return serial in self._revoked

    def _swap(self, connection: ssl.SSLObject, name: str | None, old: ssl.SSLContext) -> None:
        connection.context = self._fresh()

    def _fresh(self) -> ssl.SSLContext:
        """The context of the files as they are; the last good one where they are bad now."""
        with self._lock:
            try:
                stamp = self._stat()
                if self._current is None or stamp != self._stamp:
                    self._current, self._revoked = self._build()
                    self._stamp = stamp
            except (DoorError, OSError) as error:
                if self._current is None:
                    raise DoorError(str(error)) from None
                log.error("certificate files changed but cannot be used: %s", error)
            return self._current

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        files = self.files
        paths = [each for each in (files.ca, files.cert, files.key, files.crl) if each]
        stats = [path.stat() for path in paths]
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)

    def _build(self) -> tuple[ssl.SSLContext, frozenset[int]]:
        files = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = self._class
        revoked = frozenset[int]()
        used = f"cert {files.cert} and key {files.key}"
        try:
            context.load_cert_chain(files.cert, files.key)
            used = f"ca {files.ca}"
            context.load_verify_locations(cafile=files.ca)
            if files.crl is not None:
                used = f"crl {files.crl}"
                listed = x509.load_pem_x509_crl(files.crl.read_bytes())
                revoked = frozenset(entry.serial_number for entry in listed)
                context.load_verify_locations(cafile=files.crl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except (OSError, ValueError) as error:
            raise DoorError(f"[api.tls] {used} cannot be used: {_words(error)}") from None
        return context, revoked


def _telling(tell: Tell) -> type[ssl.SSLObject]:
    """A handshake that tells its peer why it fails, and us where it was for the certificate.

    OpenSSL writes the alert into its buffer and raises; asyncio then closes without sending it, so
    a person would see a closed connection and nobody would know of whose certificate. Here the
    error waits until asyncio has sent the buffer, which "wants more to read" makes it do.
    """

    class Telling(ssl.SSLObject):
        _failure: ssl.SSLError | None = None

        def do_handshake(self) -> None:
            if self._failure is not None:
                raise self._failure
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLSyscallError):
                raise
            except ssl.SSLError as error:
                self._failure = error
                reason = getattr(error, "verify_message", "") or error.reason or ""
                # The rest is scanners and other protocols: nobody has tried to come in as anybody.
                if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in reason:
                    tell(_code(reason))
                raise ssl.SSLWantReadError from error

    return Telling


def _code(reason: str) -> str:
    """OpenSSL's words, which are a closed set, as a leaf's code."""
    return re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:64] or "unknown"


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        known = {
            "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
            "NO_CERTIFICATE_OR_CRL_FOUND": "there is no PEM block in it",
            "NO_START_LINE": "there is no PEM block in it",
            "PEM_LIB": "there is no PEM block in it, or the file is damaged",
        }
        return known.get(error.reason, error.reason.lower().replace("_", " "))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
