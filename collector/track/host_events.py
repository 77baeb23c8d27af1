"""What the observer saw of host names: handshakes that name one, and DNS answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A host named by a client's handshake or request on one connection.

    `port`: what a handshake wrote after the name, with its colon, where it did.
    """

    ts_ns: int
    evidence: Literal["tls", "quic", "http"]
    client: bytes
    server: bytes
    protocol: int
    client_port: int
    server_port: int
    host: str
    ech: bool
    port: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A DNS answer: `server` is the resolver, `host` the name asked, `addresses` where it led."""

    ts_ns: int
    client: bytes
    server: bytes
    host: str
    addresses: tuple[bytes, ...]
