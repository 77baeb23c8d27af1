"""Answers in, tables for people or plain values for JSON out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggregator.queries.arithmetic import iso
from aggregator.queries.billing import USAGE_COUNTERS, Calls, Sessions, Usage
from aggregator.queries.coverage import Coverage
from aggregator.queries.demand import BusyHour
from aggregator.queries.octets import NOT_COUNTED
from aggregator.queries.reading import Row
from collector.wire.records import SESSION_COUNTERS_DISAGREE

MAX_SHOWN_LOSSES: Final = 20
"""Losses below a table; a bad month has thousands. JSON has them all."""


def bytes_text(count: int) -> str:
    """Bytes with a decimal unit for the eye and the exact figure beside it."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{count:,} B" if unit == "B" else f"{size:,.2f} {unit} ({count:,})"


def seconds_text(us: int) -> str:
    """Microseconds as h:mm:ss.t."""
    tenths = us // 100_000
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def share_text(share: float) -> str:
    """A share as a percentage that shows 100 only when it is exactly complete."""
    if share == 1.0:
        return "100 %"
    return f"{min(share * 100, 99.9999):.4f} %"


def clean(text: str) -> str:
    """Text from the network as it may stand on a terminal: what could steer it is written out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def coverage_plain(coverage: Coverage) -> dict[str, Any]:
    """How complete an answer is; `amount` is null where it is not known."""
    return {
        "completeness": coverage.completeness,
        "complete_until": iso(coverage.complete_until_us),
        "losses": [
            {
                "collector": row["collector"],
                "stage": row["stage"],
                "reason": row["reason"],
                "start": iso(row["start_us"]),
                "end": iso(row["end_us"]),
                "amount": None if row["amount"] < 0 else row["amount"],
                "unit": row["unit"],
                "scope": row["scope"],
            }
            for row in coverage.losses
        ],
    }


def _part(answer: Usage, start_us: int) -> str:
    """A day as its date, an hour as the instant at which it begins."""
    return iso(start_us)[:10] if answer.step == "day" else iso(start_us)


def usage_plain(answer: Usage) -> dict[str, Any]:
    """Totals, and `days` or `hours` with the same counters."""
    return {
        "subscriber": answer.subscriber,
        "period": answer.period.text,
        "totals": {**answer.totals, "connected_s": answer.connected_us / 1e6},
        f"{answer.step}s": [
            {
                answer.step: _part(answer, row["part_us"]),
                **{name: row[name] for name in USAGE_COUNTERS},
            }
            for row in answer.parts
        ],
        "rows_bounded": answer.bounded_rows,
        **coverage_plain(answer.coverage),
    }


_SESSION_TIMES = ("start_seen", "start_stamp", "last_seen", "last_stamp")
"""When the packets behind start and end were captured, and the NAS's own times of them."""
_SESSION_FIELDS = ("nas", "acct_session_id", "line", "start_source", "end_reason")


def sessions_plain(answer: Sessions) -> dict[str, Any]:
    """Sessions with both bounds of their end; `end_max` is empty where it is not known."""
    return {
        "subscriber": answer.subscriber,
        "period": answer.period.text,
        "sessions": [
            {
                **{name: row[name] for name in _SESSION_FIELDS},
                "start": iso(row["start_us"]),
                "end_min": iso(row["end_min_us"]),
                "end_max": iso(row["end_max_us"]),
                "open": row["open"],
                "connected_s": row["connected_us"] / 1e6,
                "up_octets": row["up_octets"],
                "down_octets": row["down_octets"],
                "octets": answer.octets.get(row["session_id"], NOT_COUNTED).plain(),
                "counters_restarted": bool(row["flags"] & SESSION_COUNTERS_DISAGREE),
                **{name: iso(row[f"{name}_us"]) for name in _SESSION_TIMES},
                "terminate_cause": None if row["terminate_cause"] < 0 else row["terminate_cause"],
            }
            for row in answer.sessions
        ],
        "totals": {"sessions": len(answer.sessions), "connected_s": answer.connected_us / 1e6},
        **coverage_plain(answer.coverage),
    }


def _number(row: Row, side: str) -> str:
    if side == "a" and row["presentation"] == "restricted" and not row["a_raw"]:
        return "withheld"
    return str(row[f"{side}_e164"] or row[f"{side}_raw"])


def calls_plain(answer: Calls) -> dict[str, Any]:
    """Call attempts; a number that its caller withheld from this subscriber reads "withheld"."""
    return {
        "subscriber": answer.subscriber,
        "period": answer.period.text,
        "calls": [
            {
                "direction": row["direction"],
                "a": _number(row, "a"),
                "b": _number(row, "b"),
                "connected": _number(row, "connected"),
                "charged": row["charged"],
                "start": iso(row["start_us"]),
                "answered": iso(row["answer_us"]),
                "end_min": iso(row["end_min_us"]),
                "end_max": iso(row["end_max_us"]),
                "open": bool(row["partial"]),
                "setup_ms": row["setup_ms"],
                "ring_ms": row["ring_ms"],
                "talk_ms": row["talk_ms"],
                "disposition": row["disposition"],
                "sip_code": row["sip_code"],
                "released_by": row["released_by"],
                "emergency": bool(row["emergency"]),
            }
            for row in answer.calls
        ],
        "totals": {
            "calls": len(answer.calls),
            "answered": answer.answered,
            "talk_ms": answer.talk_ms,
        },
        **coverage_plain(answer.coverage),
    }


def busy_hour_plain(answer: BusyHour) -> dict[str, Any]:
    """Hours by area; `lines` is null where they were too few to show."""

    def hour(row: Row) -> dict[str, Any]:
        return {
            "area": row["area"],
            "hour": iso(row["hour_us"]),
            "up_bytes": row["up_bytes"],
            "down_bytes": row["down_bytes"],
            "up_mbps": round(row["up_mbps"], 6),
            "down_mbps": round(row["down_mbps"], 6),
            "lines": row["lines"],
        }

    return {
        "period": answer.period.text,
        "hours": [hour(row) for row in answer.hours],
        "busiest": {area: hour(row) for area, row in answer.busiest.items()},
        "totals": answer.totals,
        "completeness": answer.completeness,
    }


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> Table:
    """A table whose columns from number `right` on are figures, set to the right."""
    # As Text, because rich would take what stands in square brackets for its own markup.
    table = Table(title=Text(clean(title)), title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place >= right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(clean(each)) for each in row))
    return table


def print_line(console: Console, text: str) -> None:
    """One line, unwrapped and without markup."""
    console.print(clean(text), markup=False, highlight=False, soft_wrap=True)


def print_coverage(console: Console, coverage: Coverage) -> None:
    """How complete an answer is, and the losses behind it."""
    until = iso(coverage.complete_until_us) or "never"
    print_line(console, f"Completeness {share_text(coverage.completeness)}, data until {until}")
    losses = coverage_plain(coverage)["losses"]
    for loss in losses[:MAX_SHOWN_LOSSES]:
        amount = "unknown" if loss["amount"] is None else loss["amount"]
        print_line(
            console,
            f"  lost at {loss['collector']}, {loss['stage']}: {loss['reason']}, {amount} "
            f"{loss['unit']}, {loss['start']} to {loss['end']}",
        )
    if len(losses) > MAX_SHOWN_LOSSES:
        print_line(console, f"  and {len(losses) - MAX_SHOWN_LOSSES} more losses: see --json")


def print_usage(console: Console, answer: Usage) -> None:
    def cells(name: str, row: Row) -> tuple[str, ...]:
        return name, bytes_text(row["up_bytes"]), bytes_text(row["down_bytes"]), f"{row['flows']:,}"

    rows = [cells(_part(answer, row["part_us"]), row) for row in answer.parts]
    rows.append(cells("total", answer.totals))
    title = f"Usage of {answer.subscriber} in {answer.period.text} (UTC)"
    console.print(_table(title, (answer.step.capitalize(), "Up", "Down", "Flows"), rows, 1))
    print_line(console, f"Connected {seconds_text(answer.connected_us)}")
    print_coverage(console, answer.coverage)


def print_sessions(console: Console, answer: Sessions) -> None:
    rows = [
        (
            iso(row["start_us"]),
            "open" if row["open"] else iso(row["end_min_us"]),
            "" if row["open"] else row["end_reason"],
            row["nas"],
            row["line"],
            seconds_text(row["connected_us"]),
        )
        for row in answer.sessions
    ]
    title = f"Sessions of {answer.subscriber} in {answer.period.text} (UTC)"
    headings = ("Start", "End", "Ended", "NAS", "Line", "Connected")
    console.print(_table(title, headings, rows, 5))
    print_line(console, f"{len(rows)} sessions, connected {seconds_text(answer.connected_us)}")
    for row in answer.sessions:
        octets = answer.octets.get(row["session_id"])
        if octets is not None and octets.words:
            print_line(console, f"  octets of {iso(row['start_us'])}: {octets.told(row)}")
    print_coverage(console, answer.coverage)


def print_calls(console: Console, answer: Calls) -> None:
    rows = [
        (
            iso(row["start_us"]),
            row["direction"],
            _number(row, "a"),
            _number(row, "b"),
            row["disposition"] + (" (goes on)" if row["partial"] else ""),
            f"{row['talk_ms'] / 1000:,.3f} s",
        )
        for row in answer.calls
    ]
    title = f"Calls of {answer.subscriber} in {answer.period.text} (UTC)"
    headings = ("Start", "Direction", "From", "To", "Outcome", "Talk")
    console.print(_table(title, headings, rows, 5))
    talk = f"{answer.talk_ms / 1000:,.3f} s"
    print_line(console, f"{len(rows)} calls, {answer.answered} answered, talk {talk}")
    print_coverage(console, answer.coverage)


def print_busy_hour(console: Console, answer: BusyHour) -> None:
    rows = [
        (
            row["area"],
            iso(row["hour_us"])[:16].replace("T", " "),
            "busiest" if answer.busiest[row["area"]] is row else "",
            bytes_text(row["up_bytes"]),
            bytes_text(row["down_bytes"]),
            f"{row['down_mbps']:,.3f}",
            "few" if row["lines"] is None else f"{row['lines']:,}",
        )
        for row in answer.hours
    ]
    title = f"Demand by area and hour in {answer.period.text} (UTC)"
    headings = ("Area", "Hour", "", "Up", "Down", "Mean Mbit/s down", "Lines")
    console.print(_table(title, headings, rows, 3))
    up, down = answer.totals["up_bytes"], answer.totals["down_bytes"]
    print_line(console, f"Total up {bytes_text(up)}, down {bytes_text(down)}")
    print_line(console, f"Completeness {share_text(answer.completeness)}")
