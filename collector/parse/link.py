"""Link layer: turns a captured frame into the IP packet inside its encapsulations.

VLAN and QinQ (IEEE 802.1Q), PPPoE sessions (RFC 2516) and MPLS (RFC 3032) are taken off, because
an edge router may be tapped on the parent device, where all of them are still on the wire.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.parse.reader import ParseError

LINK_ETHERNET: Final = 1
LINK_RAW: Final = 101
"""Link types as pcap numbers them: Ethernet frames, and packets that begin with their IP header."""

_LINK_NULL: Final = 0
_LINK_PPP: Final = 9
_LINK_RAW_BSD: Final = 12
_LINK_COOKED: Final = 113
_LINK_COOKED2: Final = 276
"""Other link types that captures to be replayed come in; live capture gives only the two above."""

IPV4: Final = 0x0800
IPV6: Final = 0x86DD

_VLANS: Final = frozenset((0x8100, 0x88A8, 0x9100))
"""802.1Q, 802.1ad, and the number QinQ had before it was standardised."""
_PPPOE_SESSION: Final = 0x8864
_MPLS: Final = frozenset((0x8847, 0x8848))
_PPP_IPV4: Final = 0x0021
_PPP_IPV6: Final = 0x0057

_MAX_LAYERS: Final = 8
"""Deepest nesting read. Two VLAN tags, PPPoE and a few MPLS labels are what access networks stack;
more is a loop or an attack."""

_U16: Final = struct.Struct(">H")
_PPPOE: Final = struct.Struct(">BBHH")


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame.

    `ts_ns` is the capture time, `interface` the kernel's interface index, and `outgoing` is true
    where the router itself sent the frame (PACKET_OUTGOING).
    """

    ts_ns: int
    data: bytes
    linktype: int
    interface: int
    outgoing: bool


def unwrap(frame_data: bytes, linktype: int) -> tuple[int, bytes] | None:
    """The ethertype (IPV4 or IPV6) and the IP packet of a frame; None where it carries no IP.

    The packet may still have Ethernet padding after it. Raises ParseError for a frame that is cut
    short, nests too deeply, or has a link type not known here.
    """
    if linktype == LINK_ETHERNET:
        if len(frame_data) < 14:
            raise ParseError("truncated")
        kind: int = _U16.unpack_from(frame_data, 12)[0]
        if kind in (IPV4, IPV6):
            return kind, frame_data[14:]
        return _unwrap(kind, frame_data, 14)
    if linktype in (LINK_RAW, _LINK_RAW_BSD):
        return _by_version(frame_data, 0)
    return _unwrap_rare(frame_data, linktype)


def _unwrap_rare(data: bytes, linktype: int) -> tuple[int, bytes] | None:
    """Frames of link types met only in replayed captures."""
    if linktype == _LINK_NULL:
        # The family is in the capturing host's byte order and numbering; the version is not.
        return _by_version(data, 4)
    if linktype == _LINK_PPP:
        return _ppp(data, 2 if data[:2] == b"\xff\x03" else 0, len(data))
    if linktype == _LINK_COOKED:
        protocol, header = 14, 16
    elif linktype == _LINK_COOKED2:
        protocol, header = 0, 20
    else:
        raise ParseError("linktype")
    if len(data) < header:
        raise ParseError("truncated")
    return _unwrap(_U16.unpack_from(data, protocol)[0], data, header)


def _unwrap(kind: int, data: bytes, at: int) -> tuple[int, bytes] | None:
    """Takes encapsulations off; `kind` is the ethertype of what begins at `at`."""
    for _ in range(_MAX_LAYERS):
        if kind in (IPV4, IPV6):
            return kind, data[at:]
        if kind in _VLANS:
            if len(data) < at + 4:
                raise ParseError("truncated")
            kind = _U16.unpack_from(data, at + 2)[0]
            at += 4
        elif kind == _PPPOE_SESSION:
            return _pppoe(data, at)
        elif kind in _MPLS:
            return _mpls(data, at)
        else:
            return None
    raise ParseError("nesting")


def _pppoe(data: bytes, at: int) -> tuple[int, bytes] | None:
    """A PPPoE session frame (RFC 2516 section 4); its own length cuts the padding off."""
    if len(data) < at + 8:
        raise ParseError("truncated")
    version_type, code, _session, length = _PPPOE.unpack_from(data, at)
    if version_type != 0x11 or code != 0:
        raise ParseError("pppoe")
    end = at + 6 + length
    if end > len(data):
        raise ParseError("truncated")
    return _ppp(data, at + 6, end)


def _ppp(data: bytes, at: int, end: int) -> tuple[int, bytes] | None:
    """A PPP frame from its protocol field on (RFC 1661 section 2).

    An odd first octet is the whole field: the peers compressed it (section 6.5), which RFC 2516
    advises against for PPPoE but which is seen there.
    """
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


def _mpls(data: bytes, at: int) -> tuple[int, bytes] | None:
    """An MPLS label stack (RFC 3032); what follows it says what it is only by its first nibble."""
    for _ in range(_MAX_LAYERS):
        if len(data) < at + 4:
            raise ParseError("truncated")
        at += 4
        if data[at - 2] & 0x01:
            return _by_version(data, at)
    raise ParseError("nesting")


def _by_version(data: bytes, at: int) -> tuple[int, bytes] | None:
    """What begins at `at`, by its IP version; None for anything else (a pseudowire, say)."""
    if len(data) <= at:
        raise ParseError("truncated")
    version = data[at] >> 4
    if version == 4:
        return IPV4, data[at:] if at else data
    if version == 6:
        return IPV6, data[at:] if at else data
    return None
