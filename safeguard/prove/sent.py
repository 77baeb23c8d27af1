"""Batches on their way in, what of SafeGuard in them must not be out.

The tables have what ingest let in. What a collector sends is looked at here as it left: a release
that ingest refuses was made all the same, by a collector that does not keep its promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from collector.wire import codec
from collector.wire.batch import BatchError
from collector.wire.records import BLOCK_COUNT, SAFEGUARD_LEDGER
from safeguard.model import Cell, Release
from safeguard.search import below

MAX_FOUND: Final = 10
_SAME: Final = (
    "release", "mechanism", "marginal", "l0", "routers", "epsilon_micro", "restarts", "rows",
    "outcome",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch with releases: when it was made, what it tells, and what is wrong with its rows.

    odd_times: rows whose time is not their window's end. loose: counts of no release, or second
    ones of a cell.
    """

    name: str
    created_us: int
    releases: tuple[Release, ...]
    odd_times: int
    loose: int


def read(places: Iterable[Path]) -> list[Sent]:
    """The batches with releases among files and below folders; raises OSError.

    What is no batch, or goes meanwhile, is none.
    """
    found = []
    for path in below(places):
        if path.suffix != ".batch":
            continue
        with suppress(BatchError, FileNotFoundError):
            data = path.read_bytes()
            sections = {section.record_class for section in codec.peek(data).sections}
            if SAFEGUARD_LEDGER.name in sections or BLOCK_COUNT.name in sections:
                found.append(_sent(path.name, data))
    return found


def times(batches: Sequence[Sent]) -> list[str]:
    """Rows that say when something was, other than the end of their window."""
    return [
        f"{each.name}: {each.odd_times} rows have a time that is not their window's end"
        for each in batches
        if each.odd_times
    ][:MAX_FOUND]


def loose(batches: Sequence[Sent]) -> list[str]:
    """Counts that no entry accounts for."""
    return [
        f"{each.name}: {each.loose} counts are of no release, or twice of a cell"
        for each in batches
        if each.loose
    ][:MAX_FOUND]


def released(batches: Sequence[Sent]) -> list[Release]:
    """Everything that is told in them."""
    return [release for each in batches for release in each.releases]


def told_again(batches: Sequence[Sent]) -> list[str]:
    """Releases that are told more than once, and not alike: fresh noise would average out."""
    counts: dict[bytes, set[frozenset[tuple[Cell, int]]]] = defaultdict(set)
    for each in released(batches):
        counts[each.release].add(frozenset(each.counts.items()))
    return [
        f"release {release.hex()} was sent with {len(different)} different counts"
        for release, different in counts.items()
        if len(different) > 1
    ][:MAX_FOUND]


def after_start(batches: Sequence[Sent], started_us: int, day_us: int) -> list[str]:
    """Releases of a day that had begun before the collector did: it knows neither key nor caps of
    that day, so that a household could count once more than the ledger says."""
    return [
        f"{release.marginal} {release.start_us}: of a day that began before the collector did"
        for each in batches
        if each.created_us >= started_us
        for release in each.releases
        if release.is_released and release.start_us // day_us * day_us < started_us
    ][:MAX_FOUND]


def _sent(name: str, data: bytes) -> Sent:
    header, batches = codec.decode(data)
    entries = _rows(batches, SAFEGUARD_LEDGER.name)
    rows = _rows(batches, BLOCK_COUNT.name)
    counts: dict[bytes, dict[Cell, int]] = {row["release"]: {} for row in entries}
    loose = 0
    for row in rows:
        cells, cell = counts.get(row["release"], {}), (row["region"], row["category"])
        loose += row["release"] not in counts or cell in cells
        cells[cell] = row["count"]
    odd = sum(row["observed_ns"] != row["end_ns"] for row in (*entries, *rows))
    releases = tuple(_release(header.collector, row, counts[row["release"]]) for row in entries)
    return Sent(name, header.created_ns // 1000, releases, odd, loose)


def _rows(batches: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batches[name].to_pylist() if name in batches else []
    return found


def _release(collector: str, row: Mapping[str, Any], counts: Mapping[Cell, int]) -> Release:
    return Release(
        collector=collector,
        start_us=row["start_ns"] // 1000,
        end_us=row["end_ns"] // 1000,
        # A scale that is none is told by the checks of charges.
        scale=Fraction(row["scale_num"], row["scale_den"] or 1),
        counts=counts,
        **{name: row[name] for name in _SAME},
    )
