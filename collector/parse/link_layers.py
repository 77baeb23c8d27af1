"""Layers below IP: turns what follows a link header into the IP packet inside.

VLAN and QinQ (IEEE 802.1Q), PPPoE sessions (RFC 2516) and MPLS (RFC 3032) are taken off, because
an edge router may be tapped on the parent device, where all of them are still on the wire; the rest
is what switches add on the way to a mirror port. Every function gives the ethertype (IPV4 or IPV6)
and the packet, or None where no IP is carried, and raises ParseError.
"""

from __future__ import annotations

import struct
from typing import Final

from collector.parse.reader import ParseError

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
TRANSPARENT_ETHERNET: Final = 0x6558
"""An Ethernet frame inside GRE or Geneve (RFC 1701, RFC 8926 section 3.4)."""
MPLS: Final = frozenset((0x8847, 0x8848))

_TAGS: Final = {
    0x8100: 2,  # 802.1Q
    0x88A8: 2,  # 802.1ad
    0x9100: 2,  # the number QinQ had before it was standardised, and its second one
    0x9200: 2,
    0x8926: 4,  # Cisco VN-Tag
    0x893F: 6,  # E-TAG, 802.1BR
    0x8909: 6,  # Cisco MetaData
}
"""Bytes of a tag between its ethertype and the next."""
_FRAMES_INSIDE: Final = {
    TRANSPARENT_ETHERNET: 0,
    0x88E7: 4,  # I-TAG of provider backbone bridges, 802.1ah
    0x8903: 2,  # Cisco FabricPath
}
"""Bytes between an ethertype and the whole Ethernet frame that it announces."""
_PPPOE_SESSION: Final = 0x8864
_PPP_IPV4: Final = 0x0021
_PPP_IPV6: Final = 0x0057
_MAX_FRAME: Final = 1500
"""Below 1,536 an ethertype is a length, and LLC follows (IEEE 802.3 section 3.2.6)."""
_SNAP: Final = b"\xaa\xaa\x03\0\0\0"

_MAX_LAYERS: Final = 8
"""Deepest nesting read. Two VLAN tags, PPPoE and a few MPLS labels are what access networks stack;
more is a loop or an attack."""

_U16: Final = struct.Struct(">H")
_PPPOE: Final = struct.Struct(">BBHH")

Inside = tuple[int, bytes] | None


def layers(kind: int, data: bytes, at: int) -> Inside:
    """Takes encapsulations off; `kind` is the ethertype of what begins at `at`."""
    for _ in range(_MAX_LAYERS):
        if kind in (IPV4, IPV6):
            return kind, data[at:]
        if kind in _TAGS:
            at += _TAGS[kind]
            kind, at = _u16(data, at), at + 2
        elif kind == _PPPOE_SESSION:
            return pppoe(data, at)
        elif kind in MPLS:
            return mpls(data, at)
        elif kind in _FRAMES_INSIDE:
            at += _FRAMES_INSIDE[kind] + 12
            kind, at = _u16(data, at), at + 2
        elif kind <= _MAX_FRAME and data[at : at + 6] == _SNAP:
            kind, at = _u16(data, at + 6), at + 8
        else:
            return None
    raise ParseError("nesting")


def pppoe(data: bytes, at: int) -> Inside:
    """A PPPoE session frame (RFC 2516 section 4); its own length cuts the padding off."""
    if len(data) < at + 8:
        raise ParseError("truncated")
    version_type, code, _session, length = _PPPOE.unpack_from(data, at)
    if version_type != 0x11 or code != 0:
        raise ParseError("pppoe")
    end = at + 6 + length
    if end > len(data):
        raise ParseError("truncated")
    return ppp(data, at + 6, end)


def ppp(data: bytes, at: int, end: int) -> Inside:
    """A PPP frame (RFC 1661 section 2), with HDLC's address and control (RFC 1662) or without.

    An odd first octet is the whole protocol field: the peers compressed it (section 6.5), which
    RFC 2516 advises against for PPPoE but which is seen there.
    """
    if data[at : at + 2] == b"\xff\x03":
        at += 2
    if end <= at:
        raise ParseError("truncated")
    protocol = data[at]
    at += 1
    if not protocol & 1:
        if end <= at:
            raise ParseError("truncated")
        protocol = protocol << 8 | data[at]
        at += 1
    if protocol == _PPP_IPV4:
        return IPV4, data[at:end]
    if protocol == _PPP_IPV6:
        return IPV6, data[at:end]
    return None


def mpls(data: bytes, at: int) -> Inside:
    """An MPLS label stack (RFC 3032); what follows it says what it is only by its first nibble.

    That is 0 for the control word of a pseudowire (RFC 4385 section 3), in which Ethernet is read.
    """
    for _ in range(_MAX_LAYERS):
        if len(data) < at + 4:
            raise ParseError("truncated")
        at += 4
        if data[at - 2] & 0x01:
            if data[at : at + 1] < b"\x10":
                return layers(TRANSPARENT_ETHERNET, data, at + 4)
            return by_version(data, at)
    raise ParseError("nesting")


def by_version(data: bytes, at: int) -> Inside:
    """What begins at `at`, by its IP version; None for anything else."""
    if len(data) <= at:
        raise ParseError("truncated")
    version = data[at] >> 4
    if version == 4:
        return IPV4, data[at:] if at else data
    if version == 6:
        return IPV6, data[at:] if at else data
    return None


def _u16(data: bytes, at: int) -> int:
    if len(data) < at + 2:
        raise ParseError("truncated")
    value: int = _U16.unpack_from(data, at)[0]
    return value
