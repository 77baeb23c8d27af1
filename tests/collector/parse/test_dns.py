from __future__ import annotations

import re
import struct

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.dns import DnsAnswer, _aliases, _follow, _in_order, parse_answer, split_tcp
from collector.parse.reader import ParseError
from collector.wire.addr import pack
from tests.collector.parse.helpers import cuts, ignores_trailing, only_parse_error


def _answer(name: str, kind: str, *sets: tuple[str, str, list[str]], edns: bool = False) -> bytes:
    """An answer as dnspython writes it, names compressed."""
    query = dns.message.make_query(name, kind, use_edns=edns)
    response = dns.message.make_response(query)
    for owner, rtype, values in sets:
        response.answer.append(dns.rrset.from_text(owner, 60, "IN", rtype, *values))
    return response.to_wire()


CHAIN = _answer(
    "WWW.Example.com.",
    "A",
    ("www.example.com.", "CNAME", ["cdn.example.net."]),
    ("cdn.example.net.", "CNAME", ["edge.cdn.example.net."]),
    ("edge.cdn.example.net.", "A", ["192.0.2.1"]),
    ("edge.cdn.example.net.", "A", ["192.0.2.2"]),
    ("other.example.", "A", ["192.0.2.99"]),
    edns=True,
)


def test_follows_the_chain_of_aliases() -> None:
    found = parse_answer(CHAIN)
    ident = struct.unpack_from(">H", CHAIN)[0]
    assert found is not None
    assert found == DnsAnswer(
        ident, "www.example.com", 1, 0, (pack("192.0.2.1"), pack("192.0.2.2"))
    )
    assert parse_answer(CHAIN, re.compile(b"nobody").search) == found
    named = parse_answer(CHAIN, re.compile(b"(?i)edge").search)
    assert named is not None
    names = ("cdn.example.net", "edge.cdn.example.net")
    assert named.aliases == tuple(dns.name.from_text(each).to_wire() for each in names)
    assert named._replace(aliases=()) == found
    assert ignores_trailing(parse_answer, CHAIN)
    for outcome in cuts(parse_answer, CHAIN):
        # Only the EDNS record at the end may be missing.
        assert isinstance(outcome, ParseError) or outcome == found


V6 = ["2001:db8::1", "2001:db8::2"]


def test_ipv6_and_repeated_addresses() -> None:
    wire = _answer("v6.example.", "AAAA", ("v6.example.", "AAAA", V6))
    found = parse_answer(wire)
    assert found is not None
    assert (found.qtype, set(found.addresses)) == (28, set(map(pack, V6)))
    twice = wire[:6] + b"\0\4" + wire[8:] + wire[len(wire) - 56 :]
    again = parse_answer(twice)
    assert again is not None
    assert again.addresses == found.addresses


def test_aliases_in_any_order_and_in_mixed_case() -> None:
    wire = _answer(
        "a.example.",
        "A",
        ("C.example.", "A", ["192.0.2.1"]),
        ("B.EXAMPLE.", "CNAME", ["c.Example."]),
        ("A.example.", "CNAME", ["b.example."]),
    )
    found = parse_answer(wire)
    assert found is not None
    assert (found.host, found.addresses) == ("a.example", (pack("192.0.2.1"),))


def test_other_records_are_skipped() -> None:
    https = _answer("h.example.", "HTTPS", ("h.example.", "HTTPS", ["1 . ipv4hint=192.0.2.1"]))
    found = parse_answer(https)
    assert found is not None
    assert (found.host, found.qtype, found.addresses) == ("h.example", 65, ())
    mixed = _answer(
        "m.example.", "ANY", ("m.example.", "TXT", ["x" * 200]), ("m.example.", "A", ["192.0.2.3"])
    )
    found = parse_answer(mixed)
    assert found is not None
    assert found.addresses == (pack("192.0.2.3"),)


def test_an_answer_without_addresses_keeps_its_code() -> None:
    response = dns.message.make_response(dns.message.make_query("no.example.", "A"))
    response.set_rcode(dns.rcode.NXDOMAIN)
    found = parse_answer(response.to_wire())
    assert found is not None
    assert (found.host, found.rcode, found.addresses) == ("no.example", 3, ())


def test_what_answers_no_question_about_a_host() -> None:
    query = dns.message.make_query("example.com.", "A")
    assert parse_answer(query.to_wire()) is None
    notify = dns.message.make_response(query)
    notify.set_opcode(dns.opcode.NOTIFY)
    assert parse_answer(notify.to_wire()) is None
    chaos = dns.message.make_response(dns.message.make_query("version.bind.", "TXT", "CH"))
    assert parse_answer(chaos.to_wire()) is None
    root = dns.message.make_response(dns.message.make_query(".", "NS"))
    assert parse_answer(root.to_wire()) is None
    mdns = dns.message.Message(0)
    mdns.flags = dns.flags.QR
    assert parse_answer(mdns.to_wire()) is None


HEADER = struct.pack(">HHHHHH", 1, 0x8180, 1, 1, 0, 0)
QUESTION = b"\1a\7example\0\0\1\0\1"
RECORD = b"\0\1\0\1\0\0\0\1"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"\0" * 11, "truncated"),
        (HEADER[:4] + b"\0\2" + HEADER[6:] + QUESTION, "questions"),
        (HEADER[:6] + b"\xff\xff" + HEADER[8:] + QUESTION, "records"),
        (HEADER + b"\xc0\x0c\0\1\0\1", "pointer"),
        (HEADER + b"\1a\xc0\x0c\0\1\0\1", "pointer"),
        (HEADER + b"\1a\xc0\x20\0\1\0\1" + bytes(99), "pointer"),
        (HEADER + b"\x41a\0\0\1\0\1", "name"),
        (HEADER + b"\x3f" + (b"a" * 63 + b"\x3f") * 5, "name"),
        (HEADER + b"\3a.b\0\0\1\0\1", "host"),
        (HEADER + b"\1 \0\0\1\0\1", "host"),
        (HEADER + QUESTION + b"\xc0\x0c" + RECORD + b"\0\4\1\2\3", "truncated"),
        (HEADER + QUESTION + b"\xc0\x0c" + RECORD + b"\0\5\1\2\3\4\5", "length"),
        (HEADER + QUESTION + b"\xc0\x0c\0\x1c" + RECORD[2:] + b"\0\4\1\2\3\4", "length"),
        (HEADER + QUESTION + b"\xc0\x0c\0\5" + RECORD[2:] + b"\0\4\xc0\x0cxx", "length"),
        (HEADER + QUESTION + b"\xc0\x0c\0\5" + RECORD[2:] + b"\0\2\xc0\x0c", "chain"),
    ],
)
def test_broken_answers(wire: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_answer(wire)
    assert caught.value.reason == reason


def test_a_dot_in_a_label_is_no_alias() -> None:
    # "a.b" as one label must not stand for the name a.b that was asked.
    wire = HEADER + b"\1a\1b\0\0\1\0\1" + b"\3a.b\0" + RECORD + b"\0\4\1\2\3\4"
    found = parse_answer(wire)
    assert found is not None
    assert (found.host, found.addresses) == ("a.b", ())


def test_hostile_compression_stays_cheap() -> None:
    # 1,024 records whose owners each point into a long ladder of pointers.
    ladder = b"\1x" + b"".join(struct.pack(">H", 0xC000 | 29 + 2 * n) for n in range(4000))
    wire = HEADER[:6] + b"\4\0" + HEADER[8:] + QUESTION + b"\0" + b"\0\x10" + RECORD[2:]
    wire += struct.pack(">H", len(ladder)) + ladder + (b"\xdf\xf0" + RECORD + b"\0\0") * 1023
    only_parse_error(parse_answer, wire)


def test_splits_a_tcp_stream() -> None:
    stream = b"".join(struct.pack(">H", len(wire)) + wire for wire in (CHAIN, CHAIN[:40]))
    assert split_tcp(stream) == ([CHAIN, CHAIN[:40]], b"")
    for end in range(len(stream)):
        messages, rest = split_tcp(stream[:end])
        assert b"".join(struct.pack(">H", len(m)) + m for m in messages) + rest == stream[:end]
        assert len(messages) == (end >= len(CHAIN) + 2)
    with pytest.raises(ParseError, match="length"):
        split_tcp(b"\0\5hello")
    short = b"\0\x0c" + bytes(12)
    messages, rest = split_tcp(short * 300)
    assert (len(messages), len(rest)) == (256, 44 * 14)


@settings(max_examples=300)
@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    only_parse_error(parse_answer, HEADER + data.draw(st.binary(max_size=200)))
    only_parse_error(split_tcp, data.draw(st.binary(max_size=60)))
    mutated = bytearray(CHAIN)
    for _ in range(4):
        mutated[data.draw(st.integers(2, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    only_parse_error(parse_answer, bytes(mutated))


_OWNERS = st.sampled_from(["www.example.", "a.example.", "b.cdn.example.", "c.example."])
_RECORDS = st.one_of(
    st.tuples(_OWNERS, st.just("CNAME"), _OWNERS.map(lambda name: [name])),
    st.tuples(_OWNERS, st.just("A"), st.sampled_from([["192.0.2.1"], ["192.0.2.2"]])),
    st.tuples(_OWNERS, st.just("AAAA"), st.just(["2001:db8::1"])),
)


@given(st.lists(_RECORDS, max_size=6))
@settings(max_examples=150, deadline=None)
def test_an_answer_read_in_order_says_what_names_put_together_say(
    records: list[tuple[str, str, list[str]]],
) -> None:
    wire = bytearray(_answer("www.example.", "A", *records))
    asked = b"\3www\7example\0"
    at = 12 + len(asked) + 4
    count = struct.unpack_from(">H", wire, 6)[0]
    found = _in_order(bytes(wire), at, count)
    if found is not None:
        aliases = _aliases(bytes(wire), at) if count else ()
        assert (found, aliases) == _follow(bytes(wire), at, count, asked)
