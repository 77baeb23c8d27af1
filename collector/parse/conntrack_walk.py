"""One raw nfnetlink conntrack message, attribute by attribute: where its fields are, what they say.

Layout: struct nlmsghdr and the attribute rules are those of RFC 3549 section 2.3 and
linux/netlink.h, the attributes those of linux/netfilter/nfnetlink_conntrack.h. Headers are in host
byte order, values big endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

NEW: Final = 1
"""`kind` of an event for a flow that began."""
UPDATE: Final = 2
"""`kind` of an event for a flow that changed."""
DESTROY: Final = 3
"""`kind` of an event for a flow that ended; it alone carries final counters and `stop_ns`."""
DUMP: Final = 4
"""`kind` of a row of a table dump."""

MAX_MESSAGE_BYTES: Final = 32 * 1024
"""Longest message. The kernel builds a dump in buffers of at most 32 KiB
(netlink_recvmsg, SKB_WITH_OVERHEAD(32768)), and a conntrack message is a few hundred bytes."""
MAX_ATTRIBUTES: Final = 256
"""Most attributes in a message. The kernel's longest conntrack message has about 60."""
COLUMNS: Final = np.dtype(
    [
        ("orig_src", "V16"),
        ("orig_dst", "V16"),
        ("reply_src", "V16"),
        ("reply_dst", "V16"),
        ("labels", "V16"),
        ("orig_bytes", "u8"),
        ("orig_packets", "u8"),
        ("reply_bytes", "u8"),
        ("reply_packets", "u8"),
        ("start_ns", "i8"),
        ("stop_ns", "i8"),
        ("id", "u4"),
        ("mark", "u4"),
        ("status", "u4"),
        ("orig_sport", "u2"),
        ("orig_dport", "u2"),
        ("reply_sport", "u2"),
        ("reply_dport", "u2"),
        ("zone", "u2"),
        ("protocol", "u1"),
        ("kind", "u1"),
        ("counted", "?"),
    ]
)
"""One row a message. Addresses are 16 bytes, IPv4 mapped. Ports are 0 for protocols without; for
ICMP and ICMPv6 `sport` is the query identifier and `dport` is type * 256 + code, as conntrack and
NetFlow keep them. Bytes count whole IP packets. `start_ns`, `stop_ns` are 0 where the message has
none (nf_conntrack_timestamp was off when the flow began, or it has not ended). `counted` is false
where it has no counters (nf_conntrack_acct was off when the flow began). A masqueraded flow's
public side is `reply_dst`, `reply_dport` (ICMP: `reply_sport`). `labels` are the 128 bits of
`ct label` as the kernel keeps them, in words of this host; the kernel puts them into dumps and NEW
events, not into DESTROY, and no record has a use for them, so that they end with the row."""

NLMSG_HEADER: Final = struct.Struct("=IHHII")
GENERIC_END: Final = 20
"""nlmsghdr of 16 bytes and nfgenmsg (family, version, res_id) of 4."""
NLM_F_MULTI: Final = 0x02
NLM_F_CREATE: Final = 0x400
TYPE_NEW: Final = 0x100
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW; events of NEW and UPDATE and rows of a dump."""
TYPE_DELETE: Final = 0x102
_NLA_TYPE_MASK: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_NLA_HEADER: Final = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """An attribute whose value is wanted: the field's name and its exact size in bytes."""

    name: str
    size: int


_Grammar = Mapping[int, "_Leaf | _Grammar"]


def _tuple_grammar(side: str, protocol: str) -> _Grammar:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY: CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE."""
    query, kind, code = (
        _Leaf(f"{side}_sport", 2),
        _Leaf(f"{side}_icmp_type", 1),
        _Leaf(f"{side}_icmp_code", 1),
    )
    return {
        1: {
            1: _Leaf(f"{side}_src", 4),
            2: _Leaf(f"{side}_dst", 4),
            3: _Leaf(f"{side}_src", 16),
            4: _Leaf(f"{side}_dst", 16),
        },
        2: {
            1: _Leaf(protocol, 1),
            2: query,
            3: _Leaf(f"{side}_dport", 2),
            **dict(enumerate((query, kind, code, query, kind, code), start=4)),
        },
        3: _Leaf(f"{side}_zone", 2),
    }


def _counter_grammar(side: str) -> _Grammar:
    return {1: _Leaf(f"{side}_packets", 8), 2: _Leaf(f"{side}_bytes", 8)}


_GRAMMAR: Final[_Grammar] = {
    1: _tuple_grammar("orig", "protocol"),
    2: _tuple_grammar("reply", "reply_protocol"),
    3: _Leaf("status", 4),
    8: _Leaf("mark", 4),
    9: _counter_grammar("orig"),
    10: _counter_grammar("reply"),
    12: _Leaf("id", 4),
    18: _Leaf("zone", 2),
    20: {1: _Leaf("start_ns", 8), 2: _Leaf("stop_ns", 8)},
    22: _Leaf("labels", 16),
}
ADDRESSES: Final = ("orig_src", "orig_dst", "reply_src", "reply_dst")
OPAQUE: Final = (*ADDRESSES, "labels")
"""Fields that are bytes and no numbers."""
_REQUIRED: Final = (*ADDRESSES, "protocol", "id")
COUNTERS: Final = ("orig_bytes", "orig_packets", "reply_bytes", "reply_packets")
PLAIN: Final = {
    **dict.fromkeys(COUNTERS, ">u8"),
    **dict.fromkeys(("start_ns", "stop_ns"), ">i8"),
    **dict.fromkeys(("id", "mark", "status"), ">u4"),
    **dict.fromkeys(("orig_sport", "orig_dport", "reply_sport", "reply_dport", "zone"), ">u2"),
    "protocol": "u1",
}
"""Fields that go to the column of the same name, with their format in the message."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in one message: offset and size of each field, offsets of all headers."""

    message_type: int
    fields: dict[str, tuple[int, int]]
    headers: tuple[int, ...]

    @property
    def zone(self) -> str:
        """The field that gives the zone: the flow's own, else that of one direction, or empty."""
        names = ("zone", "orig_zone", "reply_zone")
        return next((name for name in names if name in self.fields), "")


def layout_of(message: bytes | memoryview) -> Layout:
    """The layout of one message; raises ParseError where lengths or types make no sense.

    Reads headers only, never values, which is what makes equal headers mean an equal layout.
    """
    if not GENERIC_END <= len(message) <= MAX_MESSAGE_BYTES:
        raise ParseError("length")
    size, message_type, _, _, _ = NLMSG_HEADER.unpack_from(message)
    if size != len(message):
        raise ParseError("length")
    if message_type not in (TYPE_NEW, TYPE_DELETE):
        raise ParseError("type")
    fields: dict[str, tuple[int, int]] = {}
    headers: list[int] = []
    _descend(message, GENERIC_END, size, _GRAMMAR, fields, headers)
    if any(name not in fields for name in _REQUIRED):
        raise ParseError("missing")
    if len({fields[name][1] for name in ADDRESSES}) != 1:
        raise ParseError("family")
    return Layout(message_type, fields, tuple(headers))


def _descend(
    message: bytes | memoryview,
    start: int,
    end: int,
    grammar: _Grammar,
    fields: dict[str, tuple[int, int]],
    headers: list[int],
) -> None:
    """Notes the attributes of message[start:end]; as deep as the grammar, so three levels."""
    while end - start >= _NLA_HEADER.size:
        size, kind = _NLA_HEADER.unpack_from(message, start)
        if not _NLA_HEADER.size <= size <= end - start:
            raise ParseError("attribute")
        if len(headers) >= MAX_ATTRIBUTES:
            raise ParseError("attributes")
        headers.append(start)
        entry = grammar.get(kind & _NLA_TYPE_MASK)
        value = start + _NLA_HEADER.size
        if isinstance(entry, _Leaf):
            if size - _NLA_HEADER.size != entry.size:
                raise ParseError("size")
            if entry.name in fields:
                raise ParseError("repeated")
            fields[entry.name] = (value, entry.size)
        elif entry is not None:
            _descend(message, value, start + size, entry, fields, headers)
        start += (size + 3) & ~3
    if start < end:
        raise ParseError("trailing")


def walk(message: bytes | memoryview) -> dict[str, int | bytes]:
    """One message decoded attribute by attribute: the slow way, and the oracle of the fast one.

    Gives a value for every column of `COLUMNS`; raises ParseError.
    """
    layout = layout_of(message)
    fields = layout.fields

    def number(name: str) -> int:
        offset, size = fields.get(name, (0, 0))
        signed = name in ("start_ns", "stop_ns")
        return int.from_bytes(message[offset : offset + size], "big", signed=signed)

    row: dict[str, int | bytes] = {name: number(name) for name in PLAIN}
    for name in ADDRESSES:
        offset, size = fields[name]
        row[name] = (MAPPED if size == 4 else b"") + bytes(message[offset : offset + size])
    for side in ("orig", "reply"):
        if f"{side}_icmp_type" in fields:
            row[f"{side}_dport"] = number(f"{side}_icmp_type") << 8 | number(f"{side}_icmp_code")
    offset, size = fields.get("labels", (0, 0))
    row["labels"] = bytes(message[offset : offset + size]).ljust(16, b"\0")
    row["zone"] = number(layout.zone)
    row["counted"] = int(all(name in fields for name in COUNTERS))
    flags = NLMSG_HEADER.unpack_from(message)[2]
    row["kind"] = kind_of(layout.message_type, flags)
    return row


def kind_of(message_type: int, flags: int) -> int:
    """NEW, UPDATE, DESTROY or DUMP from nlmsg_type and nlmsg_flags, as ctnetlink sets them."""
    if message_type == TYPE_DELETE:
        return DESTROY
    if flags & NLM_F_MULTI:
        return DUMP
    return NEW if flags & NLM_F_CREATE else UPDATE
