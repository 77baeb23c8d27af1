"""Which ports each protocol is looked for on, by the capture filter and by the observer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_PORTS: Final = 16
"""Ports a protocol: the capture filter tests them one by one."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on which each protocol is looked for; an empty tuple switches it off.

    Raises ValueError for more than MAX_PORTS of a protocol, or for what is no port.
    """

    dns: tuple[int, ...] = (53,)
    tls: tuple[int, ...] = (443,)
    http: tuple[int, ...] = (80,)
    quic: tuple[int, ...] = (443,)
    radius: tuple[int, ...] = (1812, 1813, 3799)
    sip: tuple[int, ...] = (5060, 5061)
    """Both of RFC 3261 section 19.1.2: on the second, signalling over TLS is counted as blind."""
    dhcp: tuple[int, ...] = (67, 68, 546, 547)
    exports: tuple[int, ...] = ()
    """Of NetFlow and IPFIX, in captures; live ones come to a socket of their own."""

    def __post_init__(self) -> None:
        for name in ("dns", "tls", "http", "quic", "radius", "sip", "dhcp", "exports"):
            ports = getattr(self, name)
            if len(ports) > MAX_PORTS:
                raise ValueError(f"{name}: {len(ports)} ports, at most {MAX_PORTS}")
            if any(not 0 < port < 65_536 for port in ports):
                raise ValueError(f"{name}: ports are 1 to 65535")
