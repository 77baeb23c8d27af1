from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6

from collector.parse.ip import Fragment, Packet, parse
from collector.parse.link import IPV4, IPV6
from collector.parse.reader import ParseError
from collector.track.fragments import FragmentLimits, FragmentTable
from collector.wire.addr import pack

BODY = bytes(range(256)) * 12
A, B = pack("10.0.0.1"), pack("192.0.2.1")


def _balanced(table: FragmentTable) -> bool:
    counts = table.counts
    return counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"] + table.open


def _parts(kind: int, wires: list[bytes]) -> list[Fragment]:
    found = [parse(number, kind, wire) for number, wire in enumerate(wires)]
    parts = [part for part in found if isinstance(part, Fragment)]
    assert len(parts) == len(wires)
    return parts


def _udp4() -> list[Fragment]:
    packet = IP(src="10.0.0.1", dst="192.0.2.1", id=5) / UDP(sport=7, dport=9) / BODY
    return _parts(IPV4, [bytes(part) for part in fragment(packet, 1000)])


def _tcp6() -> list[Fragment]:
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=6)
    packet = packet / IPv6ExtHdrDestOpt() / TCP(sport=7, dport=9, seq=3) / BODY
    return _parts(IPV6, [bytes(part) for part in fragment6(packet, 1280)])


@pytest.mark.parametrize("make", [_udp4, _tcp6])
@pytest.mark.parametrize("seed", range(4))
def test_fragments_in_any_order(make: Callable[[], list[Fragment]], seed: int) -> None:
    parts = make()
    order = [*parts, *parts[:-1]] if seed else parts
    random.Random(seed).shuffle(order)
    table = FragmentTable()
    packets = [packet for part in order if (packet := table.add(part, 0)) is not None]
    assert len(packets) == 1
    assert (packets[0].sport, packets[0].dport, packets[0].payload) == (7, 9, BODY)
    assert packets[0].ts_ns == order[0].ts_ns
    assert table.counts["recorded"] == len(parts)
    assert _balanced(table)


def _part(offset: int, data: bytes, more: bool = True, ident: int = 1) -> Fragment:
    return Fragment(0, A, B, 17, ident, offset, more, data)


@pytest.mark.parametrize(
    "second",
    [
        _part(8, b"x" * 8),  # another copy
        _part(0, b"x" * 16),  # from before into it
        _part(16, b"x" * 16),  # from its middle on
        _part(8, b"x" * 8, more=False),  # an end inside it
    ],
)
def test_an_overlap_spoils_the_datagram(second: Fragment) -> None:
    table = FragmentTable()
    assert table.add(_part(8, b"a" * 16), 0) is None
    assert table.add(second, 0) is None
    assert (table.counts["overlap"], table.counts["lost"], table.held_bytes) == (1, 2, 0)
    # What comes later of it is dropped too (RFC 5722 section 4).
    assert table.add(_part(0, bytes(8)), 0) is None
    assert table.add(_part(24, bytes(8), more=False), 0) is None
    assert table.counts["lost"] == 4
    assert _balanced(table)


def test_nothing_may_follow_the_end() -> None:
    for late in (_part(24, bytes(8)), _part(0, bytes(5), more=False)):
        table = FragmentTable()
        table.add(_part(8, bytes(8), more=False), 0)
        table.add(late, 0)
        assert table.counts["overlap"] == 1


def test_protocols_do_not_mix() -> None:
    table = FragmentTable()
    table.add(_part(0, b"\0\7\0\x09\0\x10\0\0"), 0)
    table.add(Fragment(0, A, B, 6, 1, 8, False, bytes(8)), 0)
    assert len(table) == 2
    packet = table.add(_part(8, b"contents", more=False), 0)
    assert isinstance(packet, Packet)
    assert packet.payload == b"contents"


def test_a_datagram_that_is_no_packet() -> None:
    table = FragmentTable()
    table.add(_part(0, b"\0\7\0\x09\xff\xff\0\0"), 0)
    with pytest.raises(ParseError, match="length"):
        table.add(_part(8, bytes(8), more=False), 0)
    assert (table.counts["malformed"], len(table), table.held_bytes) == (2, 0, 0)
    assert _balanced(table)


def test_bounds() -> None:
    table = FragmentTable(FragmentLimits(fragments=4, datagrams=3, held_bytes=100, age_ns=10))
    for number in range(6):
        table.add(_part(8 * number, bytes(8)), 0)
    assert table.counts["overflow"] == 1
    for ident in range(2, 8):
        table.add(_part(0, bytes(40), ident=ident), 1)
        assert table.held_bytes <= 100
        assert len(table) <= 3
    assert table.counts["evicted"] > 0
    table.add(_part(0, bytes(8), ident=99), 50)
    assert (len(table), table.held_bytes) == (1, 8)
    assert table.counts["expired"] == 2
    assert _balanced(table)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 3), st.booleans(), st.integers(0, 5)),
        max_size=30,
    )
)
def test_no_fragments_break_the_bounds(parts: list[tuple[int, int, bool, int]]) -> None:
    table = FragmentTable(FragmentLimits(fragments=3, datagrams=3, held_bytes=90, age_ns=20))
    for now, (offset, length, more, ident) in enumerate(parts):
        try:
            table.add(_part(8 * offset, bytes(8 * length), more, ident), now)
        except ParseError as error:
            assert error.reason in ("length", "truncated")
        assert table.held_bytes <= 90
        assert len(table) <= 3
        assert _balanced(table)
