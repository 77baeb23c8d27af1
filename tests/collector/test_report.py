"""What a scrape gets: exact sums over batches, and counters that only ever grow in one run."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from collector.capture.nft import NftConfig
from collector.capture.nftsets import SetReader
from collector.counters import Counters
from collector.metrics import GAUGES, Metrics, Snapshot
from collector.report import tally
from collector.service import Collector
from collector.track.trackers import Trackers, TrackersConfig, equation
from collector.track.volume import Fill, Reading, Volume, VolumeConfig
from collector.window import Piece
from collector.wire.batch import Header
from collector.wire.columns import record_batch
from collector.wire.gaps import gap_columns
from collector.wire.loss import Loss


def gaps(*reasons: str) -> Piece:
    losses = [
        Loss(i, i + 1, "capture", reason, 1, "packets", ("call",))
        for i, reason in enumerate(reasons)
    ]
    return Piece({"gap": record_batch("gap", gap_columns(losses, 9))})


def header(**rows: int) -> Header:
    sections = [SimpleNamespace(record_class=name, rows=count) for name, count in rows.items()]
    return cast(Header, SimpleNamespace(sections=sections))


def counted(headers: list[Header], pieces: list[Piece]) -> tuple[Counter[str], Counter[Any]]:
    collector = SimpleNamespace(rows=Counter[str](), gaps=Counter[Any]())
    tally(cast(Collector, collector), headers, pieces)
    return collector.rows, collector.gaps


def test_rows_are_those_of_the_batches_and_gaps_those_of_the_window() -> None:
    rows, told = counted(
        [header(usage=3, gap=3), header(usage=2, call=1)],
        [gaps("kernel-drop", "kernel-drop", "restart"), Piece({})],
    )
    assert rows == {"usage": 5, "gap": 3, "call": 1}
    assert told == {("capture", "kernel-drop"): 2, ("capture", "restart"): 1}


def test_gaps_that_the_spool_added_are_counted_too() -> None:
    rows, told = counted([header(gap=4)], [gaps("restart")])
    assert told == {("capture", "restart"): 1, ("spool", "carried"): 3}
    assert sum(told.values()) == rows["gap"]


def page(snapshot: Snapshot) -> dict[str, tuple[str, dict[tuple[str, ...], float]]]:
    """Type and samples by family."""
    metrics = Metrics("127.0.0.1", 0)
    metrics.publish(snapshot)
    return {
        family.name: (
            family.type,
            {tuple(sample.labels.values()): sample.value for sample in family.samples},
        )
        for family in metrics.collect()
    }


def test_what_can_fall_is_no_counter() -> None:
    terms = {"seen": 9, "recorded": 4, "ignored": 3, "lost": 1, "open": 1, "malformed": 2}
    found = page(Snapshot(stages={"dns": terms}))
    kind, units = found["tallyhold_collector_units"]
    assert kind == "counter"
    assert units == {("dns", n): terms[n] for n in ("seen", "recorded", "ignored", "lost")}
    assert found["tallyhold_collector_units_open"] == ("gauge", {("dns",): 1})
    assert found["tallyhold_collector_units_malformed"] == ("counter", {("dns",): 2})


@pytest.mark.parametrize("name", GAUGES)
def test_every_gauge_has_a_help_text_of_its_own(name: str) -> None:
    assert page(Snapshot(gauges={name: 2.5}))[f"tallyhold_collector_{name}"] == ("gauge", {(): 2.5})
    assert len(set(GAUGES.values())) == len(GAUGES)


def test_counts_of_a_run_begin_at_nothing_whatever_state_it_takes_over() -> None:
    config = TrackersConfig(access=((b"\0" * 16, 0),), window_ns=10**9)
    before, after = Trackers(config, 1), Trackers(config, 2)
    before.sessions.counts.update(seen=7, recorded=5, ignored=2)
    before.calls.counts.update(seen=4, recorded=4)
    assert after.restore(before.snapshot(), 2) == []
    for stage in ("accounting", "sip-messages"):
        assert set(after.stages()[stage].values()) == {0}


def test_a_set_with_room_for_every_address_is_never_filling() -> None:
    prefixes = ("10.0.0.0/24", "2001:db8::/32")
    counters = Counters(NftConfig(("ppp*",), prefixes, max_elements=1_000), lambda: 9)
    full = Fill("up4", 256, 256)
    assert counters.fill_ratio([full, Fill("down6", 250, 1_000)]) == 0.25
    assert counters.fill_ratio([full]) == counters.fill_ratio([]) == 0.0
    assert counters.fill_ratio([Fill("down4", 100, 200)]) == 0.5  # made for a smaller prefix


def test_traffic_outside_the_prefixes_is_counted_once_and_by_generation() -> None:
    counters = Counters(NftConfig(("ppp*",), ("100.64.0.0/10",), 64), lambda: 9)
    told = []
    for generation, outside in (("a", 500), ("a", 500), ("a", 620), ("b", 30), ("b", 31)):
        reading = Reading(
            began_ns=1,
            ts_ns=2,
            generation=generation,
            addresses=np.zeros(0, "V16"),
            prefix_len=np.zeros(0, np.uint8),
            counters=np.zeros((0, 4), np.uint64),
            outside_bytes=outside,
        )
        counters._sets = cast(SetReader, SimpleNamespace(read_sets=lambda found=reading: found))
        assert counters.read(Volume(VolumeConfig())) == []
        told.append(counters.counts["seen"])
    # What was counted before the first reading is not this run's; a new table began at zero.
    assert told == [0, 0, 120, 150, 151]
    assert equation(counters.counts)["ignored"] == 151
