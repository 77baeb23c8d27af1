"""What went wrong on one line in a period, on one timeline: for the fault team, without numbers.

Sessions with their ends and causes, calls that failed, gaps in what we know, and flaps: a line that
fell and came back several times within an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aggregator.queries.access import access_of, join_slices
from aggregator.queries.arithmetic import HOUR_US, SECOND_US, Period, iso
from aggregator.queries.billing import call_rows, check_subscriber
from aggregator.queries.coverage import Losses
from aggregator.queries.octets import NOT_COUNTED, check_octets
from aggregator.queries.reading import Reader, Row

FLAP_DROPS: Final = 3
FLAP_WITHIN_US: Final = HOUR_US
BACK_WITHIN_US: Final = 600 * SECOND_US
"""So many falls within so long, each followed by a new session within ten minutes."""
_WANTED: Final = frozenset((1, 4, 5))
"""Terminate causes that are no fault: User Request, Idle and Session Timeout."""
_WORKED: Final = frozenset(("ANSWERED", "BUSY", "NO_ANSWER", "CANCELLED", "REDIRECTED"))
"""Dispositions of calls that the network carried as it should."""

CAUSES: Final = (
    "",
    "user request",
    "lost carrier",
    "lost service",
    "idle timeout",
    "session timeout",
    "admin reset",
    "admin reboot",
    "port error",
    "NAS error",
    "NAS request",
    "NAS reboot",
    "port unneeded",
    "port preempted",
    "port suspended",
    "service unavailable",
    "callback",
    "user error",
    "host request",
)
"""Acct-Terminate-Cause by number (RFC 2866 section 5.10)."""


def cause_text(number: int) -> str:
    """A terminate cause in words; unknown numbers as they are, "not stated" for none."""
    if number < 0:
        return "not stated"
    return CAUSES[number] if 0 < number < len(CAUSES) else f"cause {number}"


def line_faults(client: Reader, subscriber: str, period: Period, now_us: int) -> dict[str, Any]:
    """The timeline of one subscriber. Raises ValueError for what cannot be one."""
    check_subscriber(subscriber)
    losses = Losses(client, period, now_us)
    access = access_of(client, subscriber, losses)
    sessions = join_slices(access.slices, period)
    calls = [
        row for row in call_rows(client, subscriber, period) if row["disposition"] not in _WORKED
    ]
    coverage = losses.coverage(access.expected, "session")
    found = flaps(sessions)
    octets = check_octets(client, subscriber, sessions, losses)
    events = [
        *(
            {"at_us": row["end_min_us"], "what": "octets differ", "detail": words, **_where(row)}
            for row in sessions
            if (words := octets.get(row["session_id"], NOT_COUNTED).words)
        ),
        *(event for row in sessions for event in _session(row)),
        *(_call(row) for row in calls),
        *(_gap(row) for row in coverage.losses),
        *({"at_us": each["from_us"], "what": "flaps", **_flap(each)} for each in found),
    ]
    events.sort(key=lambda event: (event["at_us"], event["what"]))
    return {
        "subscriber": subscriber,
        "period": period.text,
        "timeline": [{"at": iso(e.pop("at_us")), **e} for e in events],
        "sessions": len(sessions),
        "drops": len(_drops(sessions)),
        "flaps": len(found),
        "calls_failed": len(calls),
        "connected_s": access.connected_us / 1e6,
        "completeness": coverage.completeness,
    }


def flaps(sessions: Sequence[Row]) -> list[dict[str, int]]:
    """Runs of falls that each came back soon: at least FLAP_DROPS within FLAP_WITHIN_US."""
    at = sorted(_drops(sessions))
    runs: list[dict[str, int]] = []
    for n in range(len(at) - FLAP_DROPS + 1):
        first, last = at[n], at[n + FLAP_DROPS - 1]
        if last - first > FLAP_WITHIN_US:
            continue
        if runs and first <= runs[-1]["to_us"]:
            runs[-1]["to_us"] = last
        else:
            runs.append({"from_us": first, "to_us": last})
    for run in runs:
        run["drops"] = sum(run["from_us"] <= each <= run["to_us"] for each in at)
    return runs


def _drops(sessions: Sequence[Row]) -> list[int]:
    """Instants at which the line fell and came back by itself."""
    starts = sorted(row["start_us"] for row in sessions)
    return [
        row["end_min_us"]
        for row in sessions
        if not row["open"]
        and row["terminate_cause"] not in _WANTED
        and any(0 <= start - row["end_min_us"] <= BACK_WITHIN_US for start in starts)
    ]


def _where(row: Row) -> dict[str, Any]:
    return {"nas": row["nas"], "line": row["line"]}


def _session(row: Row) -> list[dict[str, Any]]:
    where = _where(row)
    events: list[dict[str, Any]] = [
        {
            "at_us": row["start_us"],
            "what": "session begins",
            "detail": row["start_source"],
            **where,
        }
    ]
    if not row["open"]:
        reason = row["end_reason"]
        is_inferred = reason.startswith("inferred:")
        cause = reason if is_inferred else cause_text(row["terminate_cause"])
        end: dict[str, Any] = {"at_us": row["end_min_us"], "what": "session ends", "detail": cause}
        if is_inferred:
            end["until_at_latest"] = iso(row["end_max_us"])
        events.append({**end, **where})
    return events


def _call(row: Row) -> dict[str, Any]:
    """A call that failed; its numbers are no business of the fault team."""
    way = "from" if row["direction"] == "out" else "to"
    detail = f"{row['disposition']} {row['sip_code'] or ''}".strip()
    return {"at_us": row["start_us"], "what": f"call {way} the line failed", "detail": detail}


def _gap(row: Row) -> dict[str, Any]:
    detail = f"{row['stage']}: {row['reason']} at {row['collector']}"
    until = iso(row["end_us"])
    return {"at_us": row["start_us"], "what": "records missing", "detail": detail, "until": until}


def _flap(run: Mapping[str, int]) -> dict[str, Any]:
    return {"detail": f"{run['drops']} falls", "until": iso(run["to_us"])}
