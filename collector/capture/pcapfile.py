"""A capture file's bytes in, packets out: pcap and pcapng in either byte order.

pcap: draft-ietf-opsawg-pcap section 4, in micro- and nanoseconds, and Linux's patched kind of
records with eight bytes more. pcapng: draft-ietf-opsawg-pcapng, several sections and interfaces,
each with its link type, resolution and offset of time; blocks that hold no packet are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple

MAX_PACKET_BYTES: Final = 262_144
"""Longest packet taken, libpcap's own limit (MAXIMUM_SNAPLEN)."""
MAX_BLOCK_BYTES: Final = 16 * 2**20
"""Longest block passed over: secrets and names have this order; a packet's is far below it."""
MAX_INTERFACES: Final = 4_096

_SECOND_NS: Final = 1_000_000_000
_MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000, 0),
    b"\xa1\xb2\xc3\xd4": (">", 1_000, 0),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 0),
    b"\xa1\xb2\x3c\x4d": (">", 1, 0),
    b"\x34\xcd\xb2\xa1": ("<", 1_000, 8),
    b"\xa1\xb2\xcd\x34": (">", 1_000, 8),
}
"""Byte order, nanoseconds of a record's fraction, and bytes of its header beyond 16."""
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_RESOLUTION, _OFFSET = 9, 14
_LINKTYPE: Final = 0xFFFF
"""What pcap's field holds above is of the frame check and no part of the type."""


class Damaged(ValueError):
    """What is read is no capture, or not a whole one."""


class Captured(NamedTuple):
    """One packet: nanoseconds UTC, link type, bytes as far as they were captured."""

    ts_ns: int
    linktype: int
    data: bytes


@dataclass(slots=True)
class _Interface:
    linktype: int
    snaplen: int
    ticks: int = 1_000_000
    """A second's."""
    offset_s: int = 0


@dataclass(slots=True)
class _Section:
    order: str
    interfaces: list[_Interface] = field(default_factory=list)
    last_ns: int = 0
    """Time of the packet before: a simple packet block has none of its own."""


def packets(file: BinaryIO) -> Iterator[Captured]:
    """The packets of a file, whose format its first bytes say.

    Raises Damaged: at once where that is no capture's, else after what precedes the damage.
    """
    magic = file.read(4)
    if magic == _SECTION:
        # Read before the first packet is asked for, so that what is no capture is told at once.
        section = _begin(file)
        return _blocks(file, section)
    if magic not in _MAGICS:
        raise Damaged("no capture begins so")
    order, fraction_ns, extra = _MAGICS[magic]
    header = _read(file, 20)
    (linktype,) = struct.unpack_from(f"{order}I", header, 16)
    return _records(file, order, fraction_ns, extra, linktype & _LINKTYPE)


def _records(
    file: BinaryIO, order: str, fraction_ns: int, extra: int, linktype: int
) -> Iterator[Captured]:
    form = struct.Struct(f"{order}IIII")
    while head := file.read(form.size + extra):
        if len(head) < form.size + extra:
            raise Damaged("a record cut short")
        seconds, fraction, length, _ = form.unpack_from(head)
        ts_ns = seconds * _SECOND_NS + fraction * fraction_ns
        yield Captured(ts_ns, linktype, _packet(file, length))


def _packet(file: BinaryIO, length: int) -> bytes:
    if length > MAX_PACKET_BYTES:
        raise Damaged("a packet longer than any")
    return _read(file, length)


def _blocks(file: BinaryIO, section: _Section) -> Iterator[Captured]:
    while kind := file.read(4):
        if kind == _SECTION:
            section = _begin(file)
            continue
        if len(kind) < 4:
            raise Damaged("a block cut short")
        (number,) = struct.unpack(f"{section.order}I", kind)
        body = _body(file, section.order)
        try:
            if number == _INTERFACE:
                _describe(section, body)
            elif number in (_PACKET, _SIMPLE, _ENHANCED):
                found = _PACKETS[number](section, body)
                section.last_ns = found.ts_ns
                yield found
        except (struct.error, IndexError):
            raise Damaged("a block that contradicts itself") from None


def _begin(file: BinaryIO) -> _Section:
    """A section header block after its type, which is the same in both byte orders."""
    head = _read(file, 8)
    order = "<" if head[4:] == b"\x4d\x3c\x2b\x1a" else ">"
    if order == ">" and head[4:] != b"\x1a\x2b\x3c\x4d":
        raise Damaged("a section in no byte order")
    (length,) = struct.unpack_from(f"{order}I", head)
    if not 28 <= length <= MAX_BLOCK_BYTES:
        raise Damaged("a block of no length")
    _read(file, length - 12)
    return _Section(order)


def _body(file: BinaryIO, order: str) -> bytes:
    """What stands between a block's two lengths, which must agree."""
    (length,) = struct.unpack(f"{order}I", _read(file, 4))
    if not 12 <= length <= MAX_BLOCK_BYTES:
        raise Damaged("a block of no length")
    body = _read(file, length - 8)
    if body[-4:] != struct.pack(f"{order}I", length):
        raise Damaged("a block of two lengths")
    return body[:-4]


def _describe(section: _Section, body: bytes) -> None:
    """An interface description block (section 4.2) with its options for time."""
    if len(section.interfaces) >= MAX_INTERFACES:
        raise Damaged("more interfaces than any file has")
    linktype, _, snaplen = struct.unpack_from(f"{section.order}HHI", body)
    interface = _Interface(linktype, snaplen)
    at = 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{section.order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == 0:
            break
        if code == _RESOLUTION:
            exponent = value[0]
            interface.ticks = 1 << (exponent & 0x7F) if exponent & 0x80 else 10**exponent
        elif code == _OFFSET:
            (interface.offset_s,) = struct.unpack(f"{section.order}q", value)
        at += 4 + (length + 3 & ~3)
    section.interfaces.append(interface)


def _enhanced(section: _Section, body: bytes) -> Captured:
    number, high, low, length, _ = struct.unpack_from(f"{section.order}IIIII", body)
    return _timed(section, number, high << 32 | low, body[20 : 20 + length], length)


def _obsolete(section: _Section, body: bytes) -> Captured:
    number, _, high, low, length, _ = struct.unpack_from(f"{section.order}HHIIII", body)
    return _timed(section, number, high << 32 | low, body[20 : 20 + length], length)


def _simple(section: _Section, body: bytes) -> Captured:
    (length,) = struct.unpack_from(f"{section.order}I", body)
    interface = section.interfaces[0]
    data = body[4 : 4 + min(length, interface.snaplen or length)]
    return Captured(section.last_ns, interface.linktype, data[:MAX_PACKET_BYTES])


def _timed(section: _Section, number: int, ticks: int, data: bytes, length: int) -> Captured:
    if len(data) < length or length > MAX_PACKET_BYTES:
        raise Damaged("a packet longer than its block")
    interface = section.interfaces[number]
    ts_ns = interface.offset_s * _SECOND_NS + ticks * _SECOND_NS // interface.ticks
    return Captured(ts_ns, interface.linktype, data)


_PACKETS: Final = {_PACKET: _obsolete, _SIMPLE: _simple, _ENHANCED: _enhanced}


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise Damaged("cut short")
    return data
