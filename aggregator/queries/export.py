"""Every subscriber's figures of a period, one row each, for the billing run.

The same figures as the single answers, asked for a thousand subscribers at a time: a handful of
statements for each thousand, and the rows that nobody had yet resolved once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from aggregator.queries.access import Access, access_between, join_slices
from aggregator.queries.arithmetic import Period
from aggregator.queries.audit import AuditSink
from aggregator.queries.billing import ANSWERED, call_rows
from aggregator.queries.coverage import Losses
from aggregator.queries.late import late_rows
from aggregator.queries.octets import check_octets
from aggregator.queries.reading import FINAL_BY_PARTITION, IN_DAYS, Reader, Row, rows_of, span

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
OCTET_COLUMNS: Final = ("octets_agree", "octets_differ", "octets_unjudged", "octets_findings")
"""Sessions by what the NAS's counters are worth beside the metered bytes, and what differs."""
CHUNK: Final = 1000
"""Subscribers at a time: their slices of a month are 31,000 rows, 50 MB."""

_VOLUME: Final = ("up_bytes", "down_bytes")


class _Late:
    """What was stored unattributed and has a subscriber by now: volumes, and who had calls."""

    def __init__(self, client: Reader, period: Period) -> None:
        self.volume: dict[str, dict[str, int]] = {}
        for name, _, row in late_rows(client, "usage", period):
            into = self.volume.setdefault(name, dict.fromkeys(_VOLUME, 0))
            for counter in _VOLUME:
                into[counter] += row[counter]
        self.callers = {name for name, _, _ in late_rows(client, "call", period)}


def export(
    client: Reader,
    period: Period,
    now_us: int,
    audit: AuditSink,
    reference: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    octets: bool = False,
) -> Iterator[Row]:
    """One row for each subscriber with a session, usage or a call in the period, in byte order.

    The rows have EXPORT_COLUMNS, with `octets` OCTET_COLUMNS too, which ask several statements of
    each subscriber whose NAS counts. The look-up is recorded by the call itself, before any row is
    asked for. `progress` is told (done, total) subscribers.
    """
    audit.looked_up(f"billing export {period.text}", "", reference)
    return _rows(client, Losses(client, period, now_us), progress, octets)


def _rows(
    client: Reader, losses: Losses, progress: Callable[[int, int], None], octets: bool
) -> Iterator[Row]:
    period = losses.period
    late = _Late(client, period)
    names = _subscribers(client, losses, late)
    progress(0, len(names))
    for first in range(0, len(names), CHUNK):
        chunk = names[first : first + CHUNK]
        yield from _chunk(client, chunk, losses, late, octets)
        progress(first + len(chunk), len(names))


def _subscribers(client: Reader, losses: Losses, late: _Late) -> list[str]:
    """Who may have a row, in the order of the store's keys: that of their UTF-8 bytes."""
    period = losses.period
    where = span(period.start_us, period.end_us)
    opened = span(losses.oldest_us, period.end_us)
    where["opened_day"] = opened["first_day"]
    found = client.query_columns(_SUBSCRIBERS, where)
    names = {*found.get("subscriber", []), *late.volume, *late.callers}
    return sorted(names - {""}, key=lambda name: name.encode())


def _chunk(
    client: Reader, names: Sequence[str], losses: Losses, late: _Late, octets: bool
) -> Iterator[Row]:
    period = losses.period
    where: dict[str, Any] = {
        **span(period.start_us, period.end_us),
        "low": names[0],
        "high": names[-1],
        "answered": ANSWERED,
    }
    volumes = {row["subscriber"]: row for row in rows_of(client, _VOLUMES, where)}
    called = {row["subscriber"]: row for row in rows_of(client, _CALLED, where, FINAL_BY_PARTITION)}
    accesses = access_between(client, names[0], names[-1], losses)
    for name in names:
        volume, calls, access = volumes.get(name), called.get(name), accesses.get(name)
        if name in late.callers:
            calls = _called_late(client, name, period)
        if not (volume or calls or access or name in late.volume):
            continue  # a session that ended on the eve of the period
        more = late.volume.get(name, {})
        access = access or Access()
        yield {
            "subscriber": name,
            "period": period.text,
            **{n: (volume[n] if volume else 0) + more.get(n, 0) for n in _VOLUME},
            "connected_s": access.connected_us / 1_000_000,
            "calls_answered": calls["answered"] if calls else 0,
            "talk_ms": calls["talk_ms"] if calls else 0,
            "completeness": min(
                losses.coverage(access.expected, each).completeness for each in ("usage", "call")
            ),
            **(_octets(client, name, access, losses) if octets else {}),
        }


def _octets(client: Reader, name: str, access: Access, losses: Losses) -> Row:
    """OCTET_COLUMNS of one subscriber; findings in the words of `billing sessions`."""
    found = check_octets(client, name, join_slices(access.slices, losses.period), losses).values()
    agree = sum(each.verdict == "agrees" for each in found)
    differ = [each.words for each in found if each.words]
    rest = len(found) - agree - len(differ)
    findings = "; ".join(dict.fromkeys(differ))
    return dict(zip(OCTET_COLUMNS, (agree, len(differ), rest, findings), strict=True))


def _called_late(client: Reader, name: str, period: Period) -> Row:
    """Totals of a subscriber some of whose calls were stored unattributed, from the rows."""
    answered = [r for r in call_rows(client, name, period) if r["disposition"] == ANSWERED]
    return {"answered": len(answered), "talk_ms": sum(row["talk_ms"] for row in answered)}


_IN: Final = f"start_us >= %(start)s AND start_us < %(end)s AND {IN_DAYS}"

_SUBSCRIBERS: Final = f"""
SELECT DISTINCT subscriber FROM (
  SELECT subscriber FROM session
  WHERE clock_day >= toDate(%(opened_day)s) AND clock_day <= toDate(%(last_day)s)
  UNION ALL
  SELECT subscriber FROM usage WHERE {_IN}
  UNION ALL
  SELECT subscriber FROM call WHERE {_IN})"""

_VOLUMES: Final = f"""
SELECT subscriber, sum(u.up_bytes) AS up_bytes, sum(u.down_bytes) AS down_bytes
FROM usage AS u
WHERE subscriber >= %(low)s AND subscriber <= %(high)s AND {_IN}
GROUP BY subscriber"""

_CALLED: Final = f"""
SELECT subscriber, countIf(disposition = %(answered)s) AS answered,
       sumIf(c.talk_ms, disposition = %(answered)s) AS talk_ms
FROM call AS c FINAL
WHERE subscriber >= %(low)s AND subscriber <= %(high)s AND {_IN}
GROUP BY subscriber"""
