"""What one subscriber used in a period: volume, sessions and calls, each with its completeness.

Figures come from the base tables, never from a view. A row counts in the period in which it
starts, so adjoining periods add up and nothing is billed twice. Rows that were stored before the
binding they belong to was known are resolved again here, by the history as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aggregator.attribution.attribute import BOUNDED, DEFAULT_TOLERANCE_US, attribute_row
from aggregator.attribution.bindings import BindingIndex
from aggregator.attribution.feed import bindings_of_addresses, bindings_of_subscriber
from aggregator.queries.arithmetic import Interval, Period, clip, completeness, length, union
from aggregator.queries.audit import AuditSink

_DAY_US: Final = 86_400_000_000
MAX_LATE_ROWS: Final = 1_000_000
"""Unattributed rows of one subscriber's addresses that one answer resolves again."""

Row = dict[str, Any]


class Reader(Protocol):
    """The part of the store's client that answers need."""

    def query_columns(self, sql: str, params: Mapping[str, Any]) -> Mapping[str, list[Any]]: ...


def rows_of(client: Reader, sql: str, params: Mapping[str, Any]) -> Iterator[Row]:
    """The answer's rows as dictionaries; for results of a size that people read."""
    columns = client.query_columns(sql, params)
    names = list(columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is known to be missing: share complete, the losses behind it, how far data reaches.

    complete_until_us: every collector of the subscriber has delivered up to here.
    """

    completeness: float
    losses: list[Row]
    complete_until_us: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Volume in bytes and packets, by day (start of the UTC day in microseconds) and in all."""

    subscriber: str
    period: Period
    days: list[Row]
    totals: Row
    bounded_rows: int
    connected_us: int
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in order of start; `connected_us` counts overlapping sessions once."""

    subscriber: str
    period: Period
    sessions: list[Row]
    connected_us: int
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Calls:
    """Call attempts in order of start, with totals of the answered ones."""

    subscriber: str
    period: Period
    calls: list[Row]
    answered: int
    talk_ms: int
    coverage: Coverage


@dataclass(slots=True)
class _Access:
    """A subscriber's time on the network, by collector."""

    slices: list[Row] = field(default_factory=list)
    by_collector: dict[str, list[Interval]] = field(default_factory=dict)


def usage(
    client: Reader,
    subscriber: str,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
) -> Usage:
    """Volume of a subscriber in a period, by day."""
    audit.looked_up("billing usage", subscriber, reference)
    days = {
        row["day_us"]: row for row in rows_of(client, _USAGE_BY_DAY, _params(subscriber, period))
    }
    bounded = sum(row.pop("bounded") for row in days.values())
    for late, reason in _late(client, "usage", _USAGE_LATE, subscriber, period):
        day = late["start_us"] // _DAY_US * _DAY_US
        into = days.setdefault(day, {"day_us": day, **dict.fromkeys(USAGE_COUNTERS, 0)})
        for name in USAGE_COUNTERS:
            into[name] += late[name]
        bounded += reason == BOUNDED
    access = _access(client, subscriber, period, now_us)
    ordered = [days[day] for day in sorted(days)]
    return Usage(
        subscriber,
        period,
        ordered,
        {name: sum(row[name] for row in ordered) for name in USAGE_COUNTERS},
        bounded,
        length(span for spans in access.by_collector.values() for span in spans),
        _coverage(client, access, period, now_us, "usage"),
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
    audit.looked_up("billing sessions", subscriber, reference)
    access = _access(client, subscriber, period, now_us)
    return Sessions(
        subscriber,
        period,
        join_slices(access.slices, period),
        length(span for spans in access.by_collector.values() for span in spans),
        _coverage(client, access, period, now_us, "session"),
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
    audit.looked_up("billing calls", subscriber, reference)
    found = list(rows_of(client, _CALLS, _params(subscriber, period)))
    found += [late for late, _ in _late(client, "call", _CALLS_LATE, subscriber, period)]
    found.sort(key=lambda row: (row["start_us"], row["direction"]))
    for row in found:
        if row["presentation"] == "restricted" and row["direction"] == "in":
            # The caller withheld the number from the called party, who reads this answer.
            row["a_raw"] = row["a_e164"] = ""
    answered = [row for row in found if row["disposition"] == "ANSWERED"]
    access = _access(client, subscriber, period, now_us)
    return Calls(
        subscriber,
        period,
        found,
        len(answered),
        sum(row["talk_ms"] for row in answered),
        _coverage(client, access, period, now_us, "call"),
    )


def subscribers(client: Reader, period: Period) -> list[str]:
    """Every subscriber with a session or attributed usage in the period, in order."""
    found = client.query_columns(_SUBSCRIBERS, _params("", period))
    return [str(name) for name in found.get("subscriber", [])]


def export(
    client: Reader,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Row]:
    """One row a subscriber for the billing run; `progress` is told (done, total)."""
    audit.looked_up("billing export", "", reference)
    names = subscribers(client, period)
    silent = _Silent()
    for done, name in enumerate(names):
        progress(done, len(names))
        used = usage(client, name, period, now_us, silent)
        called = calls(client, name, period, now_us, silent)
        yield {
            "subscriber": name,
            "period": period.text,
            "up_bytes": used.totals["up_bytes"],
            "down_bytes": used.totals["down_bytes"],
            "connected_s": used.connected_us / 1_000_000,
            "calls_answered": called.answered,
            "talk_ms": called.talk_ms,
            "completeness": min(used.coverage.completeness, called.coverage.completeness),
        }
    progress(len(names), len(names))


def join_slices(slices: list[Row], period: Period) -> list[Row]:
    """Day slices as sessions: one row a session, its time cut to the period."""
    joined: dict[bytes, Row] = {}
    for each in sorted(slices, key=lambda row: row["slice_start_us"]):
        row = joined.setdefault(each["session_id"], {**each, "connected_us": 0})
        row["connected_us"] += length(
            clip([(each["slice_start_us"], each["until_us"])], (period.start_us, period.end_us))
        )
        for name in ("end_min_us", "end_max_us", "end_reason", "terminate_cause", "open"):
            row[name] = each[name]
        for name in ("up_octets", "down_octets"):
            row[name] = max(row[name], each[name])
    return sorted(joined.values(), key=lambda row: row["start_us"])


class _Silent:
    """For the parts of an answer whose look-up is already recorded as a whole."""

    def looked_up(self, what: str, subject: str, reference: str) -> None:
        """The whole export has its own line."""


def _params(subscriber: str, period: Period) -> dict[str, Any]:
    return {
        "subscriber": subscriber,
        "start": period.start_us,
        "end": period.end_us,
        # Slices are at most a day long, so one that meets the period starts at most a day before.
        "slice_start": period.start_us - _DAY_US,
    }


def _access(client: Reader, subscriber: str, period: Period, now_us: int) -> _Access:
    found = _Access()
    bounds = (period.start_us, period.end_us)
    for row in rows_of(client, _SESSIONS, _params(subscriber, period)):
        row["open"] = row["slice_end_us"] == 0
        row["until_us"] = row["slice_end_us"] or max(row["end_min_us"], now_us)
        if row["until_us"] <= period.start_us:
            continue
        found.slices.append(row)
        spans = clip([(row["slice_start_us"], row["until_us"])], bounds)
        found.by_collector.setdefault(row["collector"], []).extend(spans)
    return found


def _coverage(
    client: Reader, access: _Access, period: Period, now_us: int, record_class: str
) -> Coverage:
    bounds = (period.start_us, min(period.end_us, now_us))
    expected_us = lost_us = 0
    losses: list[Row] = []
    reach = bounds[1]
    for collector, spans in access.by_collector.items():
        known = {"collector": collector, "start": period.start_us, "end": period.end_us}
        gaps = [
            row
            for row in rows_of(client, _GAPS, known)
            if record_class in row["classes"].split(",")
        ]
        losses += gaps
        marks = client.query_columns(_WATERMARK, known)
        watermark = int(marks["watermark"][0]) if marks.get("watermark") else 0
        reach = min(reach, max(watermark, bounds[0]))
        lost = [(row["start_us"], max(row["end_us"], row["start_us"] + 1)) for row in gaps]
        expected = clip(spans, bounds)
        missing = union([*lost, (watermark, bounds[1])])
        expected_us += length(expected)
        lost_us += round((1.0 - completeness(expected, missing)) * length(expected))
    share = 1.0 if expected_us == 0 else 1.0 - lost_us / expected_us
    return Coverage(share, losses, reach)


def _late(
    client: Reader, table: str, sql: str, subscriber: str, period: Period
) -> Iterator[tuple[Row, str]]:
    """Unattributed rows of a table that the binding history now gives to the subscriber."""
    held = bindings_of_subscriber(client, subscriber, period.start_us, period.end_us)
    spans = sorted({(name, each.address, each.prefix_len) for name, each in held})
    for collector, address, prefix_len in spans:
        last = int.from_bytes(address, "big") | ((1 << (128 - prefix_len)) - 1)
        where = {
            **_params("", period),
            "collector": collector,
            "low": address.hex().upper(),
            "high": last.to_bytes(16, "big").hex().upper(),
            "limit": MAX_LATE_ROWS,
        }
        rows = list(rows_of(client, sql, where))
        if not rows:
            continue
        index = BindingIndex()
        for name, each in bindings_of_addresses(
            client, collector, address, prefix_len, period.start_us, period.end_us
        ):
            index.apply(name, [each])
        for row in rows:
            found, reason = attribute_row(
                index,
                collector,
                row.pop("address"),
                row.pop("prefix_len"),
                row["start_us"],
                row.get("end_us", row["start_us"] + 1),
                DEFAULT_TOLERANCE_US,
            )
            if found == subscriber:
                yield row, reason


EXPORT_COLUMNS: Final = (
    "subscriber",
    "period",
    "up_bytes",
    "down_bytes",
    "connected_s",
    "calls_answered",
    "talk_ms",
    "completeness",
)
USAGE_COUNTERS: Final = ("up_bytes", "down_bytes", "up_packets", "down_packets", "flows")

_USAGE_BY_DAY: Final = """
SELECT intDiv(start_us, 86400000000) * 86400000000 AS day_us,
       sum(u.up_bytes) AS up_bytes, sum(u.down_bytes) AS down_bytes,
       sum(u.up_packets) AS up_packets, sum(u.down_packets) AS down_packets,
       sum(u.flows) AS flows, countIf(u.reason = 'bounded') AS bounded
FROM usage AS u
WHERE subscriber = %(subscriber)s AND start_us >= %(start)s AND start_us < %(end)s
GROUP BY day_us ORDER BY day_us"""

_USAGE_LATE: Final = """
SELECT address, prefix_len, start_us, end_us,
       up_bytes, down_bytes, up_packets, down_packets, flows
FROM usage
WHERE subscriber = '' AND start_us >= %(start)s AND start_us < %(end)s
  AND collector = %(collector)s AND hex(address) >= %(low)s AND hex(address) <= %(high)s
ORDER BY start_us LIMIT %(limit)s"""

_SESSIONS: Final = """
SELECT collector, session_id, nas, acct_session_id, line, start_us, start_source,
       slice_start_us, slice_end_us, end_min_us, end_max_us, end_reason,
       up_octets, down_octets, terminate_cause, flags
FROM session FINAL
WHERE subscriber = %(subscriber)s
  AND slice_start_us >= %(slice_start)s AND slice_start_us < %(end)s
ORDER BY slice_start_us"""

_CALL_COLUMNS: Final = """direction, a_raw, a_e164, b_raw, b_e164, presentation, start_us,
       ring_us, answer_us, end_min_us, end_max_us, talk_ms, disposition, sip_code, released_by,
       emergency, flags"""

_CALLS: Final = f"""
SELECT {_CALL_COLUMNS}
FROM call FINAL
WHERE subscriber = %(subscriber)s AND start_us >= %(start)s AND start_us < %(end)s
ORDER BY start_us"""

_CALLS_LATE: Final = f"""
SELECT address, prefix_len, {_CALL_COLUMNS}
FROM call FINAL
WHERE subscriber = '' AND start_us >= %(start)s AND start_us < %(end)s
  AND collector = %(collector)s AND hex(address) >= %(low)s AND hex(address) <= %(high)s
ORDER BY start_us LIMIT %(limit)s"""

_GAPS: Final = """
SELECT DISTINCT collector, start_us, end_us, stage, reason, amount, unit, classes, scope
FROM gap
WHERE collector = %(collector)s AND start_us < %(end)s AND end_us >= %(start)s
ORDER BY start_us"""

_WATERMARK: Final = """
SELECT max(window_end_us) AS watermark FROM ingest_ledger WHERE collector = %(collector)s"""

_SUBSCRIBERS: Final = """
SELECT DISTINCT subscriber FROM (
  SELECT subscriber FROM session
  WHERE slice_start_us >= %(slice_start)s AND slice_start_us < %(end)s
  UNION ALL
  SELECT subscriber FROM usage WHERE start_us >= %(start)s AND start_us < %(end)s)
WHERE subscriber != '' ORDER BY subscriber"""
