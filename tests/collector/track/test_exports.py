"""Flow exports into usage and mappings: sums, sides, splits, NAT events, gaps, and crashes."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track.exporters import MAX_LOSSES, REORDERED, Exported
from collector.track.exports import Exports, ExportsConfig
from collector.track.session_bindings import BindingChange
from collector.wire.addr import network, pack, unpack
from collector.wire.records import CLASSES, USAGE_FROM_EXPORT
from tests.collector.parse.test_export import NOW, ipfix, record_set, template, v5, v5_record, v9

SECOND = 10**9
T0 = NOW * SECOND
END = (NOW // 300 * 300 + 300) * SECOND
ROUTER = pack("192.0.2.10")
ACCESS = ((pack("100.64.0.0"), 106), (pack("2001:db8::"), 32))
A, B, WORLD, PUBLIC = "100.64.0.7", "100.64.0.8", "192.0.2.1", "198.51.100.9"

FLOW = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 8), (2, 8), (152, 8), (153, 8))
NAT = ((230, 1), (323, 8), (8, 4), (225, 4), (7, 2), (227, 2), (4, 1))
BLOCK = ((230, 1), (323, 8), (8, 4), (225, 4), (361, 2), (362, 2))
TEMPLATES = record_set(2, template(256, *FLOW) + template(257, *NAT) + template(258, *BLOCK))


def exports(**config: Any) -> Exports:
    return Exports(ExportsConfig(ACCESS, **config))


def give(tracker: Exports, data: bytes, at: float = 0, exporter: bytes = ROUTER) -> None:
    tracker.datagram(Exported(T0 + round(at * SECOND), exporter, data))
    counts = tracker.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]


def flow(src: str, dst: str, octets: int, first: float = 0, last: float = 0) -> bytes:
    ends = pack(src)[12:] + pack(dst)[12:]
    at = (round(NOW * 1000 + first * 1000), round(NOW * 1000 + last * 1000))
    return ends + struct.pack(">HHBQQQQ", 40_000, 443, 6, octets, 2, *at)


def event(kind: int, at: float, inside: str, sport: int = 4000, port: int = 5000) -> bytes:
    ends = pack(inside)[12:] + pack(PUBLIC)[12:]
    return (
        struct.pack(">BQ", kind, round((NOW + at) * 1000))
        + ends
        + struct.pack(">HHB", sport, port, 17)
    )


def block(kind: int, at: float, inside: str, first: int = 1024, last: int = 1535) -> bytes:
    ends = pack(inside)[12:] + pack(PUBLIC)[12:]
    return (
        struct.pack(">BQ", kind, round((NOW + at) * 1000)) + ends + struct.pack(">HH", first, last)
    )


def take(tracker: Exports, name: str, end: int = END) -> list[dict[str, Any]]:
    columns = tracker.take(end - 300 * SECOND, end, end + 1)[name]
    assert set(columns) == set(CLASSES[name].names)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert len({row["record_id"] for row in rows}) == len(rows)
    return rows


def sums(rows: list[dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    return {
        unpack(row["address"]): (row["up_bytes"], row["down_bytes"], row["flows"]) for row in rows
    }


def test_bytes_go_to_the_subscriber_at_either_end() -> None:
    tracker = exports()
    give(tracker, v5(v5_record(A, WORLD, 100), v5_record(WORLD, A, 4_000), v5_record(A, B, 7)), 1)
    give(tracker, v5(v5_record(WORLD, "203.0.113.1", 9), sequence=3), 2)
    rows = take(tracker, "usage")
    assert sums(rows) == {A: (107, 4_000, 3), B: (0, 7, 1)}
    assert all(row["flags"] == USAGE_FROM_EXPORT and row["end_ns"] == END for row in rows)
    assert {row["start_ns"] for row in rows} == {T0 - SECOND}
    assert take(tracker, "usage") == []


def test_flows_of_strangers_alone_are_no_rows() -> None:
    tracker = exports()
    give(tracker, v5(v5_record(WORLD, "203.0.113.1", 9)))
    assert take(tracker, "usage") == []


def test_usage_is_left_out_where_the_kernel_counts() -> None:
    tracker = exports(usage=False)
    give(tracker, v5(v5_record(A, WORLD, 100)))
    assert take(tracker, "usage") == []


def test_both_ways_in_one_record_and_ipv6_by_prefix() -> None:
    fields = ((27, 16), (28, 16), (231, 8), (232, 8), (298, 4), (299, 4))
    data = pack("2001:db8:1:2::5") + pack("2001:4860::1") + struct.pack(">QQII", 5, 9, 1, 2)
    tracker = exports()
    give(tracker, ipfix(record_set(2, template(256, *fields)), record_set(256, data * 3)))
    (row,) = take(tracker, "usage")
    assert (unpack(row["address"]), row["prefix_len"]) == ("2001:db8:1:2::", 64)
    assert (row["up_bytes"], row["down_bytes"], row["up_packets"], row["down_packets"]) == (
        *(15, 27),
        *(3, 6),
    )


def test_a_row_is_split_where_the_address_changed_hands() -> None:
    tracker = exports()
    tracker.changed([BindingChange(T0 + 20 * SECOND, pack(A), 128, "close")])
    flows = flow(A, WORLD, 1, 0, 10) + flow(A, WORLD, 2, 15, 25) + flow(A, WORLD, 4, 21, 30)
    give(tracker, ipfix(TEMPLATES, record_set(256, flows)), 31)
    old, new = take(tracker, "usage")
    assert (old["up_bytes"], old["start_ns"], old["end_ns"]) == (1, T0, T0 + 20 * SECOND)
    assert (new["up_bytes"], new["start_ns"], new["end_ns"]) == (6, T0 + 20 * SECOND, END)


def test_a_row_never_spans_midnight() -> None:
    tracker = exports()
    midnight = (NOW // 86_400 + 1) * 86_400 * SECOND
    late = (midnight - T0) / SECOND
    data = ipfix(TEMPLATES, record_set(256, flow(A, WORLD, 1, late - 100, late + 10)))
    give(tracker, data, late + 20)
    (row,) = take(tracker, "usage", midnight + 300 * SECOND)
    assert row["start_ns"] == midnight


def test_many_flows_are_added_up_to_the_byte() -> None:
    tracker = exports()
    octets = [(number * 7919) % 100_000 for number in range(3_000)]
    for start in range(0, len(octets), 30):
        records = [v5_record(A, WORLD, each) for each in octets[start : start + 30]]
        give(tracker, v5(*records, sequence=start), start / 100)
    assert sums(take(tracker, "usage")) == {A: (sum(octets), 0, 3_000)}
    assert tracker.take_losses() == []


def test_a_nat_session_from_create_to_delete() -> None:
    tracker = exports()
    give(tracker, ipfix(TEMPLATES, record_set(257, event(4, 10, A) + event(5, 70, A))), 80)
    (row,) = take(tracker, "mapping")
    assert (unpack(row["inside_address"]), unpack(row["public_address"])) == (A, PUBLIC)
    assert (row["inside_port"], row["port_first"], row["port_last"]) == (4000, 5000, 5000)
    assert (row["protocol"], row["kind"]) == (17, "flow")
    assert (row["start_ns"], row["end_ns"]) == (T0 + 10 * SECOND, T0 + 70 * SECOND)
    assert len(tracker.mappings) == 0


def test_a_block_is_told_while_it_is_open_and_when_it_goes() -> None:
    tracker = exports()
    give(tracker, ipfix(TEMPLATES, record_set(258, block(16, 10, A))), 20)
    (row,) = take(tracker, "mapping")
    assert (row["kind"], row["port_first"], row["port_last"]) == ("block", 1024, 1535)
    assert (row["start_ns"], row["end_ns"]) == (T0 + 10 * SECOND, T0 + 20 * SECOND)
    assert take(tracker, "mapping") == []
    give(tracker, ipfix(record_set(258, block(17, 200, A)), sequence=1), 210)
    (over,) = take(tracker, "mapping")
    assert over["record_id"] == row["record_id"]
    assert over["end_ns"] == T0 + 200 * SECOND


def test_a_block_given_to_another_ends_the_first_whose_delete_was_lost() -> None:
    tracker = exports()
    data = record_set(258, block(16, 10, A) + block(16, 100, B) + block(16, 100, B))
    give(tracker, ipfix(TEMPLATES, data), 110)
    first, second = sorted(take(tracker, "mapping"), key=lambda row: row["start_ns"])
    assert (unpack(first["inside_address"]), first["end_ns"]) == (A, T0 + 100 * SECOND)
    assert (unpack(second["inside_address"]), second["start_ns"]) == (B, T0 + 100 * SECOND)
    assert tracker.mappings.counts["replaced"] == 1


def test_a_delete_alone_proves_its_moment() -> None:
    tracker = exports()
    give(tracker, ipfix(TEMPLATES, record_set(257, event(5, 70, A))), 80)
    (row,) = take(tracker, "mapping")
    assert row["end_ns"] - row["start_ns"] == 1
    assert tracker.mappings.counts["without_create"] == 1


def test_events_that_make_no_mapping_are_counted() -> None:
    tracker = exports()
    events = event(3, 1, A) + event(13, 1, A) + event(99, 1, A) + event(4, 1, WORLD)
    give(tracker, ipfix(TEMPLATES, record_set(257, events)))
    assert take(tracker, "mapping") == []
    counts = tracker.mappings.counts
    assert (counts["exhausted"], counts["unread"], counts["outside"]) == (2, 1, 1)


def test_a_flow_that_names_its_translation_is_a_mapping() -> None:
    fields = (*FLOW, (225, 4), (227, 2))
    data = flow(A, WORLD, 5, 0, 10) + pack(PUBLIC)[12:] + struct.pack(">H", 6000)
    tracker = exports()
    give(tracker, ipfix(record_set(2, template(256, *fields)), record_set(256, data)), 20)
    (row,) = take(tracker, "mapping")
    assert (row["inside_port"], row["port_first"], row["kind"]) == (40_000, 6000, "flow")
    assert (row["start_ns"], row["end_ns"]) == (T0, T0 + 10 * SECOND)


@pytest.mark.parametrize("version", [5, 9, 10])
def test_a_gap_in_the_sequence_is_a_loss(version: int) -> None:
    tracker = exports()
    records = [flow(A, WORLD, 1), flow(A, WORLD, 2)]
    if version == 5:
        first, second = (v5(v5_record(A, WORLD, 1), sequence=n) for n in (0, 8))
    elif version == 9:
        v9_template = record_set(0, template(256, *FLOW))
        first, second = (v9(v9_template, record_set(256, records[0]), sequence=n) for n in (0, 8))
    else:
        first = ipfix(TEMPLATES, record_set(256, b"".join(records)), sequence=0)
        second = ipfix(record_set(256, records[0]), sequence=9)
    give(tracker, first, 1)
    give(tracker, second, 5)
    (loss,) = tracker.take_losses()
    assert (loss.stage, loss.reason, loss.amount) == ("export", "export-gap", 7)
    assert (loss.start_ns, loss.end_ns) == (T0 + SECOND, T0 + 5 * SECOND)
    assert (loss.scope, loss.classes) == ("exporter:192.0.2.10", ("usage", "mapping"))
    assert loss.unit == ("packets" if version == 9 else "events")


def test_a_datagram_that_was_overtaken_takes_its_loss_back() -> None:
    tracker = exports()
    for number in (0, 2, 1, 3):
        give(tracker, v5(v5_record(A, WORLD, 1), sequence=number), number)
    assert tracker.take_losses() == []
    assert tracker.counts["lost"] == 0
    assert tracker.counts["reordered"] == 1
    assert sums(take(tracker, "usage")) == {A: (4, 0, 4)}


def test_an_exporter_that_begins_anew() -> None:
    tracker = exports()
    give(tracker, v5(v5_record(A, WORLD, 1), sequence=1_000_000), 1)
    give(tracker, v5(v5_record(A, WORLD, 1), sequence=0), 5)
    give(tracker, v5(v5_record(A, WORLD, 1), sequence=1), 6)
    (loss,) = tracker.take_losses()
    assert (loss.reason, loss.amount) == ("exporter-restart", -1)


def test_data_before_its_template_is_a_loss() -> None:
    tracker = exports()
    give(tracker, ipfix(record_set(256, flow(A, WORLD, 1))), 1)
    (loss,) = tracker.take_losses()
    assert (loss.reason, loss.amount) == ("no-template", -1)
    # Templates are of one exporter and one domain.
    give(tracker, ipfix(TEMPLATES, domain=2), 2)
    give(tracker, ipfix(TEMPLATES), 2, exporter=pack("192.0.2.11"))
    give(tracker, ipfix(record_set(256, flow(A, WORLD, 1))), 3)
    assert take(tracker, "usage") == []


def test_sampled_flows_are_no_usage() -> None:
    tracker = exports()
    give(tracker, v5(v5_record(A, WORLD, 1), interval=100))
    options = record_set(3, struct.pack(">HHHHHHH", 300, 2, 1, 149, 4, 34, 4))
    told = record_set(300, struct.pack(">II", 1, 1000))
    give(tracker, ipfix(TEMPLATES, options, told, record_set(256, flow(A, WORLD, 1))), 1)
    assert take(tracker, "usage") == []
    assert [loss.reason for loss in tracker.take_losses()] == ["sampled", "sampled"]
    assert tracker.counts["sampled"] == 2


def test_losses_are_bounded() -> None:
    tracker = exports()
    for number in range(0, 4 * MAX_LOSSES):
        exporter = pack(f"10.{number % 4}.0.{number // 4 % 250}")
        give(tracker, v5(v5_record(A, WORLD, 1), sequence=2 * number), number, exporter)
    assert len(tracker.take_losses()) <= MAX_LOSSES


def test_a_crash_tells_what_was_not_committed() -> None:
    before = exports()
    give(before, ipfix(TEMPLATES, record_set(258, block(16, 10, A))), 20)
    state = json.loads(json.dumps((take(before, "mapping"), before.snapshot())[1]))
    give(before, ipfix(record_set(256, flow(A, WORLD, 1) * 5), sequence=1), 30)  # dies with it
    after = exports()
    after.restore(state, T0)
    give(after, ipfix(record_set(256, flow(A, WORLD, 2)), sequence=6), 40)
    give(after, ipfix(record_set(258, block(17, 50, A)), sequence=7), 51)
    (loss,) = after.take_losses()
    assert (loss.reason, loss.amount) == ("export-gap", 5)
    assert sums(take(after, "usage")) == {A: (2, 0, 1)}
    give(after, ipfix(record_set(258, block(16, 60, B)), sequence=8), 61)
    assert len(after.mappings) == 1
    assert network(pack(A), 128) == pack(A)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40, unique=True), st.integers(0, 1 << 32))
def test_what_came_and_what_is_told_lost_are_what_was_sent(lost: list[int], start: int) -> None:
    """Whatever is lost of 31 datagrams but the first and last, records and losses add up."""
    tracker = exports()
    missing = set(lost) - {0, 30}
    for number in range(31):
        if number not in missing:
            sequence = (start + number) % (1 << 32)
            give(tracker, v5(v5_record(A, WORLD, 1), sequence=sequence), number)
    told = sum(loss.amount for loss in tracker.take_losses())
    assert told == len(missing) < REORDERED
    assert sums(take(tracker, "usage")) == {A: (31 - told, 0, 31 - told)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=8), st.integers(0, 1 << 30))
def test_rubbish_is_counted(rubbish: list[bytes], flip: int) -> None:
    tracker = exports()
    whole = bytearray(ipfix(TEMPLATES, record_set(256, flow(A, WORLD, 1)), record_set(257, b"x")))
    whole[flip % len(whole)] ^= 1 << flip % 8
    for data in (*rubbish, bytes(whole)):
        give(tracker, data)
    take(tracker, "usage")
    take(tracker, "mapping")
    json.dumps(tracker.snapshot())
