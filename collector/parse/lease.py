"""What a DHCP message says of an address: the one event of DHCPv4 and DHCPv6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.parse.plain import Plain

Grant = tuple[bytes, int, int]
"""Base address in sixteen bytes, prefix length in 128 bits, seconds for which it is given."""

FOREVER_S: Final = 0xFFFF_FFFF
"""A lifetime without end (RFC 2131 section 3.3, RFC 8415 section 7.7)."""
MAX_GRANTS: Final = 16
"""Addresses and prefixes read from a message. A home router asks for one of each; a message of
1,500 bytes could name fifty."""


@dataclass(frozen=True, slots=True)
class Lease(Plain):
    """One message between a client and a server, or a relay between them.

    family: 4 or 6. kind: the message type in the words of RFC 2131 and RFC 8415, as "ACK" or
    "REPLY". client: the hardware address or DUID as hex, with the family's own meaning. mac: twelve
    hex digits where known. names: what the access network calls the line, the most exact first:
    circuit or interface, remote id, subscriber id. addresses, prefixes: what an answer grants, or
    what a Release or Decline gives back. requested: the IPv4 address a client asks for or holds.
    subscriber: of the line; filled in by whoever knows, before the event is journalled.
    """

    ts_ns: int
    family: int
    kind: str
    xid: int
    client: str
    mac: str = ""
    names: tuple[str, ...] = ()
    addresses: tuple[Grant, ...] = ()
    prefixes: tuple[Grant, ...] = ()
    requested: bytes | None = None
    server: str = ""
    subscriber: str = ""


def name(value: bytes) -> str:
    """An identifier of the access network: text where it is printable, else hex."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return "0x" + value.hex()
    return text if text.isprintable() else "0x" + value.hex()
