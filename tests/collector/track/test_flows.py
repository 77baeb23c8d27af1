"""Scripts of dumps and DESTROY events, and what is told of them; then a random kernel."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.conntrack import COLUMNS, DESTROY, DUMP, NEW
from collector.track.flow_config import MappingConfig
from collector.track.flow_table import FORGET, UNSEEN, Keys, Tombstones
from collector.track.flows import DELTA, FlowConfig, Flows
from collector.track.inside import MAX_PREFIXES, Prefixes
from collector.wire.addr import MAPPED, network, pack
from collector.wire.columns import record_batch
from collector.wire.records import record_id

S = 10**9
T0 = 1_700_000_000 * S
ACCESS = ((pack("10.0.0.0"), 104), (pack("2001:db8:100::"), 40))
CONFIG = FlowConfig(ACCESS)
HOME, HOME6 = pack("10.1.2.3"), pack("2001:db8:1ff:7::9")
WORLD, WORLD6 = pack("192.0.2.7"), pack("2001:db8:ffff::1")
PUBLIC = pack("203.0.113.5")


def row(
    flow: int = 1,
    counters: tuple[int, int, int, int] = (100, 1, 200, 2),
    start_ns: int = T0 + S,
    **fields: Any,
) -> Any:
    """One conntrack row of HOME to WORLD:443; counters = orig bytes, packets, reply likewise."""
    one = np.zeros(1, COLUMNS)
    values = {
        "id": flow,
        "start_ns": start_ns,
        "orig_src": HOME,
        "orig_dst": WORLD,
        "orig_sport": 4000 + flow,
        "orig_dport": 443,
        "protocol": 6,
        "kind": DUMP,
        "counted": True,
        **dict(zip(COUNTERS, counters, strict=True)),
        **fields,
    }
    for side, other in (("src", "dst"), ("dst", "src"), ("sport", "dport"), ("dport", "sport")):
        values.setdefault(f"reply_{side}", values[f"orig_{other}"])
    for name, value in values.items():
        one[name] = np.void(value) if isinstance(value, bytes) else value
    return one


COUNTERS = ("orig_bytes", "orig_packets", "reply_bytes", "reply_packets")


def mapped(flows: Flows, end_ns: int) -> dict[str, Any]:
    """The mapping columns of a window that ends then and is closed at once."""
    return dict(flows.take(T0, end_ns, end_ns)["mapping"])


def rows(*many: Any) -> Any:
    return np.concatenate([np.zeros(0, COLUMNS), *many])


def end(flow: int = 1, stop_ns: int = T0 + 9 * S, **fields: Any) -> Any:
    return row(flow, kind=DESTROY, stop_ns=stop_ns, **fields)


def told(deltas: Any) -> list[tuple[int, ...]]:
    """(flow, up bytes, down bytes, up packets, down packets, first, ended) of each delta."""
    names = ("flow_id", "up_bytes", "down_bytes", "up_packets", "down_packets", "first", "ended")
    assert deltas.dtype == DELTA
    return sorted(tuple(int(one[name]) for name in names) for one in deltas)


def balanced(flows: Flows) -> bool:
    counts = flows.counts
    ignored = ("outside", "baseline", "late", "duplicate", "other")
    lost = ("reset", "no_baseline", "uncounted", "untracked")
    return (
        counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
        and counts["ignored"] == sum(counts[name] for name in ignored)
        and counts["lost"] == sum(counts[name] for name in lost)
    )


def reasons(flows: Flows) -> dict[str, int]:
    return {loss.reason: loss.amount for loss in flows.losses()}


def test_a_short_flow_is_told_by_its_end_alone() -> None:
    flows = Flows(CONFIG, T0)
    deltas = flows.destroyed(rows(end()), T0 + 10 * S)
    assert told(deltas) == [(1, 100, 200, 1, 2, True, True)]
    (one,) = deltas
    assert (one["client"].tobytes(), one["server"].tobytes()) == (HOME, WORLD)
    assert (one["client_port"], one["server_port"], one["protocol"]) == (4001, 443, 6)
    assert (one["start_ns"], one["seen_ns"]) == (T0 + S, T0 + 9 * S)
    assert flows.ended_counts() == {(HOME, 128): 1}
    assert flows.ended_counts() == {}
    assert balanced(flows)


def test_a_long_flow_is_told_in_differences() -> None:
    flows = Flows(CONFIG, T0)
    assert told(flows.dump(row(), T0 + 2 * S)) == [(1, 100, 200, 1, 2, True, False)]
    assert told(flows.dump(row(), T0 + 3 * S)) == []
    more = row(counters=(150, 2, 200, 2))
    assert told(flows.dump(more, T0 + 4 * S)) == [(1, 50, 0, 1, 0, False, False)]
    final = end(counters=(151, 3, 290, 4))
    assert told(flows.destroyed(final, T0 + 9 * S)) == [(1, 1, 90, 1, 2, False, True)]
    assert flows.counts["open"] == 0 and flows.counts["ended"] == 1
    assert flows.counts["octets"] == 151 + 290
    assert balanced(flows) and flows.losses() == []


def test_an_end_without_news_is_told_with_no_bytes() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(), T0 + 2 * S)
    assert told(flows.destroyed(end(), T0 + 9 * S)) == [(1, 0, 0, 0, 0, False, True)]


def test_the_world_may_open_a_flow() -> None:
    """DNAT: the world called PUBLIC:8080, the home answers from its port 80."""
    inbound = end(
        orig_src=WORLD,
        orig_sport=5555,
        orig_dst=PUBLIC,
        orig_dport=8080,
        reply_src=HOME,
        reply_sport=80,
        reply_dst=WORLD,
        reply_dport=5555,
    )
    flows = Flows(CONFIG, T0)
    (one,) = flows.destroyed(inbound, T0 + 9 * S)
    assert one["inbound"]
    assert (one["client"].tobytes(), one["client_port"]) == (HOME, 80)
    assert (one["server"].tobytes(), one["server_port"]) == (WORLD, 5555)
    assert (one["up_bytes"], one["down_bytes"]) == (200, 100)
    assert (one["up_packets"], one["down_packets"]) == (2, 1)
    columns = mapped(flows, T0 + 10 * S)
    assert bytes(columns["inside_address"][0].tobytes()) == HOME
    assert bytes(columns["public_address"][0].tobytes()) == PUBLIC
    assert (columns["inside_port"][0], columns["port_first"][0]) == (80, 8080)


def test_between_two_subscribers_the_caller_is_the_client() -> None:
    flows = Flows(CONFIG, T0)
    (one,) = flows.destroyed(end(orig_dst=pack("10.9.9.9")), T0 + 9 * S)
    assert one["client"].tobytes() == HOME and not one["inbound"]


def test_strangers_are_ignored_and_counted() -> None:
    flows = Flows(CONFIG, T0)
    strange = row(orig_src=WORLD, orig_dst=PUBLIC)
    assert told(flows.dump(rows(strange, row(2)), T0 + 2 * S)) == [(2, 100, 200, 1, 2, True, False)]
    assert flows.counts["outside"] == 1 and flows.counts["open"] == 1 and balanced(flows)


def test_a_flow_older_than_the_collector_is_a_baseline() -> None:
    flows = Flows(CONFIG, T0)
    old: dict[str, Any] = {"start_ns": T0 - 1}
    assert told(flows.dump(row(**old), T0 + S)) == []
    assert told(flows.dump(row(counters=(101, 2, 200, 2), **old), T0 + 2 * S)) == [
        (1, 1, 0, 1, 0, False, False)
    ]
    assert flows.counts["baseline"] == 1 and balanced(flows) and flows.losses() == []


def test_the_end_of_an_old_flow_without_baseline_is_a_loss() -> None:
    flows = Flows(CONFIG, T0)
    deltas = flows.destroyed(rows(end(start_ns=T0 - 1), end(2, start_ns=0)), T0 + 9 * S)
    assert told(deltas) == [(1, 0, 0, 0, 0, False, True), (2, 0, 0, 0, 0, False, True)]
    # Without a start from the kernel, the end is the first that was seen of it.
    assert sorted(deltas["start_ns"].tolist()) == [T0 - 1, T0 + 9 * S]
    (loss,) = flows.losses()
    assert (loss.stage, loss.reason, loss.amount) == ("conntrack", "no-baseline", 2)
    assert (loss.start_ns, loss.end_ns) == (T0, T0 + 9 * S)
    assert balanced(flows)


def test_a_flow_that_the_kernel_did_not_count_is_a_loss() -> None:
    flows = Flows(CONFIG, T0)
    deltas = flows.destroyed(end(counters=(0, 0, 0, 0), counted=False), T0 + 9 * S)
    assert told(deltas) == [(1, 0, 0, 0, 0, True, True)]
    assert reasons(flows) == {"uncounted": 1} and balanced(flows)


@pytest.mark.parametrize("final", [False, True])
def test_a_counter_that_fell_is_a_new_baseline(final: bool) -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(counters=(100, 5, 200, 5)), T0 + 2 * S)
    fallen = (150, 1, 250, 6)  # the packets up say that all of it began anew
    if final:
        deltas = flows.destroyed(end(counters=fallen), T0 + 9 * S)
        assert told(deltas) == [(1, 0, 0, 0, 0, False, True)]
    else:
        assert told(flows.dump(row(counters=fallen), T0 + 3 * S)) == []
        after = flows.dump(row(counters=(160, 2, 251, 7)), T0 + 4 * S)
        assert told(after) == [(1, 10, 1, 1, 1, False, False)]
    assert reasons(flows) == {"reset": 1} and balanced(flows)


def test_ids_are_used_again_with_another_start() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(), T0 + 2 * S)
    again = row(counters=(7, 1, 7, 1), start_ns=T0 + 3 * S)
    deltas = flows.dump(again, T0 + 4 * S)
    assert told(deltas) == [(1, 7, 7, 1, 1, True, False)]


def test_a_dump_older_than_the_end_brings_nothing_back() -> None:
    """The dump was read, then the flow ended, then the dump was taken in."""
    for known in (False, True):
        flows = Flows(CONFIG, T0)
        if known:
            flows.dump(row(), T0 + 2 * S)
        flows.destroyed(end(counters=(500, 5, 500, 5)), T0 + 9 * S)
        for _ in range(3):
            assert told(flows.dump(row(counters=(400, 4, 400, 4)), T0 + 9 * S)) == []
        assert flows.counts["late"] == 3 and flows.counts["open"] == 0 and balanced(flows)


def test_a_second_end_counts_nothing() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(), T0 + 2 * S)
    assert len(flows.destroyed(rows(end(), end()), T0 + 9 * S)) == 1
    assert len(flows.destroyed(end(), T0 + 10 * S)) == 0
    assert flows.counts["duplicate"] == 1 and flows.counts["late"] == 1
    assert flows.ended_counts() == {(HOME, 128): 1} and balanced(flows)


def test_of_two_readings_in_one_dump_the_later_counts() -> None:
    flows = Flows(CONFIG, T0)
    twice = rows(row(counters=(200, 2, 200, 2)), row(), row(2))
    assert told(flows.dump(twice, T0 + 2 * S)) == [
        (1, 200, 200, 2, 2, True, False),
        (2, 100, 200, 1, 2, True, False),
    ]
    assert flows.counts["duplicate"] == 1 and balanced(flows)


def test_a_flow_that_vanished_is_ended_after_two_dumps() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(rows(row(), row(2)), T0 + 2 * S)
    for missed in range(1, FORGET + 3):
        deltas = flows.dump(row(2), T0 + (2 + missed) * S)
        assert told(deltas) == ([(1, 0, 0, 0, 0, False, True)] if missed == UNSEEN else [])
    assert flows.counts["ended_unseen"] == flows.counts["ended"] == 1
    assert flows.counts["open"] == 1
    assert flows.ended_counts() == {(HOME, 128): 1}
    assert reasons(flows) == {"ended-unseen": 1} and balanced(flows)


def test_a_late_end_of_a_vanished_flow_adds_its_rest_once() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(), T0 + 2 * S)
    for second in range(UNSEEN):
        flows.dump(rows(), T0 + (3 + second) * S)
    deltas = flows.destroyed(end(counters=(130, 2, 230, 3)), T0 + 9 * S)
    assert told(deltas) == [(1, 30, 30, 1, 1, False, False)]
    assert flows.counts["ended"] == 1 and flows.ended_counts() == {(HOME, 128): 1}


def test_a_dump_that_may_lack_entries_ends_nothing() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(), T0 + 2 * S)
    for second in range(10):
        assert len(flows.dump(rows(), T0 + (3 + second) * S, complete=False)) == 0
    more = row(counters=(101, 2, 200, 2))
    assert told(flows.dump(more, T0 + 20 * S)) == [(1, 1, 0, 1, 0, False, False)]


def test_a_full_table_loses_no_bytes_in_the_end() -> None:
    flows = Flows(replace(CONFIG, max_flows=2), T0)
    deltas = flows.dump(rows(row(1), row(2), row(3)), T0 + 2 * S)
    assert [one[0] for one in told(deltas)] == [1, 2]
    assert flows.counts["untracked"] == 1 and flows.counts["open"] == 2
    assert reasons(flows) == {"table-full": 1}
    # Told whole when it ends, and not before.
    deltas = flows.destroyed(end(3, counters=(900, 9, 9, 9)), T0 + 9 * S)
    assert told(deltas) == [(3, 900, 9, 9, 9, True, True)]
    assert balanced(flows)


def test_events_other_than_ends_are_ignored() -> None:
    flows = Flows(CONFIG, T0)
    assert len(flows.destroyed(rows(row(kind=NEW), row(2, kind=DUMP)), T0 + 2 * S)) == 0
    assert flows.counts["other"] == 2 and balanced(flows)


def test_ended_flows_are_counted_by_address_or_delegated_prefix() -> None:
    flows = Flows(CONFIG, T0)
    six: dict[str, Any] = {"orig_src": HOME6, "orig_dst": WORLD6}
    twin: dict[str, Any] = {"orig_src": pack("2001:db8:1ff:7:ffff::1"), "orig_dst": WORLD6}
    other: dict[str, Any] = {"orig_src": pack("2001:db8:1ff:8::9"), "orig_dst": WORLD6}
    flows.destroyed(rows(end(1), end(2), end(3, **six), end(4, **twin), end(5, **other)), T0)
    assert flows.ended_counts() == {
        (HOME, 128): 2,
        (network(HOME6, 64), 64): 2,
        (pack("2001:db8:1ff:8::"), 64): 1,
    }
    flows = Flows(replace(CONFIG, usage_prefix_len=56), T0)
    flows.destroyed(rows(end(3, **six), end(5, **other)), T0)
    assert flows.ended_counts() == {(pack("2001:db8:1ff::"), 56): 2}


NAT: dict[str, Any] = {"reply_dst": PUBLIC, "reply_dport": 61234}


def test_a_mapping_is_told_open_and_again_to_its_end() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(rows(row(**NAT), row(2)), T0 + 2 * S)
    first = flows.take(T0, T0 + 5 * S, T0 + 6 * S)["mapping"]
    assert record_batch("mapping", first).num_rows == 1
    assert (first["start_ns"][0], first["end_ns"][0]) == (T0 + S, T0 + 2 * S)
    assert first["observed_ns"][0] == T0 + 6 * S
    assert (first["inside_address"][0].tobytes(), first["inside_port"][0]) == (HOME, 4001)
    assert (first["public_address"][0].tobytes(), first["port_first"][0]) == (PUBLIC, 61234)
    assert (first["port_last"][0], first["protocol"][0], first["kind"][0]) == (61234, 6, "flow")
    identity = record_id("mapping", HOME, PUBLIC, 6, 61234, T0 + S)
    assert [bytes(each) for each in first["record_id"]] == [identity]

    flows.dump(row(**NAT), T0 + 7 * S)
    assert len(mapped(flows, T0 + 8 * S)["record_id"]) == 0
    flows.destroyed(end(stop_ns=T0 + 9 * S, **NAT), T0 + 9 * S)
    assert len(mapped(flows, T0 + 9 * S - 1)["record_id"]) == 0
    last = mapped(flows, T0 + 10 * S)
    assert [bytes(each) for each in last["record_id"]] == [identity]
    assert last["end_ns"].tolist() == [T0 + 9 * S]


def test_an_open_mapping_is_refreshed_and_only_the_newest_is_taken() -> None:
    flows = Flows(replace(CONFIG, mapping_refresh_ns=10 * S), T0)
    for second in (2, 5, 11, 12, 30):
        flows.dump(row(**NAT), T0 + second * S)
    columns = mapped(flows, T0 + 20 * S)
    assert columns["end_ns"].tolist() == [T0 + 12 * S]
    assert mapped(flows, T0 + 40 * S)["end_ns"].tolist() == [T0 + 30 * S]


def test_the_query_identifier_is_the_port_of_an_icmp_mapping() -> None:
    flows = Flows(CONFIG, T0)
    echo: dict[str, Any] = {
        "orig_sport": 77,
        "orig_dport": 8 * 256,
        "reply_sport": 88,
        "reply_dport": 0,
    }
    (one,) = flows.destroyed(end(protocol=1, reply_dst=PUBLIC, **echo), T0 + 9 * S)
    assert (one["client_port"], one["server_port"]) == (77, 8 * 256)
    columns = mapped(flows, T0 + 10 * S)
    assert (columns["inside_port"][0], columns["port_first"][0]) == (77, 88)


def test_mappings_can_be_off_and_are_bounded() -> None:
    flows = Flows(replace(CONFIG, mappings=MappingConfig("off")), T0)
    flows.destroyed(end(**NAT), T0 + 9 * S)
    assert len(mapped(flows, T0 + 10 * S)["record_id"]) == 0
    flows = Flows(replace(CONFIG, max_flows=2), T0)
    flows.destroyed(rows(*(end(i, **NAT) for i in range(5))), T0 + 9 * S)
    assert len(mapped(flows, T0 + 10 * S)["record_id"]) == 2
    assert reasons(flows)["mappings-full"] == 3


def test_keys_are_a_set_whichever_of_them_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.track.flow_table._MAX_LATEST", 50)
    keys, model, rng = Keys(), set[int](), np.random.default_rng(7)
    for _ in range(60):
        added, asked = rng.integers(0, 2**64, (2, 40), np.uint64, endpoint=False) % np.uint64(2_000)
        added[0] = asked[1] = np.uint64(2**64 - 1)
        keys.add(added)
        model.update(added.tolist())
        assert keys.holds(asked).tolist() == [key in model for key in asked.tolist()]
    assert len(model) <= len(keys) <= len(model) + 50
    assert not Keys().holds(np.array([0, 1], np.uint64)).any()
    assert len(keys.holds(np.zeros(0, np.uint64))) == 0


def test_tombstones_age_and_give_way() -> None:
    keys = np.arange(10, dtype=np.uint64)
    stones = Tombstones(age_ns=60, limit=100)
    assert stones.add(keys[:5], 0)
    assert stones.add(keys[5:], 119)
    assert stones.holds(keys).all()
    assert stones.add(keys[:0], 179)
    assert stones.holds(keys).tolist() == [False] * 5 + [True] * 5
    assert len(stones) == 5
    small = Tombstones(age_ns=1000, limit=5)
    assert small.add(keys[:5], 0) or small.add(keys[:0], 1)
    assert not small.add(keys[5:9], 2)
    assert len(small) == 9


@pytest.mark.parametrize("looks", range(UNSEEN))
def test_a_flow_gone_before_two_restarts_was_last_seen_before_the_first(looks: int) -> None:
    """The run between looked too few times to know that the flow had ended."""
    first = Flows(CONFIG, T0)
    first.dump(rows(row(1), row(2)), T0 + 2 * S)
    second = Flows(CONFIG, T0 + 50 * S)
    second.restore(first.snapshot(), T0 + 50 * S)
    for look in range(looks):
        second.dump(rows(row(1)), T0 + (51 + look) * S)
    third = Flows(CONFIG, T0 + 100 * S)
    third.restore(second.snapshot(), T0 + 100 * S)
    for look in range(UNSEEN):
        third.dump(rows(row(1)), T0 + (101 + look) * S)
    (unseen,) = [loss for loss in third.losses() if loss.reason == "ended-unseen"]
    assert (unseen.start_ns, unseen.amount) == (T0 + 2 * S, 1)


def test_a_restart_goes_on_from_the_snapshot() -> None:
    before = Flows(CONFIG, T0)
    old: dict[str, Any] = {"start_ns": T0 - 5}
    before.dump(rows(row(1), row(2, **old), row(3), row(4, **NAT)), T0 + 2 * S)
    before.destroyed(end(3), T0 + 3 * S)
    text = json.dumps(before.snapshot())
    after = Flows(CONFIG, T0 + 100 * S)
    after.restore(json.loads(text), T0 + 100 * S)
    assert after.counts["open"] == 3
    grown = (110, 2, 200, 2)
    deltas = after.dump(
        rows(
            row(1, counters=grown),
            row(2, counters=grown, **old),
            row(9, counters=grown),  # began while nobody watched: a baseline
        ),
        T0 + 101 * S,
    )
    assert told(deltas) == [(1, 10, 0, 1, 0, False, False), (2, 10, 0, 1, 0, False, False)]
    # Flow 4 ended meanwhile; its addresses are not in the snapshot, so its end is only counted.
    for second in range(1, UNSEEN):
        deltas = after.dump(rows(row(1), row(2, **old), row(9)), T0 + (101 + second) * S)
    (unseen,) = [loss for loss in after.losses() if loss.reason == "ended-unseen"]
    assert unseen.amount == 1
    # It was there in the last dump before the restart, and nobody saw when it went.
    assert (unseen.start_ns, unseen.end_ns) == (T0 + 2 * S, T0 + (100 + UNSEEN) * S)
    assert all(one[0] != 4 for one in told(deltas))
    deltas = after.destroyed(end(1, counters=(115, 3, 200, 2)), T0 + 110 * S)
    assert len(deltas) == 1 and deltas["ended"].all() and not deltas["first"].any()
    assert balanced(after)


def test_a_snapshot_holds_no_address() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(row(**NAT), T0 + 2 * S)
    packed = flows.snapshot()["columns"]
    assert isinstance(packed, dict)
    assert set(packed) == {
        *("key", "start_ns", "first_ns", "mapped_ns"),
        *("up_bytes", "down_bytes", "up_packets", "down_packets"),
    }


def test_damaged_snapshots_are_refused() -> None:
    flows = Flows(CONFIG, T0)
    flows.dump(rows(row(1), row(2)), T0 + 2 * S)
    good = flows.snapshot()
    columns = good["columns"]
    assert isinstance(columns, dict)
    bomb = {**columns, "key": Flows(CONFIG, T0).snapshot()["columns"]["key"]}  # type: ignore[index]
    for bad in (
        {},
        {**good, "version": 0},
        {**good, "flows": True},
        {**good, "flows": -1},
        {**good, "flows": 10**12},
        {**good, "flows": 3},
        {**good, "flows": 1},
        {**good, "dumped_ns": "then"},
        {**good, "columns": []},
        {**good, "columns": {**columns, "key": 7}},
        {**good, "columns": {**columns, "key": "!"}},
        {**good, "columns": {**columns, "key": "AAAA"}},
        {**good, "columns": bomb},
        {**good, "columns": {**columns, "key": columns["up_bytes"]}},
    ):
        with pytest.raises(ValueError, match="snapshot"):
            Flows(CONFIG, T0).restore(bad, T0)
    fewer = Flows(replace(CONFIG, max_flows=1), T0)
    fewer.restore(good, T0)
    assert fewer.counts["open"] == 1


@pytest.mark.parametrize(
    "bad", [(pack("10.0.0.1"), 104), (b"\x0a\0\0\0", 8), (pack("10.0.0.0"), 129)]
)
def test_an_access_prefix_is_checked(bad: tuple[bytes, int]) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Flows(FlowConfig((bad,)), T0)


def test_limits_are_checked() -> None:
    many = tuple((MAPPED + i.to_bytes(4, "big"), 128) for i in range(MAX_PREFIXES + 1))
    with pytest.raises(ValueError, match="prefixes"):
        Prefixes(many)
    for wrong in ({"usage_prefix_len": 129}, {"max_flows": 0}, {"tombstone_ns": 0}):
        with pytest.raises(ValueError, match="is 0 to|at least"):
            FlowConfig(ACCESS, **wrong)  # type: ignore[arg-type]


addresses = st.binary(min_size=16, max_size=16)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(addresses, st.integers(0, 128)), max_size=8),
    st.lists(addresses, max_size=8),
)
def test_prefixes_contain_what_their_masks_say(
    wide: list[tuple[bytes, int]], strangers: list[bytes]
) -> None:
    nets = [(network(address, length), length) for address, length in wide]
    near = [bytes([*address[:15], address[15] ^ bit]) for address, _ in wide for bit in (0, 1, 128)]
    asked = [*strangers, *near]
    column = np.array([np.void(one) for one in asked], "V16")
    expected = [any(network(one, length) == base for base, length in nets) for one in asked]
    assert Prefixes(nets).contains(column).tolist() == expected


@dataclass
class Kernel:
    """A conntrack table that says of each flow what it has counted."""

    now_ns: int = T0
    flows: dict[int, list[int]] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    totals: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, flow: int) -> None:
        self.now_ns += 1
        self.flows[flow] = [1, 1, 0, 0]
        self.starts[flow] = self.now_ns

    def move(self, flow: int, amount: int) -> None:
        for index, share in enumerate((amount, 1, 2 * amount, 1)):
            self.flows[flow][index] += share

    def table(self) -> Any:
        return rows(*(self._row(flow, DUMP) for flow in self.flows))

    def end(self, flow: int) -> Any:
        self.now_ns += 1
        self.totals[flow, self.starts[flow]] = self.flows[flow]
        last = self._row(flow, DESTROY)
        del self.flows[flow]
        return last

    def _row(self, flow: int, kind: int) -> Any:
        one, packets, two, back = self.flows[flow]
        stop = self.now_ns if kind == DESTROY else 0
        counters = (one, packets, two, back)
        return row(flow, counters, self.starts[flow], kind=kind, stop_ns=stop)


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "move", "end", "read", "take", "events", "restart"]),
        st.integers(0, 5),
        st.integers(0, 10**6),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_whatever_the_order_the_deltas_are_what_the_kernel_counted(
    script: list[tuple[str, int, int]],
) -> None:
    """Dumps are taken in late, events wait in their queue, the collector restarts."""
    kernel, flows = Kernel(), Flows(CONFIG, T0)
    told_of: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    ends: dict[tuple[int, int], int] = defaultdict(int)
    dump, queue = rows(), rows()

    def note(deltas: Any) -> None:
        for one in deltas:
            key = int(one["flow_id"]), int(one["start_ns"])
            amounts = ("up_bytes", "up_packets", "down_bytes", "down_packets")
            for index, name in enumerate(amounts):
                told_of[key][index] += int(one[name])
            ends[key] += bool(one["ended"])

    for step, flow, amount in script:
        if step == "begin" and flow not in kernel.flows:
            kernel.begin(flow)
        elif step == "move" and flow in kernel.flows:
            kernel.move(flow, amount)
        elif step == "end" and flow in kernel.flows:
            queue = rows(queue, kernel.end(flow))
        elif step == "read":
            dump = kernel.table()
        elif step == "take":
            note(flows.dump(dump, kernel.now_ns, complete=False))
            dump = rows()
        elif step == "events":
            note(flows.destroyed(queue, kernel.now_ns))
            queue = rows()
        elif step == "restart" and not len(dump):
            snapshot = json.loads(json.dumps(flows.snapshot()))
            # What ended is gone, so a dump that was read before must not come after it.
            flows = Flows(CONFIG, T0)
            flows.restore(snapshot, kernel.now_ns)
        assert balanced(flows)
    for flow in list(kernel.flows):
        queue = rows(queue, kernel.end(flow))
    note(flows.destroyed(queue, kernel.now_ns))
    assert dict(told_of) == {key: total for key, total in kernel.totals.items() if total}
    assert set(ends.values()) <= {1} and set(ends) == set(told_of)
    assert flows.losses() == []
