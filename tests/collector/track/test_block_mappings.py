"""Port blocks from flows: what is one block, whose it is, and when nobody may be named alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from collector.track.block_mappings import LEAST_NS, BlockMappings
from collector.track.flow_config import MappingConfig
from collector.track.flow_table import ENTRY, Entries
from collector.wire.addr import pack
from collector.wire.columns import record_batch

S = 1_000_000_000
T = 1_800_000_000 * S
DAY = 86_400 * S
PUBLIC = pack("192.0.2.1")
ONE, TWO = pack("10.0.0.1"), pack("10.0.0.2")
CONFIG = MappingConfig("block", block_first=1000, block_ports=100, block_idle_ns=60 * S)


@dataclass(frozen=True)
class Row:
    """What matters of a told mapping; times in seconds since T."""

    kind: str
    inside: bytes
    ports: tuple[int, int]
    start: float
    end: float


def flow(begin: float, seen: float, inside: bytes = ONE, port: int = 1010, **more: Any) -> Entries:
    """One translated flow, seen from the subscriber's side; times in seconds since T."""
    entry = np.zeros(1, ENTRY)
    given = {
        "key": hash((begin, inside, port)) % 2**63,
        "start_ns": T + int(begin * S),
        "seen_ns": T + int(seen * S),
        "client": inside,
        "public": PUBLIC,
        "public_port": port,
        "client_port": 5,
        "protocol": 17,
        "translated": True,
        **more,
    }
    for name, value in given.items():
        entry[name] = np.void(value) if isinstance(value, bytes) else value
    return entry


def told(blocks: BlockMappings, until: float = 10_000) -> list[Row]:
    """Rows of a window that ends then."""
    columns = blocks.take(T + int(until * S), T + int(until * S) + 1)
    found = record_batch("mapping", columns).to_pylist()
    assert all(row["inside_port"] == (0 if row["kind"] == "block" else 5) for row in found)
    return sorted(
        (
            Row(
                row["kind"],
                row["inside_address"],
                (row["port_first"], row["port_last"]),
                (row["start_ns"] - T) / S,
                (row["end_ns"] - T) / S,
            )
            for row in found
        ),
        key=lambda row: (row.start, row.end),
    )


def heard(*batches: Entries | Iterable[Entries]) -> BlockMappings:
    """Batches of flows that ended, one after another."""
    blocks = BlockMappings(CONFIG, 1000)
    for batch in batches:
        whole = batch if isinstance(batch, np.ndarray) else np.concatenate(list(batch))
        assert blocks.add(whole) == 0
    return blocks


def test_many_flows_of_one_block_are_one_record_up_to_their_last_end() -> None:
    blocks = heard((flow(0, 5), flow(2, 9, port=1099)), flow(9 + 60, 80, port=1000))
    assert len(blocks) == 1
    assert told(blocks) == [Row("block", ONE, (1000, 1099), 0, 80)]
    assert len(blocks) == 0 and told(blocks) == []


def test_after_a_longer_pause_it_is_another_holding() -> None:
    blocks = heard(flow(0, 5), flow(66, 70))
    assert [(row.start, row.end) for row in told(blocks)] == [(0, 5), (66, 70)]


def test_other_ports_protocols_and_addresses_are_other_blocks() -> None:
    elsewhere = flow(3, 5, TWO, public=pack("192.0.2.2"))
    blocks = heard((flow(0, 5), flow(1, 5, port=1100), flow(2, 5, protocol=6), elsewhere))
    found = told(blocks)
    assert [row.ports[0] for row in found] == [1000, 1100, 1000, 1000]
    assert {row.kind for row in found} == {"block"}


def test_a_block_that_grows_is_told_anew_as_one_record() -> None:
    blocks = heard(flow(0, 5))
    first = blocks.take(T + 6 * S, T + 6 * S)
    assert len(blocks.take(T + 7 * S, T + 7 * S)["record_id"]) == 0
    assert blocks.add(flow(8, 20)) == 0
    second = blocks.take(T + 15 * S, T + 15 * S)
    third = blocks.take(T + 90 * S, T + 90 * S)
    ids = [list(map(bytes, each["record_id"])) for each in (first, second, third)]
    assert ids[0] == ids[1] == ids[2]
    ends = [int(each["end_ns"][0]) - T for each in (first, second, third)]
    assert ends == [5 * S, 15 * S, 20 * S]  # proven up to the window's end, and no further


def test_the_next_holder_takes_it_over_and_both_are_told() -> None:
    blocks = heard((flow(0, 5), flow(5, 9, TWO)), flow(10, 12))
    assert told(blocks) == [
        Row("block", ONE, (1000, 1099), 0, 5),
        Row("block", TWO, (1000, 1099), 5, 9),
        Row("block", ONE, (1000, 1099), 10, 12),
    ]


def test_two_at_one_time_are_told_flow_by_flow_until_the_block_was_idle() -> None:
    blocks = heard(flow(0, 5), flow(4, 8, TWO, 1020))
    assert blocks.shared == 1
    assert blocks.add(np.concatenate((flow(9, 10), flow(11, 12, TWO, 1021)))) == 0
    assert told(blocks, 20) == [
        Row("block", ONE, (1000, 1099), 0, 5),
        Row("flow", TWO, (1020, 1020), 4, 8),
        Row("flow", ONE, (1010, 1010), 9, 10),
        Row("flow", TWO, (1021, 1021), 11, 12),
    ]
    assert blocks.add(flow(73, 80, TWO)) == 0
    assert (blocks.shared, told(blocks)) == (0, [Row("block", TWO, (1000, 1099), 73, 80)])


def test_a_late_word_of_who_had_it_before_is_told_as_a_flow() -> None:
    blocks = heard(flow(0, 1, port=1030), flow(5, 9, TWO), flow(2, 4))
    assert blocks.shared == 0
    assert told(blocks) == [
        Row("block", ONE, (1000, 1099), 0, 1),
        Row("flow", ONE, (1010, 1010), 2, 4),
        Row("block", TWO, (1000, 1099), 5, 9),
    ]
    # One that lived on while the other had the block is told so too, and is no proof before it.
    blocks = heard(flow(0, 1), flow(2, 3, TWO), flow(4, 5), flow(1.5, 6, port=1050))
    assert Row("flow", ONE, (1050, 1050), 1.5, 6) in told(blocks)


def test_a_long_flow_that_is_seen_after_short_ones_widens_the_block() -> None:
    blocks = heard(flow(10, 12), flow(3, 20))
    assert told(blocks, 25) == [Row("block", ONE, (1000, 1099), 3, 20)]
    assert blocks.add(flow(1, 30, port=1001)) == 0
    assert told(blocks) == [
        Row("block", ONE, (1000, 1099), 1, 3),
        Row("block", ONE, (1000, 1099), 3, 30),
    ]


def test_what_is_no_block_is_told_as_flows() -> None:
    blocks = heard(
        (
            flow(0, 5, protocol=1),
            flow(1, 5, port=999),
            flow(2, 5, inbound=True, port=8080),
            flow(3, 5, protocol=132),
        )
    )
    assert len(blocks) == 0
    assert [row.kind for row in told(blocks)] == ["flow"] * 4


def test_open_flows_prove_their_block_and_the_rest_waits_until_due() -> None:
    blocks = BlockMappings(CONFIG, 1000)
    both = np.concatenate((flow(0, 5), flow(0, 5, protocol=1)))
    assert blocks.add(both, np.array([False, False])) == 0
    assert [row.kind for row in told(blocks, 6)] == ["block"]
    assert blocks.add(both, np.array([False, True])) == 0
    assert [row.kind for row in told(blocks, 7)] == ["flow"]


def test_a_record_has_one_day_and_the_last_block_ends_with_the_ports() -> None:
    day = T // DAY * DAY
    blocks = heard(flow((day - T) / S - 10, (day - T) / S + DAY / S + 5, port=65_500))
    rows = told(blocks, 3 * DAY / S)
    assert [round(row.end - row.start) for row in rows] == [10, 86_400, 5]
    assert {row.ports for row in rows} == {(65_500, 65_535)}


def test_a_flow_of_a_moment_is_no_allocation_without_an_end() -> None:
    (row,) = told(heard(flow(3, 3)))
    assert round((row.end - row.start) * S, -3) >= LEAST_NS // 1000 * 1000


def test_what_has_no_room_is_said() -> None:
    blocks = BlockMappings(CONFIG, 2)
    many = np.concatenate([flow(n, n + 1, port=1000 + 100 * n) for n in range(7)])
    assert blocks.add(many) == 3  # two blocks, two single flows
    assert [row.kind for row in told(blocks)] == ["block", "block", "flow", "flow"]
    small = BlockMappings(CONFIG, 1)
    each = flow(0, 1), flow(2, 3, TWO), flow(4, 5)  # each takes over, which ends a record
    assert [small.add(one) for one in each] == [0, 0, 1]
    with pytest.raises(ValueError, match="block_ports"):
        MappingConfig("block", block_ports=0)


@pytest.mark.parametrize("seed", range(20))
def test_no_flow_of_one_is_another_s_alone(seed: int) -> None:
    """Flows at random, batch by batch as they end: at each moment of each flow the records of its
    port name its subscriber, so that whoever else is named there is not named alone."""
    chance = random.Random(seed)
    blocks, rows, flows = BlockMappings(CONFIG, 10_000), list[Row](), []
    clock = 0.0
    for _ in range(chance.randrange(5, 60)):
        clock += chance.choice((0.5, 3, 30, 90))
        ended = [
            (clock - chance.choice((0, 1, 20, 200)), clock - chance.random() / 2)
            for _ in range(chance.randrange(1, 4))
        ]
        batch = []
        for begin, end in ended:
            inside, port = chance.choice((ONE, TWO)), chance.randrange(1000, 1100)
            flows.append((min(begin, end), end, inside, port))
            batch.append(flow(min(begin, end), end, inside, port, key=len(flows)))
        assert blocks.add(np.concatenate(batch)) == 0
        if chance.random() < 0.3:
            rows += told(blocks, clock)
    rows += told(blocks, clock + 1000)
    for begin, end, inside, port in flows:
        for moment in (begin, (begin + end) / 2, end - 1e-3):
            if not begin <= moment < end:
                continue
            named = {
                row.inside
                for row in rows
                if row.ports[0] <= port <= row.ports[1]
                and row.start - 1e-6 <= moment < row.end + 1e-6
            }
            assert inside in named
