"""What one subscriber used in a period: volume, sessions and calls, each with its completeness.

Figures come from the base tables, never from a view. A row counts in the period in which it
starts, so adjoining periods add up and nothing is billed twice. Rows that were stored before the
binding they belong to was known are resolved again here, by the history as it is now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aggregator.attribution.attribute import BOUNDED
from aggregator.queries.access import access_of, join_slices
from aggregator.queries.arithmetic import DAY_US, HOUR_US, Period
from aggregator.queries.audit import AuditSink
from aggregator.queries.coverage import Coverage, Losses
from aggregator.queries.late import CALL, late_rows
from aggregator.queries.octets import Octets, check_octets
from aggregator.queries.reading import FINAL_BY_PARTITION, IN_DAYS, Reader, Row, rows_of, span
from collector.wire.records import MAX_STRING_BYTES

__all__ = ["Calls", "Coverage", "Reader", "Row", "Sessions", "Usage", "calls", "rows_of"]
__all__ += ["USAGE_COUNTERS", "sessions", "usage"]

Step = Literal["day", "hour"]

USAGE_COUNTERS: Final = ("up_bytes", "down_bytes", "up_packets", "down_packets", "flows")
ANSWERED: Final = "ANSWERED"
_STEPS: Final[dict[Step, int]] = {"day": DAY_US, "hour": HOUR_US}


@dataclass(frozen=True, slots=True)
class Usage:
    """Volume in bytes and packets, in all and by UTC day or hour.

    parts: a row with `part_us` and the counters for each day or hour (`step`) with usage.
    bounded_rows: rows that reach past the binding they were attributed by.
    """

    subscriber: str
    period: Period
    step: Step
    parts: list[Row]
    totals: Row
    bounded_rows: int
    connected_us: int
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in order of start; `connected_us` counts overlapping sessions once. octets: by
    session id, what the NAS's counters are worth beside the metered bytes."""

    subscriber: str
    period: Period
    sessions: list[Row]
    connected_us: int
    coverage: Coverage
    octets: Mapping[bytes, Octets] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calls:
    """Call attempts in order of start, with totals of the answered ones."""

    subscriber: str
    period: Period
    calls: list[Row]
    answered: int
    talk_ms: int
    coverage: Coverage


def usage(
    client: Reader,
    subscriber: str,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
    step: Step = "day",
) -> Usage:
    """Volume of a subscriber in a period, by day or by hour. Raises as `check_subscriber`."""
    check_subscriber(subscriber)
    audit.looked_up(f"billing usage {period.text}", subscriber, reference)
    where = {**_params(subscriber, period), "step": _STEPS[step]}
    parts = {row["part_us"]: row for row in rows_of(client, _USAGE, where)}
    bounded = sum(row.pop("bounded") for row in parts.values())
    for _, reason, late in late_rows(client, "usage", period, subscriber):
        start = late["start_us"] // _STEPS[step] * _STEPS[step]
        into = parts.setdefault(start, {"part_us": start, **dict.fromkeys(USAGE_COUNTERS, 0)})
        for name in USAGE_COUNTERS:
            into[name] += late[name]
        bounded += reason == BOUNDED
    losses = Losses(client, period, now_us)
    access = access_of(client, subscriber, losses)
    ordered = [parts[start] for start in sorted(parts)]
    return Usage(
        subscriber,
        period,
        step,
        ordered,
        {name: sum(row[name] for row in ordered) for name in USAGE_COUNTERS},
        bounded,
        access.connected_us,
        losses.coverage(access.expected, "usage"),
    )


def sessions(
    client: Reader,
    subscriber: str,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
) -> Sessions:
    """Access sessions of a subscriber that meet the period, day slices joined."""
    check_subscriber(subscriber)
    audit.looked_up(f"billing sessions {period.text}", subscriber, reference)
    losses = Losses(client, period, now_us)
    access = access_of(client, subscriber, losses)
    joined = join_slices(access.slices, period)
    return Sessions(
        subscriber,
        period,
        joined,
        access.connected_us,
        losses.coverage(access.expected, "session"),
        check_octets(client, subscriber, joined, losses),
    )


def calls(
    client: Reader,
    subscriber: str,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
) -> Calls:
    """Call attempts of a subscriber that started in the period."""
    check_subscriber(subscriber)
    audit.looked_up(f"billing calls {period.text}", subscriber, reference)
    found = call_rows(client, subscriber, period)
    losses = Losses(client, period, now_us)
    access = access_of(client, subscriber, losses)
    answered = [row for row in found if row["disposition"] == ANSWERED]
    return Calls(
        subscriber,
        period,
        found,
        len(answered),
        sum(row["talk_ms"] for row in answered),
        losses.coverage(access.expected, "call"),
    )


def call_rows(client: Reader, subscriber: str, period: Period) -> list[Row]:
    """Calls in order of start, the newest version of each, withheld numbers taken out."""
    found = list(rows_of(client, _CALLS, _params(subscriber, period), FINAL_BY_PARTITION))
    found += [late for _, _, late in late_rows(client, "call", period, subscriber)]
    # A version stored before the binding was known does not replace one stored after, or the
    # other way round: the subscriber is in the table's key.
    newest: dict[bytes, Row] = {}
    for row in found:
        known = newest.setdefault(row["record_id"], row)
        if row["observed_us"] > known["observed_us"]:
            newest[row["record_id"]] = row
    for row in newest.values():
        if row["presentation"] == "restricted" and row["direction"] == "in":
            # The caller withheld the number from the called party, who reads this answer.
            row["a_raw"] = row["a_e164"] = ""
    return sorted(
        newest.values(), key=lambda row: (row["start_us"], row["direction"], row["record_id"])
    )


def check_subscriber(subscriber: str) -> None:
    """Raise ValueError for what cannot be a subscriber; the message does not repeat it.

    The empty reference above all: it would mean everything that is unattributed.
    """
    if not subscriber:
        raise ValueError("the subscriber reference is empty")
    try:
        size = len(subscriber.encode())
    except UnicodeEncodeError:
        raise ValueError("the subscriber reference is not UTF-8") from None
    if size > MAX_STRING_BYTES:
        raise ValueError(f"the subscriber reference is longer than {MAX_STRING_BYTES} bytes")


def _params(subscriber: str, period: Period) -> dict[str, Any]:
    return {"subscriber": subscriber, **span(period.start_us, period.end_us)}


_MINE: Final = f"""
WHERE subscriber = %(subscriber)s
  AND start_us >= %(start)s AND start_us < %(end)s AND {IN_DAYS}"""

_USAGE: Final = f"""
SELECT intDiv(u.start_us, %(step)s) * %(step)s AS part_us,
       sum(u.up_bytes) AS up_bytes, sum(u.down_bytes) AS down_bytes,
       sum(u.up_packets) AS up_packets, sum(u.down_packets) AS down_packets,
       sum(u.flows) AS flows, countIf(u.reason = 'bounded') AS bounded
FROM usage AS u{_MINE}
GROUP BY part_us ORDER BY part_us"""

_CALLS: Final = f"""
SELECT {CALL} FROM call FINAL{_MINE}
ORDER BY start_us, direction, record_id"""
