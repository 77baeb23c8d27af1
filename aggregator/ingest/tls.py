"""Certificate files in, a TLS context out that asks every client for a certificate and follows
the files as they change: a new revocation list or a renewed certificate needs no restart.

The context is swapped within the handshake (the server-name callback runs in every handshake), as
OpenSSL keeps an old revocation list beside a new one of the same second. Sessions cannot be
resumed, because a resumed session would not look at the list.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from cryptography import x509

log = logging.getLogger(__name__)

REPEAT_S: Final = 60.0
"""A collector tries again at least once a minute; a port scan must not fill the log."""


class TlsError(RuntimeError):
    """The certificate files cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """ca: certificates that clients must come from. cert, key: this server's. crl: optional
    revocation list; without one a lost router's certificate stays valid until it expires."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


class Telling(ssl.SSLObject):
    """A handshake that tells its peer why it fails, and the log once a minute for each reason.

    OpenSSL writes the alert into its buffer and raises; asyncio then closes without sending it, so
    a collector would see a closed connection and nobody would know of whose certificate. Here the
    error waits until asyncio has sent the buffer, which "wants more to read" makes it do.
    """

    _failure: ssl.SSLError | None = None
    _told: ClassVar[dict[str, float]] = {}
    """When each reason was logged; OpenSSL has a few hundred, and only it names them."""

    def do_handshake(self) -> None:
        """One step of the handshake; see the class."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            self._tell(getattr(error, "verify_message", "") or error.reason or "no reason given")
            raise ssl.SSLWantReadError from error

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._told.get(reason, -REPEAT_S) >= REPEAT_S:
            self._told[reason] = now
            log.warning(
                "a client was refused in its TLS handshake: %s; if it is a collector, enrol it"
                " again (tallyhold appliance enrol)",
                reason,
            )


class TlsGate:
    """Makes the context, and makes it anew when a file has changed."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._current: ssl.SSLContext | None = None
        self._revoked: frozenset[int] = frozenset()

    def context(self) -> ssl.SSLContext:
        """The context to listen with; raises TlsError in plain words."""
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
            except (TlsError, OSError) as error:
                if self._current is None:
                    raise TlsError(str(error)) from None
                log.error("certificate files changed but cannot be used: %s", error)
            return self._current

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        paths = [self.files.ca, self.files.cert, self.files.key]
        paths += [self.files.crl] if self.files.crl else []
        stats = [path.stat() for path in paths]
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)

    def _build(self) -> tuple[ssl.SSLContext, frozenset[int]]:
        files = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = Telling
        try:
            context.load_cert_chain(files.cert, files.key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(
                f"[tls] cert {files.cert} and key {files.key} cannot be used: {_words(error)}"
            ) from None
        try:
            context.load_verify_locations(cafile=files.ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"[tls] ca {files.ca} cannot be used: {_words(error)}") from None
        if files.crl is None:
            return context, frozenset()
        try:
            revocations = x509.load_pem_x509_crl(files.crl.read_bytes())
            context.load_verify_locations(cafile=files.crl)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise TlsError(f"[tls] crl {files.crl} cannot be used: {_words(error)}") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context, frozenset(entry.serial_number for entry in revocations)


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
