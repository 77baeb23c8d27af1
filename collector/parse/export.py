"""Flow exports: turns one datagram of NetFlow v5, v9 or IPFIX into its header and its sets.

NetFlow v5 as Cisco published it, RFC 3954 (v9), RFC 7011 (IPFIX). What the records in a set mean a
template says, which came earlier (`export_records`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.parse.reader import ParseError

V5, V9, IPFIX = 5, 9, 10

MAX_V5_RECORDS: Final = 30
V5_RECORD_BYTES: Final = 48
MIN_DATA_SET: Final = 256
"""Sets from this id on hold data (RFC 3954 section 5.1, RFC 7011 section 3.4.3)."""
MAX_FIELDS: Final = 128
"""Fields of a template; hardware exports thirty."""
MAX_RECORD_BYTES: Final = 65_535
VARIABLE: Final = 0xFFFF
"""Length of a field whose records say their own (RFC 7011 section 7)."""

_V5: Final = struct.Struct(">HHIIIIBBH")
_V9: Final = struct.Struct(">HHIIII")
_IPFIX: Final = struct.Struct(">HHIII")
_PAIR: Final = struct.Struct(">HH")


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram. `domain`: source id or observation domain, by which templates and sequences are
    kept. `sequence` counts flows (v5), datagrams (v9) or data records (IPFIX), of which
    `records` says how many are here where that is known without templates (v5), else 0.

    uptime_ms: of the exporter, 0 with IPFIX, which has none. exported_ns: the exporter's clock.
    sampling: one of so many packets was looked at; 1 for all. sets: (id, its bytes).
    """

    version: int
    domain: int
    sequence: int
    exported_ns: int
    uptime_ms: int
    sampling: int
    records: int
    sets: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Template:
    """How records of one set are laid out: (element, bytes) of each field in order.

    An element is its number, above 16 bits the enterprise whose it is. `scope`: how many of the
    fields name what an options record is about; 0 for a template of flows.
    """

    fields: tuple[tuple[int, int], ...]
    scope: int = 0

    @property
    def is_fixed(self) -> bool:
        return all(size != VARIABLE for _, size in self.fields)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record, at least those of a variable one."""
        return sum(1 if size == VARIABLE else size for _, size in self.fields)


def parse(data: bytes) -> Message:
    """The message of a datagram; raises ParseError where its lengths contradict each other."""
    if len(data) < 2:
        raise ParseError("truncated")
    version = int.from_bytes(data[:2], "big")
    if version == V5:
        return _parse5(data)
    if version == V9:
        if len(data) < _V9.size:
            raise ParseError("truncated")
        _, _, uptime, seconds, sequence, domain = _V9.unpack_from(data)
        # The count in the header is of records and templates, which exporters get wrong: the
        # lengths of the sets decide.
        sets = _sets(data, _V9.size, len(data))
        return Message(V9, domain, sequence, seconds * 10**9, uptime, 1, 0, sets)
    if version == IPFIX:
        if len(data) < _IPFIX.size:
            raise ParseError("truncated")
        _, length, seconds, sequence, domain = _IPFIX.unpack_from(data)
        if not _IPFIX.size <= length <= len(data):
            raise ParseError("length")
        sets = _sets(data, _IPFIX.size, length)
        return Message(IPFIX, domain, sequence, seconds * 10**9, 0, 1, 0, sets)
    raise ParseError("version")


def _parse5(data: bytes) -> Message:
    if len(data) < _V5.size:
        raise ParseError("truncated")
    _, count, uptime, seconds, rest_ns, sequence, kind, engine, sampling = _V5.unpack_from(data)
    if not 0 < count <= MAX_V5_RECORDS or rest_ns >= 10**9:
        raise ParseError("length")
    if len(data) < _V5.size + count * V5_RECORD_BYTES:
        raise ParseError("truncated")
    records = data[_V5.size : _V5.size + count * V5_RECORD_BYTES]
    exported = seconds * 10**9 + rest_ns
    # The upper two bits are the mode, the others the interval; 0 where nothing is sampled.
    interval = max(1, sampling & 0x3FFF)
    domain = kind << 8 | engine
    return Message(V5, domain, sequence, exported, uptime, interval, count, ((V5, records),))


def _sets(data: bytes, at: int, end: int) -> tuple[tuple[int, bytes], ...]:
    """(id, content) of every set (RFC 7011 section 3.3.2)."""
    found = []
    while end - at >= _PAIR.size:
        kind, length = _PAIR.unpack_from(data, at)
        if length < _PAIR.size or at + length > end:
            raise ParseError("set-length")
        found.append((kind, data[at + _PAIR.size : at + length]))
        at += length
    return tuple(found)


def templates(version: int, kind: int, data: bytes) -> dict[int, Template | None]:
    """The templates of a template set by id; None withdraws one (RFC 7011 section 8.1).

    Raises ParseError for what is cut short or names no field.
    """
    if version == V9:
        return _options9(data) if kind == 1 else _templates(data, False, False)
    return _templates(data, True, kind == 3)


def is_template_set(version: int, kind: int) -> bool:
    """Whether a set holds templates: 0 and 1 with v9, 2 and 3 with IPFIX."""
    return kind in ((0, 1) if version == V9 else (2, 3) if version == IPFIX else ())


def _templates(data: bytes, ipfix: bool, options: bool) -> dict[int, Template | None]:
    found: dict[int, Template | None] = {}
    at = 0
    while len(data) - at >= _PAIR.size:
        kind, count = _PAIR.unpack_from(data, at)
        at += _PAIR.size
        if kind < MIN_DATA_SET:
            if any(data[at - _PAIR.size :]):
                raise ParseError("template-id")
            break  # padding
        if not count:
            found[kind] = None
            continue
        scope = 0
        if options:
            if len(data) - at < 2:
                raise ParseError("truncated")
            scope = int.from_bytes(data[at : at + 2], "big")
            at += 2
        fields, at = _fields(data, at, count, ipfix)
        if scope > count or (options and not scope):
            raise ParseError("template-scope")
        found[kind] = _checked(Template(fields, scope))
    return found


def _options9(data: bytes) -> dict[int, Template | None]:
    """Options templates of v9 (RFC 3954 section 6.1), whose counts are in bytes."""
    found: dict[int, Template | None] = {}
    at = 0
    while len(data) - at >= 6:
        kind, scope, more = struct.unpack_from(">HHH", data, at)
        at += 6
        if kind < MIN_DATA_SET:
            break
        if scope % 4 or more % 4:
            raise ParseError("template-scope")
        fields, at = _fields(data, at, (scope + more) // 4, False)
        # The numbers of scopes are none of information elements; nothing of them is wanted.
        fields = tuple((0, size) for _, size in fields[: scope // 4]) + fields[scope // 4 :]
        found[kind] = _checked(Template(fields, max(1, scope // 4)))
    return found


def _fields(
    data: bytes, at: int, count: int, ipfix: bool
) -> tuple[tuple[tuple[int, int], ...], int]:
    """So many field specifiers from `at` on, and where they end (RFC 7011 section 3.2)."""
    if count > MAX_FIELDS:
        raise ParseError("template-fields")
    found = []
    for _ in range(count):
        if len(data) - at < _PAIR.size:
            raise ParseError("truncated")
        element, size = _PAIR.unpack_from(data, at)
        at += _PAIR.size
        if ipfix and element & 0x8000:
            if len(data) - at < 4:
                raise ParseError("truncated")
            element = int.from_bytes(data[at : at + 4], "big") << 16 | element & 0x7FFF
            at += 4
        found.append((element, size))
    return tuple(found), at


def _checked(template: Template) -> Template:
    if not 0 < template.record_bytes <= MAX_RECORD_BYTES:
        raise ParseError("template-bytes")
    return template
