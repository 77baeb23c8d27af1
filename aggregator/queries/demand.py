"""Busy hours by area: where and when the network is full, with no subscriber in the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aggregator.queries.arithmetic import HOUR_US, Period
from aggregator.queries.coverage import Losses
from aggregator.queries.reading import IN_DAYS, Reader, Row, rows_of, span


@dataclass(frozen=True, slots=True)
class BusyHour:
    """Hours by area with bytes and mean rates, the busiest hour of each area, and the totals.

    An hour's `lines` is the highest number of active lines in a window of it, or None where it
    was below the smallest number that is shown. Rates are means over the whole hour.
    """

    period: Period
    hours: list[Row]
    busiest: dict[str, Row]
    totals: Row
    completeness: float


def busy_hour(client: Reader, period: Period, now_us: int, area: str = "") -> BusyHour:
    """Demand by area and UTC hour in a period, of one area or of all, in order of both."""
    where: dict[str, Any] = {**span(period.start_us, period.end_us), "area": area}
    hours = []
    for row in rows_of(client, _HOURS, where):
        row["lines"] = row["lines"] or None
        for way in ("up", "down"):
            row[f"{way}_mbps"] = row[f"{way}_bytes"] * 8 / HOUR_US
        hours.append(row)
    busiest: dict[str, Row] = {}
    for row in hours:
        best = busiest.get(row["area"])
        if best is None or _volume(row) > _volume(best):
            busiest[row["area"]] = row
    totals = {name: sum(row[name] for row in hours) for name in ("up_bytes", "down_bytes")}
    return BusyHour(period, hours, busiest, totals, _completeness(client, period, now_us))


def _volume(row: Row) -> int:
    return int(row["up_bytes"]) + int(row["down_bytes"])


def _completeness(client: Reader, period: Period, now_us: int) -> float:
    """Covered share of the time since each collector's first window in the period; 0 of none."""
    losses = Losses(client, period, now_us)
    until = min(period.end_us, now_us)
    first = {
        row["collector"]: [(max(row["first_us"], period.start_us), until)]
        for row in rows_of(client, _FIRST, span(period.start_us, period.end_us))
    }
    return losses.coverage(first, "usage").completeness if first else 0.0


_HOURS: Final = f"""
SELECT area, intDiv(at_us, 3600000000) * 3600000000 AS hour_us,
       sum(up) AS up_bytes, sum(down) AS down_bytes, max(active) AS lines
FROM (
  SELECT area, at_us, sum(c_up) AS up, sum(c_down) AS down, sum(c_active) AS active
  FROM (
    SELECT area, start_us AS at_us, collector,
           sum(up_bytes) AS c_up, sum(down_bytes) AS c_down, max(active_lines) AS c_active
    FROM demand
    WHERE start_us >= %(start)s AND start_us < %(end)s AND {IN_DAYS}
      AND (%(area)s = '' OR area = %(area)s)
    GROUP BY area, at_us, collector)
  GROUP BY area, at_us)
GROUP BY area, hour_us ORDER BY area, hour_us"""
"""Lines of a collector are those of its fullest batch of a window; collectors have lines of their
own, so theirs add up. A collector with too few to show adds none."""

_FIRST: Final = """
SELECT collector, min(window_start_us) AS first_us
FROM ingest_ledger
WHERE window_start_us < %(end)s AND window_end_us > %(start)s
  AND time >= toDateTime(toDate(%(first_day)s), 'UTC')
GROUP BY collector ORDER BY collector"""
