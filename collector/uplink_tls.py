"""Connection of the uplink: HTTPS with certificates on both sides, and a limit on everything.

http.client limits the time of one read, not of an answer, so a peer that sends a byte a minute
would hold the uplink for ever. Here every read and write looks at one deadline, at a budget of
bytes, and several times a second at whether the uplink is to stop.
"""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

from collector.wire.batch import MAX_RECEIPT_BYTES

T = TypeVar("T")

SLICE_S: Final = 0.2
"""How often a blocked read or write looks up: `stop` takes no longer than this."""
MAX_ANSWER_BYTES: Final = MAX_RECEIPT_BYTES + 32 * 1024
"""Largest answer with its headers."""
_VERIFY_WORDS: Final = {
    9: "the certificate of the aggregator is not valid yet: compare the clocks",
    10: "the certificate of the aggregator has expired",
    18: "the certificate of the aggregator is self-signed, from a CA this collector does not know",
    19: "the certificate of the aggregator is from a CA this collector does not know",
    20: "the certificate of the aggregator is from a CA this collector does not know",
    21: "the certificate of the aggregator is from a CA this collector does not know",
    3: "there is no revocation list for the CA of the aggregator",
    12: "the revocation list has expired",
    23: "the certificate of the aggregator has been revoked",
    62: "the certificate of the aggregator is for another name than the URL has",
    64: "the certificate of the aggregator is for another address than the URL has",
}
"""By X509_V_ERR_*, see openssl-verification-options(1)."""
_ENROL: Final = (
    "; batches are kept: run `tallyhold appliance enrol` there and install the files it writes"
)
_ALERT_WORDS: Final = {
    "UNKNOWN_CA": f"the aggregator does not know the CA of this collector's certificate{_ENROL}",
    "CERTIFICATE_REVOKED": (
        f"the aggregator says this collector's certificate has been revoked{_ENROL}"
    ),
    "CERTIFICATE_EXPIRED": f"the aggregator says this collector's certificate has expired{_ENROL}",
    "CERTIFICATE_UNKNOWN": "the aggregator does not accept this collector's certificate",
    "BAD_CERTIFICATE": "the aggregator does not accept this collector's certificate",
    "CERTIFICATE_REQUIRED": "the aggregator wants a certificate and got none",
    "ACCESS_DENIED": "the aggregator denies this collector access",
    "PROTOCOL_VERSION": "the aggregator speaks no TLS version that is allowed here",
    "HANDSHAKE_FAILURE": "the aggregator and this collector have no TLS settings in common",
    "KEY_VALUES_MISMATCH": "this collector's key does not belong to its certificate",
    "WRONG_VERSION_NUMBER": "what answers at this address does not speak TLS",
}
"""By the alert or error name of OpenSSL (RFC 8446 section 6.2)."""


_UNUSED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""What http.client wants of a connection that makes its own context from the files."""


class StoppedError(Exception):
    """The uplink is stopping; what was under way is given up."""


class OversizeError(OSError):
    """The answer is larger than any receipt."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of both sides' certificates, read anew for each connection so they can be rotated.

    ca: certificates that the aggregator's must come from. crl: optional revocation list (PEM).
    cert, key: this collector's own.
    """

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, names checked, both sides authenticated; raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=self.ca)
        if self.crl is not None:
            context.load_verify_locations(cafile=self.crl)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(self.cert, self.key, password=_no_password)
        context.set_alpn_protocols(["http/1.1"])
        context.sslsocket_class = _GuardedSocket
        return context


class Guard:
    """Deadline, budget and stop flag of what is under way."""

    def __init__(self, stop: Event, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stop = stop
        self._monotonic = monotonic
        self._deadline = 0.0
        self._budget = 0

    def allow(self, seconds: float) -> None:
        """Begin something that may take so long and be answered by MAX_ANSWER_BYTES."""
        self._deadline = self._monotonic() + seconds
        self._budget = MAX_ANSWER_BYTES

    def slice(self) -> float:
        """Seconds to block for; raises StoppedError, or TimeoutError after the deadline."""
        if self._stop.is_set():
            raise StoppedError
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, SLICE_S)

    def spend(self, count: int) -> None:
        """Count bytes received; raises OversizeError where they are too many."""
        self._budget -= count
        if self._budget < 0:
            raise OversizeError("the answer is too large")

    def patiently(self, sock: socket.socket, operation: Callable[[], T]) -> T:
        """Do what may block on `sock`, in slices."""
        while True:
            sock.settimeout(self.slice())
            try:
                return operation()
            except TimeoutError:
                continue


class _GuardedSocket(ssl.SSLSocket):
    guard: Guard | None = None

    def getpeername(self) -> Any:
        """The first thing that wrapping does, which leaks the socket of a peer that has gone."""
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        plain = super().recv_into
        if self.guard is None:
            return plain(buffer, nbytes, flags)
        count = self.guard.patiently(self, lambda: plain(buffer, nbytes, flags))
        self.guard.spend(count)
        return count

    def send(self, data: Any, flags: int = 0) -> int:
        plain = super().send
        if self.guard is None:
            return plain(data, flags)
        return self.guard.patiently(self, lambda: plain(data, flags))


class Connection(http.client.HTTPSConnection):
    """One connection to the aggregator; `guard.allow` before each use."""

    def __init__(self, host: str, port: int, identity: Identity, guard: Guard) -> None:
        super().__init__(host, port, context=_UNUSED)
        self._identity = identity
        self._guard = guard

    def connect(self) -> None:
        """Dial and shake hands; raises OSError (ssl.SSLError is one) or StoppedError."""
        raw = _dial(self.host, self.port, self._guard)
        try:
            # Not before: the files are 2 ms of work, which one that is away is not worth.
            sock = self._identity.context().wrap_socket(
                raw, server_hostname=self.host, do_handshake_on_connect=False
            )
        except BaseException:
            raw.close()
            raise
        try:
            self._guard.patiently(sock, sock.do_handshake)
        except BaseException:
            sock.close()
            raise
        if isinstance(sock, _GuardedSocket):
            sock.guard = self._guard
        self.sock = sock


def _dial(host: str, port: int, guard: Guard) -> socket.socket:
    """A connected TCP socket to the first address of the name that answers."""
    last_error: OSError = ConnectionError("the name has no address")
    for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect_ex(address)
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            while not poll.poll(guard.slice() * 1000):
                pass
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except OSError as error:
            sock.close()
            last_error = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last_error


def _no_password() -> str:
    raise OSError("the key file is encrypted; a service cannot ask for its password")


def explain(error: BaseException) -> str:
    """What went wrong, in words for an operator, without addresses or names of hosts."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = _VERIFY_WORDS.get(error.verify_code)
        return words or f"the certificate of the aggregator is not valid ({error.verify_code})"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the aggregator closed the connection"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no reason given"
        for name, words in _ALERT_WORDS.items():
            if name in reason:
                return words
        return f"TLS failed ({reason})"
    if isinstance(error, TimeoutError):
        return "the aggregator did not answer in time"
    if isinstance(error, OversizeError):
        return "the answer of the aggregator is too large to be a receipt"
    if isinstance(error, ConnectionRefusedError):
        return "the aggregator refused the connection: nothing listens there"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "the aggregator closed the connection"
    if isinstance(error, socket.gaierror):
        return "the name of the aggregator cannot be resolved"
    if isinstance(error, FileNotFoundError | PermissionError):
        return f"a certificate, key or CA file cannot be read ({error.strerror})"
    if isinstance(error, http.client.HTTPException):
        return f"the answer of the aggregator is not HTTP ({type(error).__name__})"
    if isinstance(error, OSError):
        return f"the aggregator cannot be reached ({error.strerror or error})"
    return f"unexpected {type(error).__name__}: {error}"
