"""Tunnels: turns a packet that carries another IP packet into the one inside.

By protocol number IPv4 and IPv6 in IP (RFC 2003, RFC 2473, RFC 4213), GRE (RFC 2784, RFC 2890), its
kind for PPTP (RFC 2637) and ERSPAN; by port VXLAN (RFC 7348), Geneve (RFC 8926), GTP-U (3GPP TS
29.281), L2TP (RFC 2661) and Teredo (RFC 4380). Who may be believed about what is inside is for the
caller: the inner source is whatever the sender of the outer one says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from collector.parse import ip
from collector.parse.ip import UDP, Fragment, Packet
from collector.parse.link_layers import (
    IPV4,
    IPV6,
    TRANSPARENT_ETHERNET,
    Inside,
    by_version,
    layers,
    ppp,
)
from collector.parse.reader import ParseError

MAX_DEPTH: Final = 2
"""Tunnels within tunnels that are opened: overlay and overlay; more is a loop or an attack."""
_INSIDE_IP: Final = {4: IPV4, 41: IPV6}
_GRE: Final = 47
_PPTP: Final = 0x880B
_ERSPAN: Final = 0x88BE
_ERSPAN3: Final = 0x22EB
_VALID_VNI: Final = 0x08
_USER_DATA: Final = 0xFF
_MAX_EXTENSIONS: Final = 8
_HH: Final = struct.Struct(">HH")


def inner_ip(packet: Packet) -> Packet | Fragment | None:
    """The packet inside a packet of a tunnel's protocol number; None for any other. Raises
    ParseError."""
    if packet.proto == _GRE:
        found = _gre(packet.payload)
        return ip.parse(packet.ts_ns, *found) if found else None
    kind = _INSIDE_IP.get(packet.proto)
    return ip.parse(packet.ts_ns, kind, packet.payload) if kind else None


def inner_udp(packet: Packet) -> Packet | Fragment | None:
    """The packet inside a datagram to a tunnel's port; None for any other, and where it is not what
    its port says, as a client may have picked that port for itself."""
    opener = _PORTS.get(packet.dport) if packet.proto == UDP else None
    if opener is None:
        return None
    try:
        found = opener(packet.payload)
        return ip.parse(packet.ts_ns, *found) if found else None
    except ParseError:
        return None


def _gre(data: bytes) -> Inside:
    """Optional fields stand in the order of the flags that announce them."""
    flags, kind = _head(data)
    version = flags & 0x07
    if version > 1 or flags & 0x4000:  # source routes were dropped by RFC 2784
        return None
    numbered = bool(flags & 0x1000)
    at = 4 + 4 * (bool(flags & 0x8000) + bool(flags & 0x2000) + numbered)
    if version == 1:
        at += 4 * bool(flags & 0x0080)
        return ppp(data, at, len(data)) if kind == _PPTP else None
    if kind == _ERSPAN:  # its first version has no header, and no number
        return layers(TRANSPARENT_ETHERNET, data, at + 8 * numbered)
    if kind == _ERSPAN3:
        optional = len(data) > at + 11 and data[at + 11] & 0x01
        return layers(TRANSPARENT_ETHERNET, data, at + (20 if optional else 12))
    return layers(kind, data, at)


def _vxlan(data: bytes) -> Inside:
    if len(data) < 8 or not data[0] & _VALID_VNI:
        raise ParseError("vxlan")
    return layers(TRANSPARENT_ETHERNET, data, 8)


def _geneve(data: bytes) -> Inside:
    if len(data) < 8 or data[0] & 0xC0:
        raise ParseError("geneve")
    return layers(_head(data)[1], data, 8 + 4 * (data[0] & 0x3F))


def _gtp(data: bytes) -> Inside:
    """Version 1, user data; the optional fields are there together, then extension headers."""
    if len(data) < 8 or data[0] & 0xF0 != 0x30 or data[1] != _USER_DATA:
        raise ParseError("gtp")
    at = 12 if data[0] & 0x07 else 8
    following = data[11] if data[0] & 0x04 and len(data) > 11 else 0
    for _ in range(_MAX_EXTENSIONS):
        if not following:
            return by_version(data, at)
        length = 4 * data[at] if at < len(data) else 0
        if not length or at + length > len(data):
            raise ParseError("gtp")
        following = data[at + length - 1]
        at += length
    raise ParseError("gtp")


def _l2tp(data: bytes) -> Inside:
    """A data message of version 2 (section 3.1)."""
    flags, _ = _head(data)
    if flags & 0x800F != 0x0002:
        return None
    at = 6 + 2 * bool(flags & 0x4000) + 4 * bool(flags & 0x0800)
    if flags & 0x0200:
        at += 2 + _head(data[at:])[0]
    return ppp(data, at, len(data))


def _teredo(data: bytes) -> Inside:
    """Authentication and origin indications may precede the packet (section 5.1.1)."""
    at = 0
    if data[:2] == b"\0\1":
        at = 13 + sum(data[2:4])
    if data[at : at + 2] == b"\0\0":
        at += 8
    found = by_version(data, at)
    return found if found and found[0] == IPV6 else None


_PORTS: Final[dict[int, Callable[[bytes], Inside]]] = {
    4789: _vxlan,
    8472: _vxlan,  # Linux, before the number was assigned
    6081: _geneve,
    2152: _gtp,
    1701: _l2tp,
    3544: _teredo,
}


def _head(data: bytes) -> tuple[int, int]:
    if len(data) < 4:
        raise ParseError("truncated")
    first, second = _HH.unpack_from(data)
    return first, second
