"""Rows of `safeguard_ledger` in, a leaf of the audit log for each of them out, once.

    ledger row (written with its counts, by ingest) -> leaf safeguard.window -> audit verify

Which rows have their leaf is known by collector and month: how many, and the exclusive or of their
ids, in a note that is written in one transaction with the leaves. Where the table says the same,
nothing is new. Where not, the log itself says which rows it lacks. A row is told of whatever it
says, also one that overspent: the log must show that. What no leaf can say is a finding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retention.audit import canonical
from retention.audit.canonical import Leaf
from retention.audit.leaf import VERSION, LeafError, check
from retention.audit.merkle import ENTRIES, TILE, Tile
from retention.config import Safeguard
from retention.metrics import Metrics
from retention.register import leaves
from retention.register.store import Register

log = logging.getLogger(__name__)

Columns = Mapping[str, Sequence[Any]]
Ask = Callable[[str, Mapping[str, Any]], Iterable[Columns]]
"""Asks every shard; `Engine.ask`."""
Row = dict[str, Any]

BUDGET_NOTE: Final = "safeguard/budget"
MONTH_NOTE: Final = "safeguard/told"
BATCH: Final = 100
"""Leaves of one write; the log takes 256."""
MAX_KNOWN: Final = 1024
"""Months of collectors whose told releases stay in memory, of 800 releases each."""
MAX_ROWS: Final = 100_000
"""Rows of a collector's month that are looked at; there are 806 in one of 31 days."""
_KIND: Final = b'"kind":"safeguard.window"'

_MONTHS: Final = """
SELECT collector, month, count() AS entries, sum(copies) AS rows,
    groupBitXor(reinterpretAsUInt64(substring(release, 1, 8))) AS mark
FROM (
    SELECT collector, toYYYYMM(clock_day) AS month, release, count() AS copies
    FROM safeguard_ledger GROUP BY collector, month, release
)
GROUP BY collector, month ORDER BY collector, month"""
_ENTRIES: Final = """
SELECT release, mechanism, marginal, collector, start_us, end_us, scale_num, scale_den, l0,
    epsilon_micro, routers, restarts, rows, outcome
FROM safeguard_ledger
WHERE collector = %(collector)s AND toYYYYMM(clock_day) = %(month)s
ORDER BY end_us, start_us DESC, marginal LIMIT %(most)s"""


@dataclass(frozen=True, slots=True)
class Mark:
    """Some releases, in short: their number, and the exclusive or of the first half of their ids
    (which are hashes)."""

    entries: int = 0
    mark: int = 0

    def __str__(self) -> str:
        return f"{self.entries}:{self.mark:x}"

    @classmethod
    def parse(cls, text: str | None) -> Mark:
        """Read what `str` gave; nothing was told where there is no text."""
        entries, _, mark = (text or "0:0").partition(":")
        return cls(int(entries), int(mark, 16))

    def plus(self, releases: Iterable[bytes]) -> Mark:
        """These and others."""
        entries, mark = self.entries, self.mark
        for release in releases:
            entries, mark = entries + 1, mark ^ int.from_bytes(release[:8], "little")
        return Mark(entries, mark)


class PrivacyLedger:
    """The job. Used by the scheduler's thread alone; `monotonic` gives seconds."""

    def __init__(
        self,
        register: Register,
        ask: Ask,
        settings: Safeguard,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._register, self._ask, self._settings = register, ask, settings
        self._metrics, self._monotonic = metrics, monotonic
        self._due_at = float("-inf")
        self._known: dict[str, set[bytes]] = {}
        self._found: list[str] = []

    def tell(self) -> None:
        """Bring the log what is new, where it is time to; raises StoreError or RegisterError."""
        now = self._monotonic()
        if now < self._due_at:
            return
        found: list[str] = []
        self._budget()
        for (collector, month), (there, rows) in self._months().items():
            if rows > there.entries:
                found.append(f"{collector} {month}: a release stands in the table twice")
            key = f"{MONTH_NOTE}/{collector}/{month}"
            if Mark.parse(self._register.note(key)) != there:
                found += self._month(collector, month, key)
        self._due_at = now + self._settings.every_s
        for text in found:
            if text not in self._found:
                log.error("the privacy ledger: %s", text)
        self._found = found
        self._metrics.safeguard_findings.set(len(found))

    def _budget(self) -> None:
        """Say what a household-day may cost, before anything is told under it."""
        budget, day_us = self._settings.budget_micro, self._settings.day_s * 1_000_000
        text = f"{budget}/{day_us}"
        if self._register.note(BUDGET_NOTE) != text:
            leaf = leaves.safeguard_budget(budget, day_us)
            self._register.write(notes={BUDGET_NOTE: text}, leaves=[leaf])

    def _months(self) -> dict[tuple[str, int], tuple[Mark, int]]:
        """What the tables of all shards have: releases, and rows, by collector and month."""
        found: dict[tuple[str, int], tuple[Mark, int]] = {}
        for shard in self._ask(_MONTHS, {}):
            for collector, month, entries, rows, mark in zip(*shard.values(), strict=True):
                old, before = found.get((collector, month), (Mark(), 0))
                mark = Mark(old.entries + entries, old.mark ^ mark)
                found[collector, month] = (mark, before + rows)
        return found

    def _month(self, collector: str, month: int, key: str) -> list[str]:
        """Tell what is new of a month; gives what is wrong with it."""
        place = {"collector": collector, "month": month, "most": MAX_ROWS}
        rows = [
            dict(zip(shard, values, strict=True))
            for shard in self._ask(_ENTRIES, place)
            for values in zip(*shard.values(), strict=True)
        ]
        told = Mark.parse(self._register.note(key))
        known = self._told(key, collector, month, told)
        missing = known - {row["release"] for row in rows}
        found = [f"{collector} {month}: {len(missing)} told releases are not in the table"]
        found = found if missing else []
        fresh = list[tuple[bytes, Leaf]]()
        for row in rows:
            if row["release"] in known:
                continue
            try:
                leaf = leaves.safeguard_window(row)
                check({"v": VERSION, "at": 0} | leaf)
            except (LeafError, AttributeError):
                found.append(f"{collector} {month}: a row that is no entry of the ledger")
                continue
            known.add(row["release"])
            fresh.append((row["release"], leaf))
        try:
            for at in range(0, len(fresh), BATCH):
                part = fresh[at : at + BATCH]
                told = told.plus(release for release, _ in part)
                self._register.write(notes={key: str(told)}, leaves=[leaf for _, leaf in part])
        except BaseException:
            self._known.pop(key, None)  # what was written is in the note and in the log
            raise
        return found

    def _told(self, key: str, collector: str, month: int, told: Mark) -> set[bytes]:
        """Releases of a month that have a leaf: as remembered, or as the log's end says."""
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if key not in self._known:
            self._known[key] = self._read(collector, month, told.entries)
        return self._known[key]

    def _read(self, collector: str, month: int, wanted: int) -> set[bytes]:
        """Read the log from its end until so many windows of a month were met."""
        found: set[bytes] = set()
        with self._register.audit() as audit:
            for number in range((audit.size - 1) // TILE, -1, -1):
                if len(found) >= wanted:
                    break
                width = min(TILE, audit.size - number * TILE)
                for data in audit.bundle(Tile(ENTRIES, number, width)):
                    if _KIND not in data:
                        continue
                    leaf = canonical.decode(data)
                    if leaf["collector"] == collector and month_of(leaf["start"]) == month:
                        found.add(bytes.fromhex(leaf["release"]))
        return found


def month_of(at_us: int) -> int:
    """The UTC month of a time as a number such as 202611, as `toYYYYMM` has it."""
    moment = time.gmtime(at_us // 1_000_000)
    return moment.tm_year * 100 + moment.tm_mon
