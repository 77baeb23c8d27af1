"""What a person writes of a hold's scope, as options or as a file, in; checked entries out. Pure.

A file is TOML or CSV, told apart by its first line. Every problem of it is reported at once with
the number of its line. Values from a file never stand in a problem: they are personal data that
the person did not type in the command.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from retention.holds import scope
from retention.holds.errors import ScopeError
from retention.model import NEVER, Kind, ScopeItem

MAX_BYTES: Final = 1 << 20
"""Of a scope file: many times what `MAX_ENTRIES` of the longest identifiers need."""
MAX_ENTRIES: Final = scope.MAX_ITEMS
"""Of one hold. More identifiers are more holds under one matter."""
MAX_PROBLEMS: Final = 50
"""Printed at once: a file of another format is wrong in every line."""

COLUMNS: Final = ("kind", "value", "from", "to", "classes", "ports")
_PORTS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HEADER: Final = re.compile(r"\s*\[\[\s*scope\s*\]\]")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class ScopeProblems(ValueError):
    """The scope cannot be used; `problems` has one line for each error found."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Written:
    """One identifier as written; empty texts are not given. where: "line 4" or an option's name.

    ports: "4000" or "4000-4999". classes: empty for all that this kind of identifier can match.
    """

    where: str
    kind: str
    value: str
    start: str = ""
    end: str = ""
    classes: tuple[str, ...] = ()
    ports: str = ""


def instant(text: str, *, is_end: bool = False) -> int:
    """Microseconds UTC of a date or an instant with its zone. Raises ValueError.

    A date is the beginning of that day in UTC, and as an end the end of that day: one day later,
    because ends are not included. "never" is an end too.
    """
    cleaned = text.strip()
    if is_end and cleaned.lower() == "never":
        return NEVER
    if re.fullmatch(r"\d{4}-\d\d-\d\d", cleaned):
        try:
            day = dt.datetime.fromisoformat(cleaned).replace(tzinfo=dt.UTC)
            return _us(day + dt.timedelta(days=1) if is_end else day)
        except (ValueError, OverflowError):
            raise ValueError("no such day") from None
    try:
        at = dt.datetime.fromisoformat(cleaned)
    except ValueError:
        raise ValueError("neither a day (2026-11-30) nor an instant (2026-11-30T14:00Z)") from None
    if at.tzinfo is None:
        raise ValueError("the zone is missing: end it with Z for UTC, or +01:00 for British summer")
    return _us(at)


def _us(at: dt.datetime) -> int:
    return (at - _EPOCH) // dt.timedelta(microseconds=1)


def iso(us: int) -> str:
    """Microseconds UTC as the service takes them: "2026-11-30T14:00:00Z"."""
    at = _EPOCH + dt.timedelta(microseconds=us)
    return at.replace(tzinfo=None).isoformat(timespec="auto") + "Z"


def as_json(item: ScopeItem) -> dict[str, Any]:
    """A scope item as the service takes it."""
    return {
        "kind": item.kind.value,
        "value": item.value,
        "from": iso(item.from_us),
        "to": iso(item.to_us),
        "classes": list(item.classes),
        "ports": list(item.ports),
    }


def items(
    written: Sequence[Written], defaults: Written, problems: Sequence[str] = ()
) -> list[ScopeItem]:
    """The checked items; what one does not state, `defaults` states.

    Raises ScopeProblems with what is wrong with them, after `problems` found before.
    """
    wrong = list(problems)
    found = []
    for each in written[:MAX_ENTRIES]:
        try:
            found.append(_item(each, defaults))
        except (ValueError, ScopeError) as error:
            wrong.append(f"{each.where}: {error}")
    if len(written) > MAX_ENTRIES:
        wrong.append(
            f"{len(written)} identifiers; one hold takes {MAX_ENTRIES}: place several holds under "
            "one matter"
        )
    if not written and not wrong:
        wrong.append("no identifier in it")
    if len(wrong) > MAX_PROBLEMS:
        wrong[MAX_PROBLEMS:] = [f"and {len(wrong) - MAX_PROBLEMS} more problems"]
    if wrong:
        raise ScopeProblems(wrong)
    return found


def _item(each: Written, defaults: Written) -> ScopeItem:
    """Raises ValueError or ScopeError, neither of which repeats the value."""
    start, end = each.start or defaults.start, each.end or defaults.end
    if not start or not end:
        missing = " and ".join(n for n, t in (("from", start), ("to", end)) if not t)
        raise ValueError(f"{missing} is missing")
    times = []
    for name, text, is_end in (("from", start, False), ("to", end, True)):
        try:
            times.append(instant(text, is_end=is_end))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    kind, value, ports = each.kind.strip().lower(), each.value.strip(), each.ports
    if kind == Kind.ADDRESS:
        value, behind = split_ports(value)
        ports = behind or ports or defaults.ports
    classes = each.classes or defaults.classes
    return scope.parse(kind, value, times[0], times[1], classes, _ports(ports))


def split_ports(text: str) -> tuple[str, str]:
    """("192.0.2.7", "4000-4999") of "192.0.2.7:4000-4999"; of IPv6 in square brackets too."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::([\d-]+))?", text)
    if bracketed:
        return bracketed[1], bracketed[2] or ""
    if text.count(":") == 1:
        value, _, ports = text.partition(":")
        return value, ports
    return text, ""


def _ports(text: str) -> tuple[int, int]:
    if not text:
        return 0, 65535
    match = _PORTS.fullmatch(text.replace(" ", ""))
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
    if not 0 <= first <= last <= 65535:
        raise ValueError("ports: write one (4000) or a range (4000-4999), up to 65535")
    return first, last


def from_file(data: bytes, defaults: Written) -> list[ScopeItem]:
    """The checked items of a file; `defaults` has what the options state. Raises ScopeProblems."""
    if len(data) > MAX_BYTES:
        raise ScopeProblems([f"longer than {MAX_BYTES:,} bytes"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ScopeProblems(["not UTF-8 text: save it as CSV UTF-8"]) from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    problems: list[str] = []
    if _is_heading(first):
        return items(_csv(text, problems), defaults, problems)
    written, own = _toml(text, problems)
    stated = replace(
        defaults,
        start=own.start or defaults.start,
        end=own.end or defaults.end,
        classes=own.classes or defaults.classes,
    )
    return items(written, stated, problems)


def _is_heading(line: str) -> bool:
    cells = re.split("[,;]", line.replace('"', "").lower())
    return len(cells) > 1 and "=" not in line and any(cell.strip() in COLUMNS for cell in cells)


def _csv(text: str, problems: list[str]) -> list[Written]:
    heading = text.lstrip().splitlines()[0]
    # A spreadsheet of a country that writes 1,5 saves its CSV with semicolons.
    separator = ";" if heading.count(";") > heading.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: list[Written] = []
    try:
        rows = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
        number, names = next(rows)
        names = [name.strip().lower() for name in names]
        odd = [name for name in names if name not in COLUMNS or names.count(name) > 1]
        if odd or not {"kind", "value"} <= set(names):
            problems.append(f"line {number}: the headings can only be: {', '.join(COLUMNS)}")
            return []
        for line, row in rows:
            if row[0].lstrip().startswith("#"):
                continue
            if len(row) != len(names):
                problems.append(f"line {line}: {len(row)} cells under {len(names)} headings")
            else:
                found.append(_of_cells(f"line {line}", dict(zip(names, row, strict=True))))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    return found


def _of_cells(where: str, cells: Mapping[str, str]) -> Written:
    classes = tuple(re.split(r"[\s,;|]+", cells.get("classes", "").strip()))
    return Written(
        where,
        cells["kind"].strip(),
        cells["value"].strip(),
        cells.get("from", "").strip(),
        cells.get("to", "").strip(),
        tuple(each for each in classes if each),
        cells.get("ports", "").strip(),
    )


def _toml(text: str, problems: list[str]) -> tuple[list[Written], Written]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        known = ",".join(COLUMNS)
        problems.append(f"neither CSV with the headings {known} nor TOML: {error}")
        return [], Written("", "", "")
    tables = data.pop("scope", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append("write each identifier as a table [[scope]]")
        tables = []
    top = _of_table("the top of the file", data, problems, ("from", "to", "classes"))
    found = [
        _of_table(where, table, problems, COLUMNS)
        for where, table in zip(_places(text, len(tables)), tables, strict=True)
        if {"kind", "value"} <= table.keys() or _lacks(where, table, problems)
    ]
    return found, top


def _lacks(where: str, table: Mapping[str, Any], problems: list[str]) -> bool:
    problems += [f"{where}: {name} is missing" for name in ("kind", "value") if name not in table]
    return False


def _places(text: str, count: int) -> Iterator[str]:
    """Where each [[scope]] stands: its line, or its number where the text has it another way."""
    lines = [n for n, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    for number in range(count):
        yield f"line {lines[number]}" if len(lines) == count else f"scope {number + 1}"


def _of_table(
    where: str, table: Mapping[str, Any], problems: list[str], known: Sequence[str]
) -> Written:
    odd = sorted(table.keys() - set(known))
    if odd:
        problems.append(f"{where}: unknown key; the keys can only be: {', '.join(known)}")
    texts = {name: _text(name, table[name]) for name in table if name != "classes"}
    classes = table.get("classes", [])
    classes = [classes] if isinstance(classes, str) else classes
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        problems.append(f'{where}: write classes as a list, e.g. ["visit", "call"]')
        classes = []
    wrong = [name for name, value in texts.items() if value is None and name in known]
    problems += [f"{where}: {name} is not a text" for name in wrong]
    given = {name: value or "" for name, value in texts.items()}
    return Written(
        where,
        given.get("kind", ""),
        given.get("value", ""),
        given.get("from", ""),
        given.get("to", ""),
        tuple(classes),
        given.get("ports", ""),
    )


def _text(name: str, value: object) -> str | None:
    """A TOML value as written text; TOML's own dates and, for ports, numbers are taken too."""
    if isinstance(value, str):
        return value
    if isinstance(value, dt.date) and name in ("from", "to"):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool) and name == "ports":
        return str(value)
    return None
