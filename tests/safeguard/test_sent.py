"""Batches on their way: what a collector makes passes, and each fault is found as it was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from collector.track.safeguard.calendar import DAY_NS, HOUR_NS
from collector.wire.columns import Columns
from safeguard.prove import driving, sent, surface, tables
from tests.aggregator.support import Spool
from tests.safeguard.test_surface import page

Rows = dict[str, dict[str, list[Any]]]
DAY_US = DAY_NS // 1000


def told() -> Rows:
    """What a collector tells of the first hour of a day."""
    made, end = driving.started(driving.config()), driving.MIDNIGHT + HOUR_NS + driving.STEP_NS
    for now in range(driving.MIDNIGHT + driving.STEP_NS, end, driving.STEP_NS):
        made.advance(now)
        made.blocked(driving.event(1, 0))
    return plain(made.take(0, 1, end))


def plain(columns: Mapping[str, Columns]) -> Rows:
    return {
        name: {column: list(values) for column, values in each.items()}
        for name, each in columns.items()
    }


def stored(folder: Path, *batches: Rows) -> list[sent.Sent]:
    """They as files of one collector's spool."""
    spool = Spool()
    for number, rows in enumerate(batches):
        data = spool.batch(rows, start_ns=driving.MIDNIGHT + HOUR_NS)
        (folder / f"{number}.batch").write_bytes(data)
    return sent.read([folder])


def wrong(batches: list[sent.Sent]) -> dict[str, bool]:
    """What is found, by check."""
    return {
        "times": bool(sent.times(batches)),
        "domain": bool(sent.loose(batches) or tables.domain(sent.released(batches))),
        "resend": bool(sent.told_again(batches)),
    }


def test_what_a_collector_sends_passes(tmp_path: Path) -> None:
    rows = told()
    (tmp_path / "no.batch").write_bytes(b"no batch")
    batches = stored(tmp_path, rows, rows)
    assert len(batches) == 2
    assert [each.marginal for each in batches[0].releases] == ["category-hour"]
    assert not any(wrong(batches).values())


def late(rows: Rows) -> None:
    rows["block_count"]["observed_ns"][1] -= 12345


def late_entry(rows: Rows) -> None:
    rows["safeguard_ledger"]["observed_ns"][0] += 1


def without_a_zero(rows: Rows) -> None:
    for values in rows["block_count"].values():
        values.pop()


def twice(rows: Rows) -> None:
    for values in rows["block_count"].values():
        values[-1] = values[0]


def unaccounted(rows: Rows) -> None:
    rows["block_count"]["release"][0] = bytes(16)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (late, "times"),
        (late_entry, "times"),
        (without_a_zero, "domain"),
        (twice, "domain"),
        (unaccounted, "domain"),
    ],
)
def test_a_fault_is_found_as_it_was_sent(
    tmp_path: Path, fault: Callable[[Rows], None], check: str
) -> None:
    rows = told()
    fault(rows)
    found = wrong(stored(tmp_path, rows))
    assert [name for name, is_wrong in found.items() if is_wrong] == [check]


def test_fresh_noise_is_found(tmp_path: Path) -> None:
    rows, again = told(), told()
    again["block_count"]["count"][0] = rows["block_count"]["count"][0] + 1
    assert wrong(stored(tmp_path, rows, again))["resend"]


def test_a_day_that_began_before_the_collector_is_not_its_to_tell(tmp_path: Path) -> None:
    midnight_us = driving.MIDNIGHT // 1000
    batches = stored(tmp_path, told())
    created_us = batches[0].created_us
    assert sent.after_start(batches, midnight_us, DAY_US) == []
    assert sent.after_start(batches, created_us + 1, DAY_US) == []  # another process made it
    assert sent.after_start(batches, midnight_us + 1, DAY_US)


def test_when_a_collector_started_is_on_its_page() -> None:
    assert surface.started_us({"collector": page(), "other": "other 1\n"}) == 1_000_000
    assert surface.started_us({"one": page(), "two": page()}) is None
    assert surface.started_us({}) is None
