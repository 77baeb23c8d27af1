from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.ip import Packet
from collector.track.reassembly import StreamLimits, StreamTable, flow_key
from tests.collector.parse.helpers import client_hello, many_protocols, segment

SYN = 0x02
HELLO = client_hello("www.example.com")
LONG = client_hello("pq.example", many_protocols(90))
REQUEST = b"GET /secret HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
KEY = flow_key(segment(b"", 0))


def _balanced(table: StreamTable) -> bool:
    counts = table.counts
    return counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"] + table.open


def _feed(table: StreamTable, *packets: Packet, now_ns: int = 0) -> bytes | None:
    """The last bytes that came out while feeding all packets."""
    found = None
    for packet in packets:
        given_out = table.feed(packet, now_ns)
        if given_out is not None:
            assert found is None or given_out.startswith(found)
            found = given_out
        assert _balanced(table)
    return found


def _segments(stream: bytes, isn: int, size: int) -> list[Packet]:
    return [
        segment(stream[at : at + size], (isn + 1 + at) % 2**32)
        for at in range(0, len(stream), size)
    ]


@pytest.mark.parametrize("isn", [0, 1000, 2**32 - 1, 2**32 - 700])
@pytest.mark.parametrize("syn", [True, False])
@pytest.mark.parametrize("order", ["in order", "reversed", "shuffled", "twice"])
def test_segments_in_any_order(isn: int, syn: bool, order: str) -> None:
    segments = _segments(LONG, isn, 400)
    if order == "reversed":
        segments.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(segments)
    elif order == "twice":
        segments = [packet for packet in segments for _ in range(2)]
    table = StreamTable()
    if syn:
        assert table.feed(segment(b"", isn, SYN), 0) is None
    assert _feed(table, *segments) == LONG
    table.finish(KEY)
    assert (table.held_bytes, table.open) == (0, 0)
    assert table.counts["recorded"] == len(LONG) // 400 + 1
    # Nothing that comes again is read again.
    assert _feed(table, *segments) is None
    assert _balanced(table)


def test_overlaps_keep_the_first_copy() -> None:
    table = StreamTable()
    table.feed(segment(b"", 99, SYN), 0)
    assert _feed(table, segment(b"cdef", 102), segment(b"abXXXXgh", 100)) == b"abcdefgh"
    assert _feed(table, segment(b"YYYYYYYYij", 100)) == b"abcdefghij"


def test_bytes_before_the_beginning_are_cut_off() -> None:
    table = StreamTable()
    table.feed(segment(b"", 2**32 - 3, SYN), 0)
    assert _feed(table, segment(b"ab", 2**32 - 2)) == b"ab"
    # A keep-alive probe repeats the octet before; here one more comes with what is new.
    assert _feed(table, segment(b"\0", 2**32 - 3), segment(b"\0abcd", 2**32 - 3)) == b"abcd"


def test_data_on_the_syn_is_read() -> None:
    packet = segment(REQUEST, 41, SYN)
    assert StreamTable().feed(packet, 0) == REQUEST


def test_a_repeated_syn_changes_nothing_and_another_begins_anew() -> None:
    table = StreamTable()
    _feed(table, segment(b"", 9, SYN), segment(b"abc", 10), segment(b"", 9, SYN))
    assert _feed(table, segment(b"def", 13)) == b"abcdef"
    assert _feed(table, segment(b"", 5_000, SYN), segment(b"new", 5_001)) == b"new"
    assert table.counts["replaced"] == 1
    assert table.counts["lost"] == 2


def test_only_what_looks_like_a_beginning_is_picked_up_in_mid_stream() -> None:
    table = StreamTable()
    assert _feed(table, segment(b"\x17\x03\x03\0\x20" + bytes(32), 70)) is None
    assert _feed(table, segment(REQUEST, 500)) == REQUEST
    assert _feed(table, segment(HELLO, 0, sport=2)) == HELLO


def test_the_server_and_the_handshake_are_left_alone() -> None:
    table = StreamTable()
    up = segment(HELLO, 1)
    down = replace(up, src=up.dst, dst=up.src, sport=up.dport, dport=up.sport, payload=b"answer")
    assert _feed(table, up, replace(down, flags=0x12, payload=b"")) == HELLO
    assert _feed(table, down) is None
    assert table.feed(replace(up, proto=17), 0) is None
    assert len(table) == 1


def test_the_next_request_on_a_kept_connection() -> None:
    table = StreamTable()
    assert _feed(table, segment(b"", 0, SYN), segment(REQUEST, 1)) == REQUEST
    table.finish(KEY)
    after = 1 + len(REQUEST)
    other = REQUEST.replace(b"www", b"api")
    assert _feed(table, segment(REQUEST, 1), segment(b"more body", after)) is None
    assert _feed(table, segment(other, after + 9)) == other
    table.finish(KEY)
    assert table.counts["recorded"] == 2
    assert _balanced(table)


def test_the_reader_says_how_much_it_needs() -> None:
    table = StreamTable()
    parts = _segments(HELLO, 0, 50)
    assert table.feed(parts[0], 0) == HELLO[:50]
    table.expect(KEY, len(HELLO))
    assert [table.feed(part, 0) for part in parts[1:-1]] == [None] * (len(parts) - 2)
    assert table.feed(parts[-1], 0) == HELLO


def test_a_flow_that_needs_too_much_is_given_up() -> None:
    table = StreamTable(StreamLimits(flow_bytes=1_000))
    _feed(table, segment(HELLO, 0))
    table.expect(KEY, 1_001)
    assert (table.counts["overflow"], table.counts["lost"], table.held_bytes) == (1, 1, 0)
    assert _feed(table, segment(b"x", len(HELLO))) is None
    for unknown in ((b"", b"", 0, 0), KEY):
        table.expect(unknown, 5)
        table.finish(unknown)
    assert _balanced(table)


def test_a_flow_in_crumbs_is_given_up() -> None:
    table = StreamTable()
    table.feed(segment(b"", 0, SYN), 0)
    _feed(table, *(segment(b"x", 1 + at) for at in range(600)))
    assert table.counts["overflow"] == 1
    assert table.held_bytes == 0
    table.feed(segment(b"", 0, SYN, sport=2), 0)
    _feed(table, *(segment(b"x", 2 + 2 * at, sport=2) for at in range(80)))
    assert table.counts["overflow"] == 2
    assert table.held_bytes == 0


def test_flows_bytes_and_age_are_bounded() -> None:
    table = StreamTable(StreamLimits(flows=3, held_bytes=2 * len(HELLO) + 20, age_ns=1_000))
    for sport in range(5):
        table.feed(segment(b"", 0, SYN, sport=sport), sport)
        table.feed(segment(HELLO, 1, sport=sport), sport)
        assert len(table) <= 3
        assert table.held_bytes <= 2 * len(HELLO) + 20
    assert table.counts["evicted"] == 3
    for sport in range(10, 20):
        table.feed(segment(b"crumb", 1, sport=sport), 5)
    assert table.held_bytes <= 2 * len(HELLO) + 20
    assert table.counts["evicted"] == 3
    table.feed(segment(b"", 0), 10**12)
    assert (len(table), table.held_bytes, table.open) == (0, 0, 0)
    assert table.counts["expired"] == 2
    assert _balanced(table)


def test_a_flood_of_syns_evicts_no_flow() -> None:
    table = StreamTable(StreamLimits(flows=8))
    _feed(table, segment(b"", 0, SYN), segment(LONG[:500], 1))
    for sport in range(1, 1_000):
        table.feed(segment(b"", 7, SYN, sport=sport), 0)
    assert _feed(table, segment(LONG[500:], 501)) == LONG
    assert len(table) == 1


@settings(max_examples=200)
@given(st.data())
def test_no_traffic_breaks_the_bounds(data: st.DataObject) -> None:
    limits = StreamLimits(flows=4, flow_bytes=900, held_bytes=1_500, age_ns=50)
    table = StreamTable(limits)
    now = 0
    for _ in range(data.draw(st.integers(1, 30))):
        payload = data.draw(st.sampled_from([b"", HELLO, REQUEST, LONG[:700], b"x" * 90]))
        packet = segment(
            payload,
            data.draw(st.sampled_from([0, 1, 2, 300, 2**31, 2**32 - 1])),
            data.draw(st.sampled_from([0x18, SYN, 0x12, 0x11])),
            sport=data.draw(st.integers(0, 6)),
        )
        now += data.draw(st.integers(0, 20))
        found = table.feed(packet, now)
        if found is not None and data.draw(st.booleans()):
            table.finish(flow_key(packet))
        assert table.held_bytes <= limits.held_bytes
        assert len(table) <= limits.flows
        assert _balanced(table)
