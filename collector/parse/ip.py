"""IP: turns an IPv4 or IPv6 packet into a `Packet` with its ports and payload, or a `Fragment`.

Checksums are not verified: offloads leave them wrong on the sending host, and the router drops a
packet whose header checksum is bad before it forwards it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.parse.link import IPV4, IPV6
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

TCP: Final = 6
UDP: Final = 17

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
"""TCP flags as they stand in `Packet.flags` (RFC 9293 section 3.1)."""

MAX_DATAGRAM_BYTES: Final = 65_535
"""Longest payload of a reassembled datagram: the 16-bit length of both versions."""

_MAX_EXTENSIONS: Final = 8
"""IPv6 extension headers read. RFC 8200 section 4.1 recommends at most seven in one packet."""

_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_NO_NEXT_HEADER: Final = 59
_DESTINATION: Final = 60
_EXTENSIONS: Final = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION, 135, 139, 140))
"""Headers of the common form of RFC 6564: next header, length in 8 octets without the first 8."""

_V4: Final = struct.Struct(">BxHHHxBxxII")
_MAPPED_V4: Final = struct.Struct(">12sI")
"""Addresses are numbers on their way: glibc overwrites what is freed (`hygiene.ENVIRONMENT`) except
the last eight bytes of a chunk, in which four bytes of their own would stand and stay."""
_V6: Final = struct.Struct(">BxxxHBx16s16s")
_TCP: Final = struct.Struct(">HHIxxxxBB")
_UDP: Final = struct.Struct(">HHH")
_FRAGMENT_HEADER: Final = struct.Struct(">BxHI")


@dataclass(frozen=True, slots=True)
class Packet:
    """One transport packet. Addresses are 16 bytes, IPv4 mapped.

    `payload` is what follows the TCP or UDP header; for other protocols the ports are 0 and it is
    everything after the IP header. `seq` and `flags` are TCP's, else 0.
    """

    ts_ns: int
    src: bytes
    dst: bytes
    proto: int
    sport: int
    dport: int
    payload: bytes
    seq: int
    flags: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """One fragment of a datagram; `offset` counts bytes of the part that was cut up.

    `proto` is the IPv4 protocol, or the next header named by the IPv6 fragment header, which may
    still be an extension header. `more` is false on the last fragment.
    """

    ts_ns: int
    src: bytes
    dst: bytes
    proto: int
    ident: int
    offset: int
    more: bool
    data: bytes


def parse(ts_ns: int, ethertype: int, data: bytes) -> Packet | Fragment | None:
    """The packet that begins `data`; bytes after its own length (Ethernet padding) are ignored.

    None where nothing is carried (IPv6 "no next header") or `ethertype` is not IP. Raises
    ParseError for a packet that is cut short or contradicts itself.
    """
    if ethertype == IPV4:
        return _parse4(ts_ns, data)
    if ethertype == IPV6:
        return _parse6(ts_ns, data)
    return None


def _parse4(ts_ns: int, data: bytes) -> Packet | Fragment | None:
    """RFC 791 section 3.1."""
    if len(data) < 20:
        raise ParseError("truncated")
    first, total, ident, cut, proto, from_, to = _V4.unpack_from(data)
    if first >> 4 != 4:
        raise ParseError("version")
    header = (first & 0x0F) * 4
    if total == 0:
        # Segmentation offload writes 0 where a packet exceeds 65,535 bytes (Linux BIG TCP).
        total = len(data)
    if header < 20 or total < header:
        raise ParseError("length")
    if total > len(data):
        raise ParseError("truncated")
    src, dst = _MAPPED_V4.pack(MAPPED, from_), _MAPPED_V4.pack(MAPPED, to)
    if cut & 0x3FFF:
        more = bool(cut & 0x2000)
        return _fragment(
            ts_ns, src, dst, proto, ident, (cut & 0x1FFF) * 8, more, data[header:total]
        )
    return transport(ts_ns, src, dst, proto, data, header, total)


def _parse6(ts_ns: int, data: bytes) -> Packet | Fragment | None:
    """RFC 8200 section 3."""
    if len(data) < 40:
        raise ParseError("truncated")
    first, length, proto, src, dst = _V6.unpack_from(data)
    if first >> 4 != 6:
        raise ParseError("version")
    if src[:12] == MAPPED or dst[:12] == MAPPED:
        # Mapped addresses never stand on a wire (RFC 4291 section 2.5.5.2). Here they mean IPv4,
        # so letting one in would let a subscriber write evidence in the name of another.
        raise ParseError("mapped")
    # Length 0 is a jumbogram (RFC 2675) or, again, segmentation offload.
    end = 40 + length if length or proto != _HOP_BY_HOP else len(data)
    if end > len(data):
        raise ParseError("truncated")
    return _upper6(ts_ns, src, dst, proto, data, 40, end)


def _upper6(
    ts_ns: int, src: bytes, dst: bytes, proto: int, data: bytes, at: int, end: int
) -> Packet | Fragment | None:
    """Walks the extension headers from `at` on to the transport header."""
    for _ in range(_MAX_EXTENSIONS + 1):
        if proto in (UDP, TCP):
            return transport(ts_ns, src, dst, proto, data, at, end)
        if proto == _NO_NEXT_HEADER:
            return None
        if proto in _EXTENSIONS or proto == _AUTHENTICATION:
            if end - at < 8:
                raise ParseError("truncated")
            # The authentication header counts in 4 octets (RFC 4302 section 2.2).
            unit, extra = (4, 8) if proto == _AUTHENTICATION else (8, 8)
            proto, at = data[at], at + data[at + 1] * unit + extra
            if at > end:
                raise ParseError("truncated")
        elif proto == _FRAGMENT:
            if end - at < 8:
                raise ParseError("truncated")
            proto, cut, ident = _FRAGMENT_HEADER.unpack_from(data, at)
            at += 8
            if cut & 0xFFF9:
                more = bool(cut & 1)
                part = data[at:end]
                return _fragment(ts_ns, src, dst, proto, ident, cut & 0xFFF8, more, part)
            # Offset 0 and no more: an atomic fragment is a whole packet (RFC 6946).
        else:
            return transport(ts_ns, src, dst, proto, data, at, end)
    raise ParseError("nesting")


def _fragment(
    ts_ns: int, src: bytes, dst: bytes, proto: int, ident: int, offset: int, more: bool, data: bytes
) -> Fragment:
    """A fragment whose arithmetic holds: RFC 791 section 3.2, RFC 8200 section 4.5."""
    if not data or (more and len(data) % 8) or offset + len(data) > MAX_DATAGRAM_BYTES:
        raise ParseError("fragment")
    return Fragment(ts_ns, src, dst, proto, ident, offset, more, data)


def reassembled(ts_ns: int, src: bytes, dst: bytes, proto: int, data: bytes) -> Packet | None:
    """The packet of a whole datagram put together from fragments; ParseError as for `parse`."""
    if src[:12] == MAPPED:
        return transport(ts_ns, src, dst, proto, data, 0, len(data))
    packet = _upper6(ts_ns, src, dst, proto, data, 0, len(data))
    if isinstance(packet, Fragment):
        # A fragment of a fragment: no sender makes it and RFC 8200 has no use for it.
        raise ParseError("nesting")
    return packet


def transport(
    ts_ns: int, src: bytes, dst: bytes, proto: int, data: bytes, at: int, end: int
) -> Packet:
    """The packet whose transport header begins at `at` and whose payload stops before `end`."""
    if proto == UDP:
        if end - at < 8:
            raise ParseError("truncated")
        sport, dport, length = _UDP.unpack_from(data, at)
        # Length 0 is a jumbogram's or an offload's; else the UDP length rules (RFC 768).
        if length:
            if length < 8 or at + length > end:
                raise ParseError("length")
            end = at + length
        return Packet(ts_ns, src, dst, UDP, sport, dport, data[at + 8 : end], 0, 0)
    if proto == TCP:
        if end - at < 20:
            raise ParseError("truncated")
        sport, dport, seq, offset, flags = _TCP.unpack_from(data, at)
        header = (offset >> 4) * 4
        if header < 20 or at + header > end:
            raise ParseError("length")
        return Packet(ts_ns, src, dst, TCP, sport, dport, data[at + header : end], seq, flags)
    return Packet(ts_ns, src, dst, proto, 0, 0, data[at:end], 0, 0)
