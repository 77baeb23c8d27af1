"""Visits: what is joined to what, what a row counts, what is forgotten, and that nothing leaks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track import answer_runs, flow_delta, visit_flows
from collector.track import hosts as module
from collector.track.hosts import Hosts, HostsConfig, HostSeen, Resolution
from collector.track.visit_flows import NO_DELTAS
from collector.wire.addr import network, pack
from collector.wire.columns import record_batch
from collector.wire.records import VISIT, VISIT_ECH, record_id

S = 1_000_000_000
WINDOW = 300 * S
T0 = 1_000_000 * WINDOW
CLIENT, OTHER, OUTSIDER = pack("10.0.0.2"), pack("10.0.0.3"), pack("172.16.0.1")
CLIENT6, NEIGHBOUR6 = pack("2001:db8:1:2::a"), pack("2001:db8:1:2::b")
SERVER, SERVER2, RESOLVER = pack("192.0.2.1"), pack("192.0.2.2"), pack("9.9.9.9")
ACCESS = ((pack("10.0.0.0"), 104), (pack("2001:db8::"), 32))
DELTA = np.dtype(
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        ("up_bytes", "u8"),
        ("down_bytes", "u8"),
        ("up_packets", "u8"),
        ("down_packets", "u8"),
        ("start_ns", "i8"),
        ("seen_ns", "i8"),
        ("ended", "?"),
        ("first", "?"),
        ("flow_id", "u4"),
        ("inbound", "?"),
    ]
)


def flow(
    start: int,
    seen: int,
    up: int = 100,
    down: int = 1000,
    *,
    client: bytes = CLIENT,
    server: bytes = SERVER,
    protocol: int = 6,
    port: int = 40000,
    server_port: int = 443,
    ended: bool = False,
    inbound: bool = False,
) -> Any:
    """One delta; times in seconds after T0."""
    return np.array(
        [
            (
                client,
                server,
                protocol,
                port,
                server_port,
                up,
                down,
                1,
                1,
                T0 + start * S,
                T0 + seen * S,
                ended,
                False,
                7,
                inbound,
            )
        ],
        DELTA,
    )


def seen(
    at: float,
    host: str,
    *,
    client: bytes = CLIENT,
    server: bytes = SERVER,
    evidence: Any = "tls",
    port: int = 40000,
    server_port: int = 443,
    ech: bool = False,
) -> HostSeen:
    protocol = 17 if evidence == "quic" else 6
    at_ns = T0 + int(at * S)
    return HostSeen(at_ns, evidence, client, server, protocol, port, server_port, host, ech)


def resolved(at: int, host: str, *addresses: bytes, client: bytes = CLIENT) -> Resolution:
    return Resolution(T0 + at * S, client, RESOLVER, host, addresses or (SERVER,))


def hosts(**changes: Any) -> Hosts:
    return Hosts(HostsConfig(ACCESS, **changes))


def take(tracker: Hosts, number: int = 0) -> list[dict[str, Any]]:
    """The rows of window `number`, each as a dict; the columns are checked to be whole."""
    start = T0 + number * WINDOW
    columns = tracker.take(start, start + WINDOW, start + WINDOW + S)["visit"]
    assert set(columns) == set(VISIT.names)
    (length,) = {len(values) for values in columns.values()}
    values = {name: np.asarray(column).tolist() for name, column in columns.items()}
    rows = [{name: values[name][i] for name in columns} for i in range(length)]
    for row in rows:
        assert row["record_id"] == record_id("visit", *(row[name] for name in VISIT.key))
        assert (row["start_ns"], row["end_ns"]) == (start, start + WINDOW)
        assert start <= row["first_ns"] <= row["last_ns"] < start + WINDOW
        assert row["connections"] + row["up_bytes"] + row["down_bytes"] > 0
        assert row["observed_ns"] == start + WINDOW + S
    assert len({row["record_id"] for row in rows}) == length
    balanced(tracker)
    return rows


def balanced(tracker: Hosts) -> None:
    for counts in tracker.counts.values():
        total = counts["recorded"] + counts["ignored"] + counts["lost"] + counts["open"]
        assert counts["seen"] == total
        rules = sum(n for name, n in counts.items() if name.startswith("ignored."))
        assert counts["ignored"] == rules


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, str, int, int, int]]:
    return [
        (r["host"], r["evidence"], int(r["connections"]), int(r["up_bytes"]), int(r["down_bytes"]))
        for r in rows
    ]


def test_a_handshake_and_its_flow_make_one_visit() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    tracker.flows(flow(9, 60, 100, 1000))
    tracker.flows(flow(9, 120, 5, 50, ended=True))
    (row,) = take(tracker)
    assert brief([row]) == [("a.example", "tls", 1, 105, 1050)]
    assert (row["address"], row["prefix_len"]) == (CLIENT, 128)
    assert (row["server"], row["server_port"], row["protocol"]) == (SERVER, 443, 6)
    assert (row["first_ns"], row["last_ns"]) == (T0 + 9 * S, T0 + 120 * S)
    assert take(tracker, 1) == []


def test_a_name_after_the_delta_claims_the_whole_window() -> None:
    tracker = hosts()
    tracker.flows(flow(9, 60))
    tracker.seen(seen(61, "late.example", evidence="http"))
    tracker.flows(flow(9, 120))
    assert brief(take(tracker)) == [("late.example", "http", 1, 200, 2000)]


def test_an_open_flow_keeps_its_name_and_counts_once() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    tracker.flows(flow(9, 290))
    assert brief(take(tracker)) == [("a.example", "tls", 1, 100, 1000)]
    assert take(tracker, 1) == []  # idle for a window
    tracker.flows(flow(9, 700, ended=True))
    (row,) = take(tracker, 2)
    assert brief([row]) == [("a.example", "tls", 0, 100, 1000)]
    assert row["first_ns"] == row["start_ns"]


def test_a_handshake_without_a_flow_is_a_visit_of_no_bytes_and_not_counted_again() -> None:
    tracker = hosts()
    tracker.seen(seen(299, "a.example", ech=True))
    (row,) = take(tracker)
    assert brief([row]) == [("a.example", "tls", 1, 0, 0)]
    assert row["flags"] == VISIT_ECH
    tracker.flows(flow(298, 400))
    assert brief(take(tracker, 1)) == [("a.example", "tls", 0, 100, 1000)]


def test_an_end_that_moved_nothing_is_no_row() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    tracker.resolved(resolved(5, "d.example", SERVER2))
    tracker.flows(flow(9, 290))
    tracker.flows(flow(9, 290, server=SERVER2))
    assert len(take(tracker)) == 2
    tracker.flows(flow(9, 310, 0, 0, ended=True))
    tracker.flows(flow(9, 310, 0, 0, server=SERVER2, ended=True))
    tracker.seen(seen(311, "new.example", port=2))
    assert brief(take(tracker, 1)) == [("new.example", "tls", 1, 0, 0)]
    counts = tracker.counts["flows"]
    assert (counts["recorded"], counts["ignored.idle"]) == (2, 2)


def test_a_row_is_whole_where_only_one_of_its_flows_was_idle() -> None:
    tracker = hosts()
    tracker.resolved(resolved(5, "a.example"))
    tracker.flows(np.concatenate([flow(9, 290, port=1), flow(9, 290, port=2)]))
    take(tracker)
    idle, busy = flow(9, 330, 0, 0, port=1, ended=True), flow(9, 320, 0, 7, port=2)
    tracker.flows(np.concatenate([idle, busy]))
    (row,) = take(tracker, 1)
    assert brief([row]) == [("a.example", "dns", 0, 0, 7)]
    assert row["last_ns"] == T0 + 330 * S
    assert tracker.counts["flows"]["recorded"] == 4


def test_a_repeat_without_traffic_is_no_row_either() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example", evidence="http"))
    take(tracker)
    tracker.seen(seen(400, "a.example", evidence="http"))
    assert take(tracker, 1) == []
    assert tracker.counts["names"]["ignored.unrecorded"] == 1


def test_what_the_subscriber_looked_up_does_not_name_who_calls() -> None:
    tracker = hosts()
    tracker.resolved(resolved(5, "looked-up.example"))
    tracker.flows(flow(10, 60, 7, 3, port=8080, server_port=50_000, inbound=True))
    tracker.flows(flow(10, 70, 7, 3, port=8080, server_port=50_000, inbound=True, ended=True))
    assert take(tracker) == []
    counts = tracker.counts["flows"]
    assert (counts["ignored.inbound"], counts["bytes.inbound"]) == (2, 20)
    assert (counts["ignored.nameless"], counts["bytes.nameless"]) == (0, 0)
    tracker.flows(flow(310, 360, port=8080, server_port=50_000))
    assert brief(take(tracker, 1)) == [("looked-up.example", "dns", 1, 100, 1000)]


def test_a_handshake_of_the_subscriber_names_a_flow_opened_from_outside() -> None:
    tracker = hosts()
    tracker.seen(seen(11, "own.example", port=5222, server_port=50_000))
    tracker.seen(seen(11, "callers.example", client=SERVER, server=CLIENT, port=50_000))
    tracker.flows(flow(10, 60, port=5222, server_port=50_000, inbound=True))
    assert brief(take(tracker)) == [("own.example", "tls", 1, 100, 1000)]
    assert tracker.counts["names"]["ignored.unrecorded"] == 1


def test_quic_is_stamped_before_its_flow() -> None:
    tracker = hosts()
    tracker.seen(seen(9.999, "q.example", evidence="quic"))
    tracker.flows(flow(10, 60, protocol=17))
    assert brief(take(tracker)) == [("q.example", "quic", 1, 100, 1000)]


def test_dns_names_a_flow_only_with_a_flow() -> None:
    tracker = hosts()
    tracker.resolved(resolved(1, "unused.example", SERVER2))
    tracker.resolved(resolved(2, "old.example"))
    tracker.resolved(resolved(5, "used.example", SERVER2, SERVER))
    tracker.resolved(resolved(20, "later.example"))
    tracker.resolved(resolved(6, "strangers.example", client=OTHER))
    tracker.flows(flow(10, 60, ended=True, server_port=22))
    assert brief(take(tracker)) == [("used.example", "dns", 1, 100, 1000)]


def test_the_first_dns_name_stays_with_the_flow() -> None:
    tracker = hosts()
    tracker.resolved(resolved(5, "a.example"))
    tracker.flows(flow(10, 60))
    take(tracker)
    tracker.resolved(resolved(310, "b.example"))
    tracker.flows(flow(10, 400))
    assert brief(take(tracker, 1)) == [("a.example", "dns", 0, 100, 1000)]


def test_a_look_up_repeated_in_the_window_still_names_the_flow_before_it() -> None:
    tracker = hosts(answer_life_ns=100 * S)
    tracker.resolved(resolved(5, "a.example"))
    tracker.flows(flow(10, 60))
    tracker.resolved(resolved(70, "a.example"))
    tracker.flows(flow(171, 180, port=1))  # older than the latest answer may be
    tracker.resolved(resolved(190, "a.example"))
    tracker.flows(flow(180, 250, port=2))
    tracker.flows(flow(191, 250, 1, 1, port=3))
    assert brief(take(tracker)) == [("a.example", "dns", 2, 101, 1001)]


def test_latest_hosts_of_an_address_are_remembered() -> None:
    tracker = hosts()
    for number in range(answer_runs.RUNS_PER_SERVER + 2):
        tracker.resolved(resolved(10 * number, f"h{number}.example"))
        tracker.flows(flow(10 * number + 1, 200, port=number))
    named = sorted(row["host"] for row in take(tracker))
    assert named == [f"h{number}.example" for number in range(2, answer_runs.RUNS_PER_SERVER + 2)]


def test_a_handshake_beats_dns_even_later() -> None:
    tracker = hosts()
    tracker.resolved(resolved(5, "alias.example"))
    tracker.flows(flow(10, 60))
    assert brief(take(tracker)) == [("alias.example", "dns", 1, 100, 1000)]
    tracker.seen(seen(350, "real.example"))
    tracker.flows(flow(10, 400))
    assert brief(take(tracker, 1)) == [("real.example", "tls", 1, 100, 1000)]


def test_an_answer_ages_but_not_by_the_windows_in_between() -> None:
    tracker = hosts(answer_life_ns=1000 * S)
    tracker.resolved(resolved(0, "a.example"))
    for number in range(3):
        take(tracker, number)
    tracker.flows(flow(999, 1100, port=1))
    tracker.flows(flow(1001, 1100, port=2))
    assert brief(take(tracker, 3)) == [("a.example", "dns", 1, 100, 1000)]
    for number in range(4, 9):
        take(tracker, number)
    assert tracker._answers.size == 0


def test_several_hosts_on_one_connection() -> None:
    tracker = hosts()
    for at, host in ((10, "a.example"), (11, "b.example"), (12, "a.example")):
        tracker.seen(seen(at, host, evidence="http", server_port=80))
    tracker.flows(flow(9, 60, server_port=80))
    rows = sorted(brief(take(tracker)))
    assert rows == [("a.example", "http", 1, 100, 1000), ("b.example", "http", 1, 0, 0)]
    assert tracker.counts["names"]["ignored.unrecorded"] == 1


def test_rows_merge_by_host_server_and_prefix() -> None:
    tracker = hosts()
    for port, client in ((1, CLIENT6), (2, NEIGHBOUR6)):
        tracker.seen(seen(10 + port, "a.example", client=client, port=port))
        tracker.flows(flow(9, 60, client=client, port=port))
    tracker.resolved(resolved(5, "a.example", client=CLIENT6))
    tracker.flows(flow(8, 61, client=CLIENT6, port=3))
    tracker.seen(seen(12, "a.example", client=CLIENT6, server=SERVER2, port=4))
    rows = take(tracker)
    assert brief(rows) == [("a.example", "tls", 3, 300, 3000), ("a.example", "tls", 1, 0, 0)]
    assert {(row["address"], row["prefix_len"]) for row in rows} == {(network(CLIENT6, 64), 64)}


def test_what_is_no_visit_is_counted_by_rule() -> None:
    tracker = hosts()
    tracker.seen(seen(1, "a.example", client=OUTSIDER))
    tracker.resolved(resolved(1, "a.example", client=OUTSIDER))
    tracker.resolved(Resolution(T0, CLIENT, RESOLVER, "none.example", ()))
    tracker.resolved(resolved(1, "resolver.example", RESOLVER, SERVER))
    tracker.flows(flow(5, 10, client=OUTSIDER))
    tracker.flows(flow(5, 10, server=RESOLVER, server_port=53, protocol=17))
    tracker.flows(flow(5, 10, protocol=1))
    tracker.flows(flow(5, 10, server=SERVER2, up=7, down=3))
    tracker.flows(flow(5, 10))
    assert len(take(tracker)) == 1
    counts = tracker.counts
    assert counts["names"]["ignored.unrecorded"] == 1
    assert counts["answers"]["ignored.outsider"] == counts["answers"]["ignored.no-address"] == 1
    for rule in ("outsider", "resolver", "no-ports", "nameless"):
        assert counts["flows"][f"ignored.{rule}"] == 1
    assert (counts["flows"]["bytes.named"], counts["flows"]["bytes.nameless"]) == (1100, 10)


def test_ports_used_again_in_one_window() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "first.example"))
    tracker.flows(flow(9, 20, 1, 2, ended=True))
    tracker.seen(seen(110, "second.example"))
    tracker.flows(flow(109, 120, 3, 4, ended=True))
    tracker.seen(seen(210, "third.example"))
    tracker.flows(flow(209, 220, 5, 6))
    rows = sorted(brief(take(tracker)))
    assert rows == [
        ("first.example", "tls", 1, 1, 2),
        ("second.example", "tls", 1, 3, 4),
        ("third.example", "tls", 1, 5, 6),
    ]
    tracker.flows(flow(209, 320, 7, 8))
    assert brief(take(tracker, 1)) == [("third.example", "tls", 0, 7, 8)]


def test_a_new_flow_does_not_inherit_the_name_of_one_whose_end_was_missed() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "first.example"))
    tracker.flows(flow(9, 20))
    take(tracker)
    tracker.flows(flow(400, 410))
    assert take(tracker, 1) == []
    assert tracker._names == {}


def test_a_name_after_the_end_waits_for_the_next_flow_on_its_ports() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "first.example"))
    tracker.flows(flow(9, 20, ended=True))
    tracker.seen(seen(299, "second.example"))
    assert sorted(brief(take(tracker))) == [
        ("first.example", "tls", 1, 100, 1000),
        ("second.example", "tls", 1, 0, 0),
    ]
    tracker.flows(flow(298, 310, ended=True))
    assert brief(take(tracker, 1)) == [("second.example", "tls", 0, 100, 1000)]


def test_a_name_after_the_next_flow_began_is_not_of_the_one_before() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "first.example"))
    tracker.seen(seen(110, "second.example"))
    tracker.flows(flow(9, 20, 1, 2))
    tracker.flows(flow(109, 120, 3, 4))
    assert sorted(brief(take(tracker))) == [
        ("first.example", "tls", 1, 1, 2),
        ("second.example", "tls", 1, 3, 4),
    ]


def test_the_same_host_on_the_same_ports_again_is_a_new_connection() -> None:
    tracker = hosts()
    for at in (10, 11, 100):
        tracker.seen(seen(at, "a.example"))
    assert brief(take(tracker)) == [("a.example", "tls", 2, 0, 0)]


def test_what_belongs_to_the_next_window_waits() -> None:
    tracker = hosts()
    tracker.seen(seen(301, "next.example"))
    tracker.flows(flow(301, 302))
    assert take(tracker) == []
    assert tracker.counts["flows"]["open"] == 1
    assert brief(take(tracker, 1)) == [("next.example", "tls", 1, 100, 1000)]


def test_flows_without_a_start_time_still_join() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    delta = flow(0, 60)
    delta["start_ns"] = 0
    tracker.flows(delta)
    (row,) = take(tracker)
    assert brief([row]) == [("a.example", "tls", 1, 100, 1000)]


def test_sums_are_exact_beyond_floats() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    for up in (2**60, 1, 1):
        tracker.flows(flow(9, 60, up=up))
    (row,) = take(tracker)
    assert int(row["up_bytes"]) == 2**60 + 2


def test_full_tables_evict_and_tell() -> None:
    tracker = hosts(max_flows=2, max_answers=3, max_answers_per_client=2)
    for port in range(4):
        tracker.seen(seen(10 + port, f"h{port}.example", port=port))
    for client, count in ((CLIENT, 4), (OTHER, 2)):
        for i in range(count):
            address = pack(f"192.0.2.{100 + i}")
            tracker.resolved(resolved(i, f"d{i}.example", address, client=client))
    assert sorted(r[0] for r in brief(take(tracker))) == ["h2.example", "h3.example"]
    assert tracker.counts["names"]["lost"] == 2
    assert tracker.counts["answers"]["evicted"] == 3
    losses = {loss.reason: loss for loss in tracker.losses()}
    assert {reason: loss.amount for reason, loss in losses.items()} == {
        "name-table-full": 2,
        "answer-table-full": 3,
    }
    assert all(loss.classes == ("visit",) for loss in losses.values())
    assert tracker.losses() == []
    assert tracker._answers.size == 3


def test_too_many_hosts_on_one_connection_drop_the_oldest() -> None:
    tracker = hosts()
    for i in range(module.MAX_NAMES_PER_FLOW + 1):
        tracker.seen(seen(10, f"h{i}.example", evidence="http"))
    assert len(take(tracker)) == module.MAX_NAMES_PER_FLOW
    assert tracker.counts["names"]["lost"] == 1


def test_names_that_no_flow_confirms_are_forgotten() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    tracker.seen(seen(10, "open.example", port=2))
    tracker.flows(flow(9, 60, port=2))
    for number in range(5):
        take(tracker, number)
    assert len(tracker._names) == 1
    tracker.flows(flow(9, 1600, port=1, server=SERVER2))
    assert take(tracker, 5) == []


def test_a_snapshot_keeps_open_flows_and_tells_what_it_does_not() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example", ech=True))
    tracker.flows(flow(9, 60))
    take(tracker)
    tracker.seen(seen(301, "uncounted.example", port=2))
    state = json.loads(json.dumps(tracker.snapshot()))
    after = hosts()
    after.restore(state, T0 + 400 * S)
    (loss,) = after.losses()
    assert (loss.start_ns, loss.end_ns) == (T0 + WINDOW, T0 + 400 * S)
    assert (loss.reason, loss.amount, loss.classes) == ("restart", -1, ("visit",))
    after.flows(flow(9, 420))
    rows = take(after, 1)
    assert sorted(brief(rows)) == [
        ("a.example", "tls", 0, 100, 1000),
        ("uncounted.example", "tls", 1, 0, 0),
    ]
    assert [row["flags"] for row in rows if row["host"] == "a.example"] == [VISIT_ECH]


def test_overlapping_prefixes_and_their_edges() -> None:
    access = ((pack("10.0.0.0"), 120), (pack("10.0.0.0"), 121), (pack("10.0.2.0"), 120))
    tracker = Hosts(HostsConfig(access))
    verdicts = {}
    for text in ("9.255.255.255", "10.0.0.0", "10.0.0.255", "10.0.1.0", "10.0.2.255", "10.0.3.0"):
        before = tracker.counts["names"]["ignored.unrecorded"]
        tracker.seen(seen(1, "a.example", client=pack(text)))
        verdicts[text] = tracker.counts["names"]["ignored.unrecorded"] == before
    assert [text for text, inside in verdicts.items() if inside] == [
        "10.0.0.0",
        "10.0.0.255",
        "10.0.2.255",
    ]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["seen", "resolved", "flow", "end", "take"]),
        st.integers(0, 3),
        st.sampled_from(["a.example", "b.example"]),
        st.integers(1, 90),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_every_named_byte_is_in_one_row_and_counts_balance(events: list[Any]) -> None:
    tracker = hosts(max_flows=3, max_answers=3)
    now, number, total = 0, 0, 0
    for kind, port, host, step in events:
        now += step
        while now >= (number + 1) * 300:
            total += sum(int(row["up_bytes"] + row["down_bytes"]) for row in take(tracker, number))
            number += 1
        if kind == "seen":
            tracker.seen(seen(now, host, port=port))
        elif kind == "resolved":
            tracker.resolved(resolved(now, host))
        elif kind in ("flow", "end"):
            size = step % 3  # bytes each way
            begun = max(0, now - 50)
            tracker.flows(flow(begun, now, size, size, port=port, ended=kind == "end"))
        balanced(tracker)
    for left in range(number, number + 3):
        total += sum(int(row["up_bytes"] + row["down_bytes"]) for row in take(tracker, left))
    counts = tracker.counts
    assert total == counts["flows"]["bytes.named"]
    assert counts["flows"]["open"] == counts["names"]["open"] == 0


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.booleans())
def test_flows_joined_by_columns_are_joined_as_one_by_one(events: list[Any], fine: bool) -> None:
    def told(slow: bool) -> tuple[list[str], Any]:
        tracker, now = hosts(by_connection=fine), 0
        rows = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(visit_flows, "_CHUNK", 2)
            if slow:
                patch.setattr(module, "told_once", lambda deltas, _: np.zeros(len(deltas), bool))
            for kind, port, host, step in events:
                now = min(now + step, 290)
                if kind == "seen":
                    tracker.seen(seen(now, host, port=port))
                elif kind == "resolved":
                    tracker.resolved(resolved(now, host))
                elif kind != "take":
                    begun, end = max(-1, now - step), kind == "end"
                    delta = flow(begun, now, step % 3, 1, port=port, ended=end, inbound=step == 9)
                    delta["start_ns"] *= step % 5 != 0  # the kernel may not say
                    tracker.flows(delta)
            for number in range(2):
                rows += take(tracker, number)
        return sorted(str(sorted(row.items())) for row in rows), (tracker.counts, tracker._names)

    assert told(slow=False) == told(slow=True)


def test_the_fields_read_are_those_of_flow_deltas() -> None:
    assert set(NO_DELTAS.dtype.names or ()) <= set(flow_delta.DELTA.names or ())
    assert flow_delta.DELTA == DELTA


def test_the_columns_are_those_of_the_record_class() -> None:
    tracker = hosts()
    tracker.seen(seen(10, "a.example"))
    tracker.flows(flow(9, 60))
    columns = tracker.take(T0, T0 + WINDOW, T0 + WINDOW)["visit"]
    assert record_batch("visit", columns).num_rows == 1


def test_detail_by_connection_has_a_row_and_bytes_for_each() -> None:
    events = [seen(1, "a.example"), seen(2, "a.example", port=40001), seen(3, "b.example")]
    deltas = [flow(1, 9, 100, 1000), flow(2, 9, 5, 50, port=40001), flow(4, 9, 7, 70, port=40002)]
    rows = {}
    for detail in (False, True):
        tracker = hosts(by_connection=detail)
        for event in events:
            tracker.seen(event)
        tracker.resolved(resolved(0, "c.example"))
        for delta in deltas:
            tracker.flows(delta)
        rows[detail] = take(tracker)
    told = [(r["host"], r["client_port"], r["connections"], r["up_bytes"]) for r in rows[True]]
    assert sorted(told) == [
        ("a.example", 40000, 1, 100),
        ("a.example", 40001, 1, 5),
        ("b.example", 40000, 1, 0),  # the second host of a connection has a row without bytes
        ("c.example", 40002, 1, 7),
    ]
    together = [(r["host"], r["client_port"], r["connections"], r["up_bytes"]) for r in rows[False]]
    assert sorted(together) == [
        ("a.example", 0, 2, 105), ("b.example", 0, 1, 0), ("c.example", 0, 1, 7)
    ]  # fmt: skip
    for total in ("connections", "up_bytes", "down_bytes"):
        assert sum(r[total] for r in rows[True]) == sum(r[total] for r in rows[False])
