"""DNS: turns an answer into the name that was asked and the addresses it led to.

RFC 1035 section 4 (message format), RFC 3596 (AAAA), RFC 7766 (TCP). Only the answer section is
read: authority and additional sections speak of name servers, not of what the client asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from collector.parse.host import HOST_BYTES
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

A: Final = 1
CNAME: Final = 5
AAAA: Final = 28
_IN: Final = 1
_A_IN: Final = A << 16 | _IN
_AAAA_IN: Final = AAAA << 16 | _IN
_CNAME_IN: Final = CNAME << 16 | _IN
"""Type and class as they stand together in a record."""

HEADER_BYTES: Final = 12
"""Names stand after it."""
MAX_RECORDS: Final = 1024
"""Records read in one answer section. The largest round robins seen hold some tens; 64 KiB over
TCP could hold 5,000, and a resolution with that many addresses says nothing."""
MAX_CHAIN: Final = 16
"""CNAMEs followed: BIND and Unbound stop at 16 and 11."""
_MAX_JUMPS: Final = 127
"""Compression pointers in one name: a name has at most 127 labels, and more pointers than labels
serve no sender."""
_MAX_NAME: Final = 255
"""Octets of a name on the wire (RFC 1035 section 2.3.4)."""
MAX_TCP_MESSAGES: Final = 256
"""Messages split off one TCP buffer at a time; with `split_tcp` called per segment a reader that
is behind gets the rest on its next call."""

_DOT: Final = 0x2E
_MAX_POINTER: Final = 0x3FFF
_ASKED: Final = 0xC00C
"""A pointer to the question's name, which follows the header."""
_TYPE_AT: Final = 3
_RECORD_BYTES: Final = 12
"""Of a record whose owner is a pointer: the low byte of its type, and what precedes its data."""
_HEADER: Final = struct.Struct(">HHHH")
_U16: Final = struct.Struct(">H")
_HH: Final = struct.Struct(">HH")
_RECORD: Final = struct.Struct(">IxxxxH")
_POINTED_RECORD: Final = struct.Struct(">HIxxxxH")
"""Type with class and length of a record, the second with a pointer as its owner's name."""


class DnsAnswer(NamedTuple):
    """One answer.

    `host` is the name asked (see `clean_host`), `qtype` and `rcode` are the numbers of the message,
    `addresses` the A and AAAA addresses, 16 bytes each, at the end of the name's CNAME chain.
    `aliases`: the CNAMEs followed from the name asked, each in lower-case wire form; left out where
    none of them can be one that is sought.
    """

    id: int
    host: str
    qtype: int
    rcode: int
    addresses: tuple[bytes, ...]
    aliases: tuple[bytes, ...] = ()


Sought = Callable[[bytes, int], object]
"""Whether a message may have an alias in it that somebody looks for, from an offset on, as
`re.Pattern.search`: true or not."""


def parse_answer(payload: bytes, sought: Sought | None = None) -> DnsAnswer | None:
    """The answer in one message; bytes after the answer section are not read, but by `sought`.

    None for what answers no question about an Internet host: queries, operations other than QUERY,
    answers without a question (mDNS), other classes, and the root. Raises ParseError.
    """
    if len(payload) < 12:
        raise ParseError("truncated")
    ident, flags, questions, answers = _HEADER.unpack_from(payload)
    # QR 0 is a query; the four bits after it are the operation.
    if flags & 0xF800 != 0x8000 or questions == 0:
        return None
    if questions > 1:
        raise ParseError("questions")
    if answers > MAX_RECORDS:
        raise ParseError("records")
    asked, at = _name(payload, 12)
    if at + 4 > len(payload):
        raise ParseError("truncated")
    qtype, qclass = _HH.unpack_from(payload, at)
    if qclass != _IN or asked == b"\0":
        return None
    host = _text(asked)
    at += 4
    aliases: tuple[bytes, ...] = ()
    addresses = _in_order(payload, at, answers)
    if addresses is None:
        addresses, aliases = _follow(payload, at, answers, asked)
        if sought is None or not (aliases and sought(payload, HEADER_BYTES)):
            aliases = ()
    elif (
        sought is not None
        and answers
        and payload[at + _TYPE_AT] == CNAME
        and sought(payload, HEADER_BYTES)
    ):
        aliases = _aliases(payload, at)
    return DnsAnswer(ident, host, qtype, flags & 0x0F, addresses, aliases)


def _in_order(data: bytes, at: int, count: int) -> tuple[bytes, ...] | None:
    """The addresses where every record's owner points to the question or to the alias just told.

    That is how resolvers write nearly all answers, and then no name needs to be put together.
    None for every other section, well-formed or not: `_follow` says what it holds.
    """
    size = len(data)
    owner = _ASKED
    found: list[bytes] = []
    for number in range(count):
        if at + 12 > size:
            return None
        pointer, kind, length = _POINTED_RECORD.unpack_from(data, at)
        at += 12
        end = at + length
        if pointer != owner or end > size:
            return None
        if kind == _A_IN and length == 4:
            found.append(MAPPED + data[at:end])
        elif kind == _AAAA_IN and length == 16:
            found.append(data[at:end])
        elif kind == _CNAME_IN and not found and number < MAX_CHAIN and _is_name(data, at, end):
            owner = 0xC000 | at
        else:
            return None
        at = end
    if count and not found:  # perhaps a chain that leads nowhere or in a circle
        return None
    return tuple(found) if len(found) < 2 else tuple(dict.fromkeys(found))


def _aliases(data: bytes, at: int) -> tuple[bytes, ...]:
    """The CNAMEs of an answer section in order: all come before the addresses that it ends with."""
    found: list[bytes] = []
    while data[at + _TYPE_AT] == CNAME:
        target, at = _name(data, at + _RECORD_BYTES)
        found.append(target)
    return tuple(found)


def _is_name(data: bytes, at: int, end: int) -> bool:
    """Whether data[at:end], within reach of a pointer, is labels that end in a root or go back."""
    if at > _MAX_POINTER or end - at > _MAX_NAME:
        return False
    start = at
    while at < end and 0 < data[at] < 64:
        at += data[at] + 1
    if at == end - 2 and data[at] >= 0xC0:
        target: int = _U16.unpack_from(data, at)[0] & _MAX_POINTER
        return target < start
    return at == end - 1 and data[at] == 0


def _follow(
    data: bytes, at: int, count: int, asked: bytes
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The addresses of `asked` among the `count` records at `at`, through its CNAMEs, and those."""
    names: dict[int, bytes] = {12: asked}
    aliases: dict[bytes, bytes] = {}
    found: list[tuple[bytes, bytes]] = []
    size = len(data)
    for _ in range(count):
        if at < size and data[at] >= 0xC0:
            # Nearly every owner is a pointer, mostly to the question or to the alias before it.
            if at + 12 > size:
                raise ParseError("truncated")
            pointer, kind, length = _POINTED_RECORD.unpack_from(data, at)
            known = names.get(pointer & _MAX_POINTER)
            if known is None:
                known = names[pointer & _MAX_POINTER] = _name(data, at)[0]
            owner = known
            at += 12
        else:
            start = at
            owner, at = _name(data, at)
            names[start] = owner
            if at + 10 > size:
                raise ParseError("truncated")
            kind, length = _RECORD.unpack_from(data, at)
            at += 10
        end = at + length
        if end > size:
            raise ParseError("truncated")
        if kind == _A_IN:
            if length != 4:
                raise ParseError("length")
            found.append((owner, MAPPED + data[at:end]))
        elif kind == _AAAA_IN:
            if length != 16:
                raise ParseError("length")
            found.append((owner, data[at:end]))
        elif kind == _CNAME_IN:
            target, stop = _name(data, at)
            if stop != end:
                raise ParseError("length")
            names[at] = target
            aliases.setdefault(owner, target)
        at = end
    followed: tuple[bytes, ...] = ()
    for _ in range(MAX_CHAIN + 1):
        here = [address for owner, address in found if owner == asked]
        if here:
            return tuple(here) if len(here) < 2 else tuple(dict.fromkeys(here)), followed
        following = aliases.get(asked)
        if following is None:
            return (), followed
        asked = following
        followed = (*followed, asked)
    raise ParseError("chain")


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    """The lower-case wire form of the name at `at`, uncompressed, and the offset after it.

    The wire form keeps names apart that text would not ("a.b" as one label or as two). Lengths are
    below 64, under every letter, so that lower-casing it whole is safe. A pointer must point before
    the place it stands at, as "a prior occurrence" (RFC 1035 section 4.1.4) says: no loops.
    """
    size = len(data)
    start = at
    after = -1
    parts: list[bytes] = []
    total = 0
    for _ in range(_MAX_JUMPS):
        limit = min(size, start + _MAX_NAME)
        while at < limit:
            length = data[at]
            if length == 0 or length > 63:
                break
            at += length + 1
        else:
            raise ParseError("name" if at - start >= _MAX_NAME else "truncated")
        total += at - start
        if total >= _MAX_NAME:
            raise ParseError("name")
        if length == 0:
            parts.append(data[start : at + 1])
            wire = parts[0] if len(parts) == 1 else b"".join(parts)
            return wire.lower(), at + 1 if after < 0 else after
        if length < 0xC0:
            raise ParseError("name")
        if at + 2 > size:
            raise ParseError("truncated")
        if at > start:
            parts.append(data[start:at])
        if after < 0:
            after = at + 2
        target: int = _U16.unpack_from(data, at)[0] & _MAX_POINTER
        if target >= start:
            raise ParseError("pointer")
        start = at = target
    raise ParseError("pointer")


def _text(wire: bytes) -> str:
    """The host of a wire-form name; ParseError("host") if any label is not one of a host."""
    name = bytearray(wire)
    at = labels = 0
    while length := name[at]:
        name[at] = _DOT
        at += length + 1
        labels += 1
    # The first length's dot and the root go. A dot too many was inside a label: written out it
    # would be another name. Lengths need no look, as the wire form has held them to their bounds.
    text = name[1:at]
    if text.translate(None, HOST_BYTES) or text.count(b".") >= labels:
        raise ParseError("host")
    return text.decode("ascii")


def split_tcp(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages at the start of a TCP stream's bytes, and the bytes after them.

    Each message follows its length in two octets (RFC 1035 section 4.2.2). At most
    MAX_TCP_MESSAGES come out at a time. Raises ParseError for a length no message can have.
    """
    messages: list[bytes] = []
    at = 0
    while len(buffer) - at >= 2 and len(messages) < MAX_TCP_MESSAGES:
        length: int = _U16.unpack_from(buffer, at)[0]
        if length < 12:
            raise ParseError("length")
        if at + 2 + length > len(buffer):
            break
        messages.append(buffer[at + 2 : at + 2 + length])
        at += 2 + length
    return messages, buffer[at:]
