"""SafeGuard's rows of one batch in; refused where one is unaccounted for or a day costs too much.

Pure. A collector is not believed: what a release costs is computed from the parameters of its
entry, not read from it, and an entry's id is made again from what it describes, so that a window
cannot be told twice. The charge of a day is counted for each collector, which has one region, over
all its marginals; that a household may be counted on several routers is in the charge (R-fold).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from collector.wire.batch import BatchError
from collector.wire.releases import (
    CATEGORY_HOUR,
    KEPT,
    KEPT_DAY,
    MARGINALS,
    MAX_CATEGORIES,
    MAX_PENDING,
    MICRO,
    OUTCOMES,
    REGION_CATEGORY_DAY,
    RELEASED,
    charge_micro,
    is_name,
    release_id,
)

DAY_US: Final = 86_400_000_000
MAX_ENTRIES: Final = MAX_PENDING
MAX_ROWS: Final = MAX_PENDING * MAX_CATEGORIES
"""What a collector can have waiting; more is not SafeGuard's."""

Columns = Mapping[str, Any]
"""Stored columns by name: integer arrays, text as bytes, ids as items of sixteen bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `safeguard_ledger`, times in microseconds."""

    release: bytes
    mechanism: bytes
    marginal: str
    start_us: int
    end_us: int
    l0: int
    routers: int
    scale_num: int
    scale_den: int
    outcome: str
    epsilon_micro: int = 0
    rows: int = 0

    @property
    def window(self) -> tuple[int, int]:
        return self.start_us, self.end_us

    @property
    def charge_micro(self) -> int:
        """What all windows of the day cost a household under these parameters."""
        return charge_micro(self.l0, self.routers, Fraction(self.scale_num, self.scale_den))


def checked(
    collector: str, counts: Columns | None, ledger: Columns | None, day_us: int = DAY_US
) -> list[Entry]:
    """The ledger entries of a batch, each with exactly the rows that it accounts for.

    `counts` and `ledger` are the batch's columns of the two classes, None where it has none. Raises
    BatchError "safeguard" otherwise; messages have no values of rows.
    """
    if ledger is None:
        _must(counts is None, "counts without the ledger entry that accounts for them")
        return []
    _must(len(ledger["release"]) <= MAX_ENTRIES, "more ledger entries than can wait for a batch")
    entries = [_entry(row) for row in _rows(ledger)]
    by_release = {entry.release: entry for entry in entries}
    _must(len(by_release) == len(entries), "two ledger entries of one release")
    observed = ledger["observed_us"].tolist()
    for entry, observed_us in zip(entries, observed, strict=True):
        _check_entry(collector, entry, observed_us, day_us)
    cells: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    if counts is not None:
        _must(len(counts["release"]) <= MAX_ROWS, "more counts than can wait for a batch")
        for row in _rows(counts):
            owner = by_release.get(row["release"])
            _must(owner is not None, "a count without the ledger entry that accounts for it")
            assert owner is not None
            _check_row(owner, row)
            cells[owner.release].append((row["region"], row["category"]))
    for entry in entries:
        _check_cells(entry, cells[entry.release])
    return entries


def overspent(
    new: Iterable[Entry], known: Iterable[Entry], budget_micro: int, day_us: int = DAY_US
) -> None:
    """Refuse a batch with releases that were taken before, or that cost a day more than its budget.

    `known` are entries of other batches of the collector, of all days that `new` touches. Raises
    BatchError "safeguard-repeated" or "safeguard-budget".
    """
    taken = [entry for entry in known if entry.outcome == RELEASED]
    told = {entry.release for entry in taken}
    charges: dict[int, dict[tuple[object, ...], int]] = defaultdict(dict)
    for entry in taken:
        charges[entry.start_us // day_us][_charged(entry)] = entry.charge_micro
    for entry in new:
        if entry.outcome != RELEASED:
            continue
        if entry.release in told:
            raise BatchError(
                "safeguard-repeated",
                "SafeGuard: a window that was released already comes again in another batch: fresh"
                " noise on the same counts would average out. The spool or the state of this"
                " collector was copied or restored; move both away and restart it.",
            )
        day = entry.start_us // day_us
        charges[day][_charged(entry)] = entry.charge_micro
        spent = sum(charges[day].values())
        if spent > budget_micro:
            raise BatchError("safeguard-budget", _over_budget(day * day_us, spent, budget_micro))


def _over_budget(start_us: int, spent: int, budget: int) -> str:
    day = datetime.fromtimestamp(start_us // 1_000_000, UTC)
    return (
        f"SafeGuard: the day of {day:%Y-%m-%d %H:%M} UTC would cost a household an epsilon of"
        f" {spent / MICRO:g}, the aggregator's [safeguard] daily_budget is {budget / MICRO:g}:"
        " lower [safeguard.epsilon] on the collector, or decide on a larger budget"
    )


def _charged(entry: Entry) -> tuple[object, ...]:
    """What shares one charge: the windows of a day under one mechanism, as they share its caps."""
    scale = (entry.scale_num, entry.scale_den)
    return entry.marginal, entry.mechanism, entry.l0, entry.routers, scale


def _rows(columns: Columns) -> Iterable[dict[str, Any]]:
    """Rows as mappings, text decoded."""
    names = list(columns)
    text = ("marginal", "outcome", "region", "category")
    values = [
        [value.decode() for value in columns[name]] if name in text else columns[name].tolist()
        for name in names
    ]
    for row in zip(*values, strict=True):
        yield dict(zip(names, row, strict=True))


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**{name: row[name] for name in Entry.__dataclass_fields__})


def _check_entry(collector: str, entry: Entry, observed_us: int, day_us: int) -> None:
    _must(entry.marginal in MARGINALS, "a ledger entry of an unknown marginal")
    _must(entry.outcome in OUTCOMES, "a ledger entry with an unknown outcome")
    sound = min(entry.l0, entry.routers, entry.scale_num, entry.scale_den) >= 1
    _must(sound, "a ledger entry without a mechanism")
    start, end = entry.window
    length = end - start
    _must(length > 0 and start >= 0, "a ledger entry of no window")
    _must(day_us % length == 0 and start % length == 0, "a window that is no part of its day")
    is_hour = entry.marginal == CATEGORY_HOUR
    _must(is_hour or length == day_us, "a marginal of the day over another window")
    _must(observed_us == end, "a ledger entry with a time that is not its window's end")
    wanted = release_id(collector, entry.mechanism, entry.marginal, start * 1000, entry.outcome)
    _must(entry.release == wanted, "a ledger entry whose id is not of what it says")
    is_charged = entry.outcome == RELEASED and (not is_hour or start % day_us == 0)
    stated = entry.charge_micro if is_charged else 0
    _must(entry.epsilon_micro == stated, "a ledger entry that states another charge than its own")


def _check_row(owner: Entry, row: Mapping[str, Any]) -> None:
    same = (row["start_us"], row["end_us"], row["marginal"], row["mechanism"]) == (
        *owner.window,
        owner.marginal,
        owner.mechanism,
    )
    _must(same, "a count that is not of its ledger entry's window and mechanism")
    _must(row["observed_us"] == owner.end_us, "a count with a time that is not its window's end")
    has_region = owner.marginal == REGION_CATEGORY_DAY
    sound = is_name(row["region"]) if has_region else row["region"] == ""
    _must(sound and is_name(row["category"]), "a count outside of any public domain")


def _check_cells(entry: Entry, cells: list[tuple[str, str]]) -> None:
    _must(len(set(cells)) == len(cells), "two counts of one cell")
    _must(len(cells) == entry.rows, "another number of counts than the ledger entry says")
    _must(
        (entry.outcome == RELEASED) == bool(cells), "a release without counts, or counts in silence"
    )
    if entry.marginal == KEPT_DAY and cells:
        _must({category for _, category in cells} == set(KEPT), "kept-day has two other cells")
    regions = {region for region, _ in cells}
    _must(len(regions) <= 1, "a collector's counts are of one region")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise BatchError("safeguard", f"SafeGuard: {what}; nothing of the batch is stored")
