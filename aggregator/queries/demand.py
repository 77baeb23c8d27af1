"""Busy hours by area: where and when the network is full, with no subscriber in the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aggregator.queries.arithmetic import Period, clip, completeness
from aggregator.queries.billing import Reader, Row, rows_of

_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class BusyHour:
    """Hours by area with bytes and mean rates, the busiest hour of each area, and the totals.

    An hour's `lines` is the highest number of active lines in a window of it, or None where it
    was below the smallest number that is shown.
    """

    period: Period
    hours: list[Row]
    busiest: dict[str, Row]
    totals: Row
    completeness: float


def busy_hour(client: Reader, period: Period, now_us: int, area: str = "") -> BusyHour:
    """Demand by area and UTC hour in a period, of one area or of all."""
    params: dict[str, Any] = {"start": period.start_us, "end": period.end_us, "area": area}
    hours = []
    for row in rows_of(client, _HOURS, params):
        row["lines"] = row["lines"] or None
        row["down_mbps"] = row["down_bytes"] * 8 / (_HOUR_US / 1e6) / 1e6
        row["up_mbps"] = row["up_bytes"] * 8 / (_HOUR_US / 1e6) / 1e6
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
    """Mean over collectors of the covered share of the time in which each reported."""
    params = {"start": period.start_us, "end": period.end_us}
    gaps = list(rows_of(client, _GAPS, params))
    shares = []
    for reach in rows_of(client, _REACH, params):
        expected = clip([(reach["first"], now_us)], (period.start_us, min(period.end_us, now_us)))
        lost = [
            (gap["start_us"], max(gap["end_us"], gap["start_us"] + 1))
            for gap in gaps
            if gap["collector"] == reach["collector"] and "usage" in gap["classes"].split(",")
        ]
        shares.append(completeness(expected, [*lost, (reach["last"], now_us)]))
    return sum(shares) / len(shares) if shares else 0.0


_HOURS: Final = """
SELECT area, intDiv(start_us, 3600000000) * 3600000000 AS hour_us,
       sum(d.up_bytes) AS up_bytes, sum(d.down_bytes) AS down_bytes, max(d.active_lines) AS lines
FROM demand AS d
WHERE start_us >= %(start)s AND start_us < %(end)s AND (%(area)s = '' OR area = %(area)s)
GROUP BY area, hour_us ORDER BY area, hour_us"""

_REACH: Final = """
SELECT collector, min(window_start_us) AS first, max(window_end_us) AS last
FROM ingest_ledger
WHERE window_start_us < %(end)s AND window_end_us > %(start)s
GROUP BY collector ORDER BY collector"""

_GAPS: Final = """
SELECT DISTINCT collector, start_us, end_us, classes
FROM gap
WHERE start_us < %(end)s AND end_us >= %(start)s"""
