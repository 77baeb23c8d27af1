"""Many lines of one port, NAS or area that ended together: when, how many of how many, and why.

Ends are counted in minutes. Two neighbouring minutes in which enough different lines of a place
ended are an outage, and what follows it without a quiet minute belongs to it. An outage that is a
part of a wider one at the same time is named in that one alone. No subscriber is in the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aggregator.queries.arithmetic import DAY_US, Period, iso
from aggregator.queries.faults import cause_text
from aggregator.queries.reading import FINAL_BY_PARTITION, IN_DAYS, Reader, rows_of, span

MINUTE_US: Final = 60_000_000
LINES: Final = 5
SHARE: Final = 0.2
"""An outage: at least so many lines, and at least this share of the place's lines."""
MAX_ROWS: Final = 2_000_000
"""Minutes of ports and causes; a day of 1,400 ports in which each minute has an end."""

Place = tuple[str, str]
"""Kind (port, nas or area) and name."""


@dataclass(slots=True)
class Minute:
    """Lines (hashed) of a place that ended in one minute, and the causes of their ends."""

    lines: set[int] = field(default_factory=set)
    causes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Outage:
    """Lines of one place that ended in [start, end), of those it had in the period."""

    place: Place
    start_us: int
    end_us: int
    lines: frozenset[int]
    of_lines: int
    causes: tuple[tuple[str, int], ...]


def outages(
    client: Reader,
    period: Period,
    areas: Mapping[str, Sequence[str]],
    least: int = LINES,
    share: float = SHARE,
) -> dict[str, Any]:
    """Outages of a period in order of time. areas: names to the NAS that serve them."""
    area_of = {nas: area for area, names in areas.items() for nas in names}
    where = {
        **span(period.start_us // DAY_US * DAY_US, period.end_us),
        "start": period.start_us,
        "end": period.end_us,
    }
    minutes: dict[Place, dict[int, Minute]] = {}
    for n, row in enumerate(rows_of(client, _ENDS, where, FINAL_BY_PARTITION)):
        if n >= MAX_ROWS:
            raise ValueError("period: too many sessions ended in it; ask for a shorter one")
        for place in places(row["nas"], row["port"], area_of):
            minute = minutes.setdefault(place, {}).setdefault(row["minute"], Minute())
            minute.lines.update(row["lines"])
            minute.causes[_why(row["terminate_cause"], row["end_reason"])] += row["ends"]
    totals: dict[Place, set[int]] = {}
    for row in rows_of(client, _LINES, where):
        for place in places(row["nas"], row["port"], area_of):
            totals.setdefault(place, set()).update(row["lines"])
    sizes = {place: len(lines) for place, lines in totals.items()}
    found = [each for place, ends in minutes.items()
             for each in bursts(place, ends, sizes.get(place, 0), least, share)]  # fmt: skip
    return {
        "period": period.text,
        "outages": [_plain(each, parts) for each, parts in widest(found)],
    }


def places(nas: str, port: str, area_of: Mapping[str, str]) -> list[Place]:
    """What a line is a part of, the narrowest first."""
    found = [("port", f"{nas} {port}")] if port else []
    found.append(("nas", nas))
    return [*found, ("area", area_of[nas])] if nas in area_of else found


def bursts(
    place: Place, ends: Mapping[int, Minute], of_lines: int, least: int, share: float
) -> list[Outage]:
    """The outages of one place."""
    need = max(least, -(-of_lines * share // 1))
    hot: set[int] = set()
    for at in ends:
        pair = [ends[each] for each in (at, at + 1) if each in ends]
        if len(set().union(*(each.lines for each in pair))) >= need:
            hot.update(each for each in (at, at + 1) if each in ends)
    runs: list[list[int]] = []
    for at in sorted(hot):
        if runs and at - runs[-1][-1] <= 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    return [_outage(place, run, ends, of_lines) for run in runs]


def _outage(place: Place, run: Sequence[int], ends: Mapping[int, Minute], of: int) -> Outage:
    causes = sum((ends[at].causes for at in run), Counter[str]())
    lines = frozenset().union(*(ends[at].lines for at in run))
    start, end = run[0] * MINUTE_US, (run[-1] + 1) * MINUTE_US
    return Outage(place, start, end, lines, max(of, len(lines)), tuple(causes.most_common()))


def widest(found: Iterable[Outage]) -> list[tuple[Outage, list[Outage]]]:
    """Each outage that is a part of no wider one, with its parts, in order of time."""
    ranks = {"area": 0, "nas": 1, "port": 2}
    ordered = sorted(found, key=lambda each: (ranks[each.place[0]], each.start_us, each.place))
    kept: list[tuple[Outage, list[Outage]]] = []
    for each in ordered:
        wider = next((parts for outer, parts in kept if _is_part(each, outer)), None)
        if wider is None:
            kept.append((each, []))
        else:
            wider.append(each)
    return sorted(kept, key=lambda pair: (pair[0].start_us, pair[0].place))


def _is_part(each: Outage, outer: Outage) -> bool:
    together = each.start_us < outer.end_us and outer.start_us < each.end_us
    return together and each.place[0] != outer.place[0] and each.lines <= outer.lines


def _why(cause: int, reason: str) -> str:
    return reason if reason.startswith("inferred:") else cause_text(cause)


def _plain(each: Outage, parts: Sequence[Outage]) -> dict[str, Any]:
    return {
        "kind": each.place[0],
        "place": each.place[1],
        "start": iso(each.start_us),
        "end": iso(each.end_us),
        "lines": len(each.lines),
        "of_lines": each.of_lines,
        "causes": dict(each.causes),
        "parts": [
            {"kind": part.place[0], "place": part.place[1], "lines": len(part.lines)}
            for part in parts
        ],
    }


# When an end was inferred, what ended it is what was seen at its latest: a reboot, another session.
_AT: Final = "if(end_reason LIKE 'inferred:%%' AND end_max_us > 0, end_max_us, slice_end_us)"
_PORT: Final = "extract(line, '^[^:.]*')"
"""NAS-Port-Id up to what tells one line of a port from another (ge-0/0/1:1234, 0/1/3.100)."""

_ENDS: Final = f"""
SELECT nas, {_PORT} AS port, intDiv({_AT}, {MINUTE_US}) AS minute,
       terminate_cause, end_reason, count() AS ends,
       groupUniqArray(sipHash64(subscriber, line)) AS lines
FROM session FINAL
WHERE slice_end_us > 0 AND end_reason != '' AND {_AT} >= %(start)s AND {_AT} < %(end)s
  AND {IN_DAYS}
GROUP BY nas, port, minute, terminate_cause, end_reason
LIMIT {MAX_ROWS + 1}"""

_LINES: Final = f"""
SELECT nas, {_PORT} AS port, groupUniqArray(sipHash64(subscriber, line)) AS lines
FROM session WHERE {IN_DAYS}
GROUP BY nas, port"""
