"""Addresses as sixteen bytes: IPv6 as it is, IPv4 mapped (RFC 4291 section 2.5.5.2)."""

from __future__ import annotations

import ipaddress
from typing import Final

MAPPED: Final = b"\x00" * 10 + b"\xff\xff"
"""Prefix of an IPv4 address in sixteen bytes."""


def pack(address: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Sixteen bytes of an address; raises ValueError for text that is none."""
    parsed = ipaddress.ip_address(address)
    return MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


def unpack(address: bytes) -> str:
    """The usual text of sixteen bytes: dotted for mapped IPv4, RFC 5952 for IPv6."""
    if len(address) != 16:
        raise ValueError(f"an address has 16 bytes, not {len(address)}")
    if address[:12] == MAPPED:
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))


def network(address: bytes, prefix_len: int) -> bytes:
    """The base of the prefix of `prefix_len` (0 to 128) bits that holds `address`."""
    if not 0 <= prefix_len <= 128:
        raise ValueError(f"a prefix length is 0 to 128, not {prefix_len}")
    shift = 128 - prefix_len
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(16, "big")
