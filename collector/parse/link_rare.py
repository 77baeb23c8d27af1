"""Link types that only captures to be replayed come in, into the IP packet of a frame.

Numbers are those of pcap (LINKTYPE_ values of tcpdump.org). Headers that software wrote are in the
byte order of the capturing host, which is taken to be little-endian.
"""

from __future__ import annotations

import struct
from typing import Final

from collector.parse.link_layers import (
    TRANSPARENT_ETHERNET,
    Inside,
    by_version,
    layers,
    mpls,
    ppp,
    pppoe,
)
from collector.parse.reader import ParseError

_IP_AFTER: Final = {0: 4, 108: 4, 12: 0, 14: 0, 109: 12, 228: 0, 229: 0}
"""Bytes before the IP header, whose version says which it is: BSD loopback (its family number is
in the host's order and numbering), raw IP as several systems number it, OpenBSD's enc, and raw IP
of one version."""
_TYPE_AT: Final = {113: (14, 16), 276: (0, 20), 104: (2, 4)}
"""Where the ethertype stands and where its header ends: Linux cooked, its second version, and
Cisco HDLC."""
_PPP: Final = (9, 50)
_PPPOE: Final = 51
_MPLS: Final = 219
_ETHERNET: Final = 1
_MPACKET: Final = 274
_PREAMBLE: Final = 8
_NFLOG: Final = 239
_NFLOG_PAYLOAD: Final = 9
_MAX_ATTRIBUTES: Final = 64
_WIRELESS: Final = 105
_RADIOTAP: Final = 127
_PPI: Final = 192
_PKTAP: Final = 258

_LE16: Final = struct.Struct("<H")
_LE32: Final = struct.Struct("<I")
_BE16: Final = struct.Struct(">H")


def unwrap_rare(data: bytes, linktype: int) -> Inside:
    """As `collector.parse.link.unwrap`. Raises ParseError."""
    if linktype in _IP_AFTER:
        return by_version(data, _IP_AFTER[linktype])
    if linktype in _TYPE_AT:
        kind_at, header = _TYPE_AT[linktype]
        return layers(_read(_BE16, data, kind_at), data, header)
    if linktype in _PPP:
        return ppp(data, 0, len(data))
    if linktype == _PPPOE:
        return pppoe(data, 0)
    if linktype == _MPLS:
        return mpls(data, 0)
    if linktype == _MPACKET:
        return layers(TRANSPARENT_ETHERNET, data, _PREAMBLE)
    if linktype == _NFLOG:
        return _nflog(data)
    if linktype == _WIRELESS:
        return _wireless(data, 0)
    if linktype == _RADIOTAP:
        return _wireless(data, _read(_LE16, data, 2))
    if linktype in (_PPI, _PKTAP):
        return _announced(data, linktype)
    raise ParseError("linktype")


def _announced(data: bytes, linktype: int) -> Inside:
    """A header with its own length and the link type of what follows; none within another."""
    if linktype == _PPI:
        header, inner = _read(_LE16, data, 2), _read(_LE32, data, 4)
    else:
        header, inner = _read(_LE32, data, 0), _read(_LE32, data, 8)
    if inner in (_PPI, _PKTAP) or header > len(data):
        raise ParseError("linktype")
    rest = data[header:]
    if inner == _ETHERNET:
        return layers(TRANSPARENT_ETHERNET, rest, 0)
    return unwrap_rare(rest, inner)


def _nflog(data: bytes) -> Inside:
    """Attributes of a netfilter log (linux/nfnetlink_log.h), of which one is the packet."""
    at = 4
    for _ in range(_MAX_ATTRIBUTES):
        length, kind = _read(_LE16, data, at), _read(_LE16, data, at + 2)
        if length < 4 or at + length > len(data):
            raise ParseError("length")
        if kind == _NFLOG_PAYLOAD:
            return by_version(data[: at + length], at + 4)
        at += (length + 3) & ~3
        if at >= len(data):
            return None
    raise ParseError("nesting")


def _wireless(data: bytes, at: int) -> Inside:
    """A data frame of IEEE 802.11 (section 9.2) in the clear; LLC and SNAP follow its header."""
    control = _read(_LE16, data, at)
    kind, subtype = control >> 2 & 0x3, control >> 4 & 0xF
    if kind != 2 or subtype & 0x4 or control & 0x4000:  # not data, without a body, or encrypted
        return None
    header = at + (30 if control & 0x0300 == 0x0300 else 24)
    if subtype & 0x8:
        if _read(_LE16, data, header) & 0x80:
            return None  # several frames in one
        header += 6 if control & 0x8000 else 2
    return layers(0, data, header)


def _read(form: struct.Struct, data: bytes, at: int) -> int:
    if at + form.size > len(data):
        raise ParseError("truncated")
    value: int = form.unpack_from(data, at)[0]
    return value
