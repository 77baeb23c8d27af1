"""What a NAS counted beside what was metered on the same line: told wherever both do not agree.

Neither corrects the other. A NAS may count link headers, packets that the router drops later, or
from its own side; a router does not see what ends at the NAS. So what was metered is a range: from
the rows that lie inside the session to those that touch it, since a report comes in mid-window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from aggregator.queries.arithmetic import HOUR_US, Period, parse_period
from aggregator.queries.coverage import Losses
from aggregator.queries.late import late_rows
from aggregator.queries.reading import IN_DAYS, Reader, Row, rows_of, span

Verdict = Literal["uncounted", "agrees", "less", "more", "differs", "swapped", "unknown"]

SHARE: Final = 0.02
"""Bytes that may be lost or added between the two points of measurement."""
FRAMING_BYTES: Final = 42
"""Of each packet, which RFC 2866 section 5.3 lets a NAS count: Ethernet 18, two VLAN tags 8, PPPoE
and PPP 8, MPLS 8."""
FLOOR_BYTES: Final = 20_000
"""Looked at no closer: name servers, DHCP and the like may end at the NAS or at the router."""
MAX_ROWS: Final = 100_000
"""Of usage: a year of five minutes. Who has more is not judged."""

WORDS: Final[Mapping[Verdict, str]] = {
    "uncounted": "",
    "agrees": "",
    "less": "the NAS counted less than was metered",
    "more": "the NAS counted more than was metered",
    "differs": "the NAS counted less one way and more the other",
    "swapped": "the NAS counts up and down the other way round: see control.radius_swapped",
    "unknown": "",
}
Ways = tuple[int, int]
"""Up and down."""


@dataclass(frozen=True, slots=True)
class Octets:
    """What one session's counters are worth. `least`, `most`: bytes metered, up and down.

    Unknown where metering is incomplete or its rows are gone, where sessions overlap, as usage is
    the line's, and where the session goes on past the period that was asked about.
    """

    verdict: Verdict
    least: Ways = (0, 0)
    most: Ways = (0, 0)

    @property
    def words(self) -> str:
        """What does not agree, for people; else empty."""
        return WORDS[self.verdict]

    def told(self, session: Row) -> str:
        """The words with the figures of both sides, in bytes; else empty."""
        ways = zip(("up", "down"), self.least, self.most, strict=True)
        sides = (
            f"{way} {session[f'{way}_octets']:,} beside {low:,}"
            + (f" to {top:,}" if top > low else "")
            for way, low, top in ways
        )
        return f"{self.words} ({', '.join(sides)} bytes)" if self.words else ""

    def plain(self) -> dict[str, Any]:
        ways = zip(("up", "down"), self.least, self.most, strict=True)
        return {"check": self.verdict, **{f"metered_{way}": [low, top] for way, low, top in ways}}


NOT_COUNTED: Final = Octets("uncounted")


def check_octets(
    client: Reader, subscriber: str, sessions: Sequence[Row], losses: Losses
) -> dict[bytes, Octets]:
    """What is to be said of the counters of each session that has any, by its id.

    sessions: one row a session, as `join_slices` gives them; counters are since its start, so that
    usage is read from there on whatever the period is.
    """
    counted = [row for row in sessions if row["up_octets"] or row["down_octets"]]
    if not counted:
        return {}
    first = min(row["start_us"] for row in counted)
    last = max(max(row["end_min_us"] for row in counted), first + 1)
    period = Period("", first, last)
    known_from = _kept_from(client)
    whole = losses if losses.period.start_us <= first else Losses(client, period, losses.now_us)
    usage = _usage(client, subscriber, period)
    found = {}
    for row in counted:
        span_us = (row["start_us"], row["end_min_us"])
        alone = not any(
            other is not row and other["start_us"] < span_us[1] and span_us[0] < _until(other)
            for other in counted
        )
        # The last slice of one that goes on past the period may have a count of the day after.
        goes_on = not row["open"] and not row["end_reason"]
        if not alone or goes_on or usage is None or span_us[0] < known_from:
            found[row["session_id"]] = Octets("unknown")
            continue
        is_whole = not whole.missing(row["collector"], "usage").inside(span_us)
        found[row["session_id"]] = compare(row, usage, is_whole)
    return found


def compare(session: Row, usage: Iterable[Row], is_whole: bool) -> Octets:
    """One session's counters beside the line's usage; where some is missing, only less is told."""
    start, end = session["start_us"], session["end_min_us"]
    least, most, packets = [0, 0], [0, 0], [0, 0]
    for row in usage:
        if row["start_us"] >= end or row["end_us"] <= start:
            continue
        is_inside = start <= row["start_us"] and row["end_us"] <= end
        for way, name in enumerate(("up", "down")):
            most[way] += row[f"{name}_bytes"]
            packets[way] += row[f"{name}_packets"]
            least[way] += row[f"{name}_bytes"] if is_inside else 0
    lows = [int(each * (1 - SHARE)) - FLOOR_BYTES for each in least]
    tops = [
        int(each * (1 + SHARE)) + count * FRAMING_BYTES + FLOOR_BYTES
        for each, count in zip(most, packets, strict=True)
    ]
    octets = (session["up_octets"], session["down_octets"])
    verdict = _verdict(octets, lows, tops, is_whole)
    return Octets(verdict, (least[0], least[1]), (most[0], most[1]))


def _verdict(octets: Ways, lows: list[int], tops: list[int], is_whole: bool) -> Verdict:
    is_less = any(count < low for count, low in zip(octets, lows, strict=True))
    is_more = any(count > top for count, top in zip(octets, tops, strict=True))
    if not is_whole:
        return "less" if is_less else "unknown"
    if not is_less and not is_more:
        return "agrees"
    crossed = zip(reversed(octets), lows, tops, strict=True)
    if all(low <= count <= top for count, low, top in crossed):
        return "swapped"
    return "differs" if is_less and is_more else "less" if is_less else "more"


def _until(row: Row) -> int:
    """A session that goes on is beside every later one."""
    return int(row["until_us"] if row["open"] else row["end_min_us"])


def _kept_from(client: Reader) -> int:
    """Usage before this may have been destroyed, its period being over: a month's first instant."""
    months = [int(each) for each in client.query_columns(_FIRST_OPEN, {}).get("first", [])]
    if not months:
        return 0
    year, month = divmod(max(months), 100)
    return parse_period(f"{year:04}-{month:02}").start_us


def _usage(client: Reader, subscriber: str, period: Period) -> list[Row] | None:
    """Rows that meet the period, those too whose subscriber is known since; None for too many."""
    around = Period("", period.start_us - HOUR_US, period.end_us)
    where = {"subscriber": subscriber, **span(around.start_us, around.end_us)}
    rows = list(rows_of(client, _USAGE, where))
    if len(rows) > MAX_ROWS:
        return None
    return rows + [row for _, _, row in late_rows(client, "usage", around, subscriber)]


_USAGE: Final = f"""
SELECT start_us, end_us, sum(up_bytes) AS up_bytes, sum(down_bytes) AS down_bytes,
       sum(up_packets) AS up_packets, sum(down_packets) AS down_packets
FROM usage
WHERE subscriber = %(subscriber)s AND start_us >= %(start)s AND start_us < %(end)s AND {IN_DAYS}
GROUP BY start_us, end_us ORDER BY start_us, end_us LIMIT {MAX_ROWS + 1}"""

_FIRST_OPEN: Final = """
SELECT argMax(first_open, version) AS first FROM closed_partitions
WHERE record_class = 'usage' GROUP BY record_class"""
