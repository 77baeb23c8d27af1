"""Day slices of sessions in, a subscriber's time on the network out, and sessions as people see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aggregator.queries.arithmetic import DAY_US, Interval, Period, clip, length
from aggregator.queries.coverage import Losses
from aggregator.queries.reading import FINAL_BY_PARTITION, IN_DAYS, Reader, Row, rows_of, span

UNREPORTED: Final = "inferred:unreported"
"""End reason of a session that its collector neither ended nor carried past midnight."""


@dataclass(slots=True)
class Access:
    """A subscriber's time on the network within a period.

    slices: rows of `session` with `open`, `until_us` (known to last until) and `expected_us` (may
    last until). connected: intervals known, cut to the period. expected: by collector, the
    intervals in which the subscriber may have been on the network.
    """

    slices: list[Row] = field(default_factory=list)
    connected: list[Interval] = field(default_factory=list)
    expected: dict[str, list[Interval]] = field(default_factory=dict)

    @property
    def connected_us(self) -> int:
        """Time on the network, overlapping sessions counted once."""
        return length(self.connected)


def access_of(client: Reader, subscriber: str, losses: Losses) -> Access:
    """The time of one subscriber."""
    return access_between(client, subscriber, subscriber, losses).get(subscriber, Access())


def access_between(client: Reader, first: str, last: str, losses: Losses) -> dict[str, Access]:
    """The time of every subscriber from `first` to `last`, both included, in order of bytes."""
    period = losses.period
    # A slice ends at midnight at the latest, so one that meets an instant began on its day.
    since = losses.oldest_us // DAY_US * DAY_US
    where: dict[str, Any] = {**span(since, period.end_us), "low": first, "high": last}
    found: dict[str, Access] = {}
    for row in rows_of(client, _SLICES, where, FINAL_BY_PARTITION):
        _take(found, row, losses)
    return found


def _take(found: dict[str, Access], row: Row, losses: Losses) -> None:
    start = row["slice_start_us"]
    if row["slice_end_us"] == start and start != row["start_us"]:
        return  # withdrawn: the session had ended the day before, which was heard too late
    _judge(row, losses)
    period = losses.period
    bounds = (period.start_us, period.end_us)
    expected = clip([(start, row["expected_us"])], bounds)
    connected = clip([(start, row["until_us"])], bounds)
    if not expected and not connected and not period.start_us <= start < period.end_us:
        return
    access = found.setdefault(row["subscriber"], Access())
    access.slices.append(row)
    access.connected += connected
    access.expected.setdefault(row["collector"], []).extend(expected)


def _judge(row: Row, losses: Losses) -> None:
    """Say of a slice whether it is open, until when it is known and may be expected to last.

    Open means open in the collector's last window. Of the time since nothing is known: it is no
    connection time, but data is expected of it.
    """
    end = row["slice_end_us"]
    row["open"] = end == 0
    row["until_us"] = row["expected_us"] = end
    midnight = row["slice_start_us"] // DAY_US * DAY_US + DAY_US
    if end:
        if row["end_reason"].startswith("inferred:"):
            # It may have lasted longer, and what a gap has of that time counts as missing.
            row["expected_us"] = max(end, min(row["end_max_us"], midnight))
        return
    mark = losses.marks.get(row["collector"], 0)
    if mark > midnight:
        # The collector went on past midnight without cutting this slice: it had forgotten it.
        row["open"] = False
        row["end_reason"] = UNREPORTED
        row["until_us"] = max(row["end_min_us"], row["slice_start_us"])
        row["expected_us"] = midnight
    else:
        row["until_us"] = max(row["end_min_us"], min(losses.now_us, mark))
        row["expected_us"] = max(row["until_us"], losses.now_us)


def join_slices(slices: list[Row], period: Period) -> list[Row]:
    """Day slices as sessions: one row a session, its time cut to the period, in order of start."""
    joined: dict[bytes, Row] = {}
    bounds = (period.start_us, period.end_us)
    for each in sorted(slices, key=lambda row: row["slice_start_us"]):
        row = joined.setdefault(each["session_id"], {**each, "connected_us": 0})
        row["connected_us"] += length(clip([(each["slice_start_us"], each["until_us"])], bounds))
        for name in ("end_min_us", "end_max_us", "end_reason", "terminate_cause", "open"):
            row[name] = each[name]
        for name in ("up_octets", "down_octets", "last_seen_us"):
            row[name] = max(row[name], each[name])
        row["flags"] |= each["flags"]
        row["last_stamp_us"] = each["last_stamp_us"]
    return sorted(joined.values(), key=lambda row: (row["start_us"], row["session_id"]))


_SLICES: Final = f"""
SELECT subscriber, collector, session_id, nas, acct_session_id, line, start_us, start_source,
       slice_start_us, slice_end_us, end_min_us, end_max_us, end_reason,
       up_octets, down_octets, terminate_cause, flags,
       start_seen_us, start_stamp_us, last_seen_us, last_stamp_us
FROM session FINAL
WHERE subscriber >= %(low)s AND subscriber <= %(high)s
  AND slice_start_us >= %(start)s AND slice_start_us < %(end)s AND {IN_DAYS}
ORDER BY subscriber, slice_start_us, session_id"""
