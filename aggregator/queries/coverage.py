"""Gaps and the ledger in, how complete an answer is out.

Time is expected to be covered where a subscriber was on the network, by the collector that saw
it. It is not covered where a gap of that collector names the record class, or past the end of the
last window that the collector delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.queries.arithmetic import (
    DAY_US,
    HOUR_US,
    Interval,
    Period,
    Spans,
    clip,
    length,
    share,
)
from aggregator.queries.reading import Reader, Row, rows_of, span

RETIRED_US: Final = 32 * DAY_US
"""A collector without a word for so long before a period is out of use in it. Sessions that give
no sign of life for a month are ended as stale by the collector itself."""

_FOREVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is known to be missing: share complete, the losses behind it, how far data reaches.

    losses: every gap of the period that names the class, at a collector of the subscriber.
    complete_until_us: every collector of the subscriber has delivered up to here; every collector
    there is, where the subscriber was seen at none.
    """

    completeness: float
    losses: list[Row]
    complete_until_us: int


class Losses:
    """What each collector did not deliver of a period. Gaps are read once a collector, when asked.

    marks: end of the last window of every collector that is in use, in microseconds.
    """

    def __init__(self, client: Reader, period: Period, now_us: int) -> None:
        self.period = period
        self.now_us = now_us
        self._client = client
        # Batches arrive after their window ends, by the aggregator's clock; an hour is for skew.
        where = span(period.start_us - RETIRED_US - HOUR_US, period.end_us)
        found = client.query_columns(_MARKS, where)
        self.marks: dict[str, int] = dict(
            zip(found.get("collector", []), found.get("mark", []), strict=True)
        )
        self._gaps: dict[str, list[Row]] = {}
        self._missing: dict[tuple[str, str], Spans] = {}

    @property
    def oldest_us(self) -> int:
        """Sessions of a silent collector were last written about here; else the period's start."""
        return min([self.period.start_us, *(mark - 1 for mark in self.marks.values())])

    def gaps(self, collector: str, record_class: str) -> list[Row]:
        """Gaps of a collector in the period that name the class, in order of time."""
        if collector not in self._gaps:
            where = {**span(self.period.start_us, self.period.end_us), "collector": collector}
            self._gaps[collector] = list(rows_of(self._client, _GAPS, where))
        return [row for row in self._gaps[collector] if record_class in row["classes"].split(",")]

    def missing(self, collector: str, record_class: str) -> Spans:
        """When rows of the class are missing: its gaps, and all past the last window."""
        key = (collector, record_class)
        if key not in self._missing:
            lost = [
                # A gap in one instant has lost something all the same.
                (row["start_us"], max(row["end_us"], row["start_us"] + 1))
                for row in self.gaps(collector, record_class)
            ]
            self._missing[key] = Spans([*lost, (self.marks.get(collector, 0), _FOREVER)])
        return self._missing[key]

    def coverage(self, expected: Mapping[str, Sequence[Interval]], record_class: str) -> Coverage:
        """Coverage of one class over the time expected of each collector."""
        bounds = (self.period.start_us, min(self.period.end_us, self.now_us))
        expected_us = lost_us = 0
        losses: list[Row] = []
        for collector, spans in sorted(expected.items()):
            whole = clip(spans, bounds)
            missing = self.missing(collector, record_class)
            expected_us += length(whole)
            lost_us += sum(missing.inside(each) for each in whole)
            losses += self.gaps(collector, record_class)
        losses.sort(key=lambda row: (row["start_us"], row["end_us"], row["collector"]))
        reach = min((self.marks.get(name, 0) for name in expected or self.marks), default=0)
        until = max(bounds[0], min(bounds[1], reach))
        return Coverage(share(expected_us, lost_us), losses, until)


_MARKS: Final = """
SELECT collector, max(window_end_us) AS mark
FROM ingest_ledger
WHERE time >= toDateTime(toDate(%(first_day)s), 'UTC')
GROUP BY collector ORDER BY collector"""

_GAPS: Final = """
SELECT DISTINCT collector, start_us, end_us, stage, reason, amount, unit, classes, scope
FROM gap
WHERE collector = %(collector)s AND start_us < %(end)s AND end_us >= %(start)s
  AND clock_day <= toDate(%(last_day)s)
ORDER BY start_us, end_us, stage, reason, scope, unit, amount"""
"""Without a first day: a gap may have begun long before the period."""
