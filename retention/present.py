"""Answers of the retention service in, tables for people out. Pure: it prints what it is given.

Answers are the JSON of `retention/api.py`; times in it are ISO 8601, UTC. Whatever is missing in
an answer is shown as missing, so that an older service can be asked too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

Answer = Mapping[str, Any]

MAX_ROWS: Final = 1000
"""Of one table: more is for --json."""
MAX_RESOLVED: Final = 20
"""Identifiers found through binding history that are listed; a year of leases is hundreds."""
ALL_PORTS: Final = (0, 65535)


def clean(text: object) -> str:
    """Text as it may stand on a terminal: what could steer it is written out."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in str(text)
    )


def when(text: object) -> str:
    """An ISO instant as "2026-11-30 14:00:00 UTC"; "-" for none."""
    if not text:
        return "-"
    try:
        at = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    at = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)
    return f"{at.replace(tzinfo=None).isoformat(' ', 'seconds')} UTC"


def end(text: object) -> str:
    """The end of an interval, itself not included: the day it runs through, or the instant."""
    shown = when(text)
    if shown.startswith("2100-01-01"):
        return "without end"
    if not shown.endswith(" 00:00:00 UTC"):
        return f"before {shown}"
    day = dt.date.fromisoformat(shown[:10]) - dt.timedelta(days=1)
    return f"through {day} (whole day, UTC)"


def size(count: object) -> str:
    """A count with separators, or "-" for none."""
    return f"{count:,}" if isinstance(count, int) else "-"


def line(console: Console, text: str = "") -> None:
    """Print one line, unwrapped and without markup."""
    console.print(clean(text), markup=False, highlight=False, soft_wrap=True)


def table(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    figures: Sequence[int] = (),
) -> None:
    """Print a table; `figures` are columns set to the right. What is long is folded, never cut."""
    shown = list(rows)
    # As Text, because rich would take what stands in square brackets for its own markup.
    made = Table(title=Text(clean(title)), title_justify="left")
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place in figures else "left", overflow="fold")
    for row in shown[:MAX_ROWS]:
        made.add_row(*(Text(clean(each)) for each in row))
    console.print(made)
    if len(shown) > MAX_ROWS:
        line(console, f"and {len(shown) - MAX_ROWS} more rows: see --json")


def facts(console: Console, rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        line(console, f"{name:<{width}}  {value}")


def scope_line(item: Answer) -> str:
    """One identifier of a scope with its times, ports and classes."""
    ports = item.get("ports")
    port_text = ""
    if ports and tuple(ports) != ALL_PORTS:
        port_text = f" ports {ports[0]}-{ports[1]}"
    found = " (found through binding history)" if item.get("resolved") else ""
    return (
        f"{item['kind']} {item['value']}{port_text}, from {when(item.get('from'))} "
        f"{end(item.get('to'))}: {', '.join(item.get('classes') or ['all classes'])}{found}"
    )


def person(who: Any) -> str:
    """Who did something, in which role, when."""
    if not isinstance(who, Mapping):
        return "-"
    role = f" ({who['role']})" if who.get("role") else ""
    return f"{who.get('person', '?')}{role}, {when(who.get('at'))}"


def print_holds(console: Console, holds: Sequence[Answer]) -> None:
    """All holds, each with what happens next."""
    rows = [
        (
            each["id"],
            each["state"],
            each.get("matter", ""),
            len(each.get("scope") or ()),
            each.get("next", ""),
        )
        for each in holds
    ]
    table(console, "Holds (times in UTC)", ("Hold", "State", "Matter", "Ids", "Next"), rows, (3,))
    if not rows:
        line(console, "No hold.")


def hold_facts(hold: Answer) -> list[tuple[str, object]]:
    """What a hold is, in the order in which a lawyer asks."""
    resolves = hold.get("resolve", hold.get("mode") != "literal")
    rows: list[tuple[str, object]] = [
        ("hold", hold.get("id", "not placed yet")),
        ("state", hold.get("state", "-")),
        ("matter", hold.get("matter", "-")),
        ("basis", hold.get("basis", "-")),
        ("authority", hold.get("authority") or "-"),
        ("reference", hold.get("reference") or "-"),
        ("order SHA-256", hold.get("order_sha256") or "no document given"),
        ("served", when(hold.get("served"))),
        ("requested", person(hold.get("requested"))),
        ("approved", person(hold.get("approved"))),
        ("expires", end(hold["expires"]) if hold.get("expires") else "does not expire by itself"),
        ("review by", when(hold.get("review_by"))),
        ("identifiers", "resolved: and what they were bound to" if resolves else "literal"),
    ]
    if hold.get("all_sharers"):
        rows.append(("all sharers", "yes: everyone behind a shared address"))
    if hold.get("extension"):
        asked = hold["extension"]
        later = end(asked["expires"]) if asked.get("expires") else "without expiry"
        rows.append(("extension asked", f"{later}; by {person(asked.get('requested'))}"))
    if hold.get("release"):
        asked = hold["release"]
        rows.append(("release asked", f"by {person(asked.get('requested'))}"))
        rows += [("  reason", asked["reason"])] if asked.get("reason") else []
        rows += [("  approved", person(each)) for each in asked.get("approvals") or ()]
    if hold.get("unavailable"):
        rows.append(("destroyed before", "certificates: " + ", ".join(hold["unavailable"])))
    if hold.get("ended"):
        rows.append(("ended", when(hold["ended"])))
    return rows


def print_hold(console: Console, hold: Answer) -> None:
    """One hold in full, with what happens next."""
    facts(console, [row for row in hold_facts(hold) if row[1] != "-"])
    line(console, "scope")
    stated = [item for item in hold.get("scope") or () if not item.get("resolved")]
    found = [item for item in hold.get("scope") or () if item.get("resolved")]
    for item in (*stated, *found[:MAX_RESOLVED]):
        line(console, f"  {scope_line(item)}")
    if len(found) > MAX_RESOLVED:
        line(console, f"  and {len(found) - MAX_RESOLVED} more found: see --json")
    print_next(console, hold)


def print_next(console: Console, answer: Answer) -> None:
    """What happens next and when, in the service's words."""
    if answer.get("next"):
        line(console, f"next: {answer['next']}")


def waiting(hold: Answer) -> str:
    """What of a hold waits for an approval, in words."""
    name = str(hold.get("id", "it"))
    if hold.get("state") == "AwaitingApproval":
        return name
    if hold.get("extension"):
        return f"the extension of {name}"
    if hold.get("release"):
        return f"the release of {name}"
    return name


def print_coverage(console: Console, answer: Answer) -> None:
    """What a hold keeps by place, and what had been destroyed before."""
    places = answer.get("places") or ()
    rows = [
        (
            each["class"],
            each["partition"],
            size(each.get("rows")),
            size(each.get("vault")),
            each.get("root") or "not yet",
        )
        for each in places
    ]
    table(
        console,
        f"Kept by {answer.get('hold', answer.get('id', 'the hold'))} (days in UTC)",
        ("Class", "Day or month", "Records", "In the vault", "Evidence (Merkle root)"),
        rows,
        (2, 3),
    )
    total = sum(each.get("rows") or 0 for each in places)
    line(console, f"{len(rows)} partitions, {total:,} records kept")
    for each in answer.get("unavailable") or ():
        line(console, f"destroyed before: {_destroyed(each)}")
    print_next(console, answer)


def _destroyed(each: Any) -> str:
    if not isinstance(each, Mapping):
        return f"certificate {each}"
    return (
        f"{each.get('class', '')} {each.get('partition', '')}, {size(each.get('destroyed'))} "
        f"records on {when(each.get('dropped'))}, certificate {each.get('id')}"
    )


def print_values(console: Console, answer: Answer) -> None:
    """Any answer as names and values; lists one entry a line."""
    for name, value in answer.items():
        if isinstance(value, list) and value:
            line(console, f"{name.replace('_', ' ')}:")
            for each in value:
                text = (
                    "  ".join(f"{k} {v}" for k, v in each.items())
                    if isinstance(each, Mapping)
                    else each
                )
                line(console, f"  {text}")
        elif isinstance(value, Mapping):
            facts(console, ((f"{name} {key}".replace("_", " "), v) for key, v in value.items()))
        elif name != "next":
            line(console, f"{name.replace('_', ' ')}: {'-' if value in (None, [], '') else value}")
    print_next(console, answer)
