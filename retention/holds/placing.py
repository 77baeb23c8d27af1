"""What a person typed to place a hold in, the request for the service out.

Where something is missing and somebody sits at the terminal, it is asked for; elsewhere all that
is missing is named at once. Of the order only its SHA-256 leaves this machine.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from retention import asking
from retention.holds import columns, scopefile
from retention.holds.scopefile import ScopeProblems, Written
from retention.model import Kind, ScopeItem

BASES: Final = {
    "court-order": "Order of a court, other than a production order.",
    "production-order": "Production order, e.g. under PACE schedule 1.",
    "preservation-request": "Request to preserve, ahead of an authorisation.",
    "litigation": "Proceedings that the provider expects or is party to.",
    "restriction": "A data subject's restriction, UK GDPR article 18(1)(c).",
    "internal": "The provider's own investigation.",
}

ASKED: Final = {
    "matter": "Matter (the case it is for)",
    "basis": f"Basis ({', '.join(BASES)})",
    "authority": "Authority (who ordered or asked for it)",
    "reference": "Reference (theirs)",
    "served": "Served on (day or instant with zone)",
}
"""What every hold states, with the question for it."""

REASONS: Final = ("not-valid", "too-wide", "wrong-person", "not-needed", "mistake")
"""Why something is rejected; the audit log has the word."""
CLASSES: Final = columns.CLASSES

HELP: Final = """Place a hold. It protects at once; another person approves it within 72 hours.

What is not given is asked for on a terminal. Days are UTC; a last day is included whole. An
instant needs its zone: 2026-03-01T10:00Z.

Identifiers given as options can be seen by other users of this machine (ps) and stay in your
shell's history: put them into a --scope-file, or type them when asked.

\b
A scope file as CSV; empty cells take --from, --to and --class:
  kind,value,from,to,classes,ports
  subscriber,sub-0001,2026-01-01,2026-06-30,,
  address,192.0.2.7,2026-03-01T10:00Z,2026-03-01T11:00Z,mapping binding,4000-4999
\b
The same as TOML: from, to and classes at the top, then for each identifier
  [\\[scope]]
  kind = "subscriber"
  value = "sub-0001"

Example: tallyhold hold place --matter "Operation Larch" --basis court-order --authority
"Leeds Crown Court" --reference T20260017 --served 2026-11-20 --order order.pdf
--scope-file who.csv --from 2026-01-01 --to 2026-06-30 --expires 2027-06-30"""
"""Of `hold place`."""

MAX_ORDER: Final = 1 << 30
"""Bytes of the order's file; a scan of a thousand pages is a tenth of it."""


@dataclass(frozen=True, slots=True)
class Typed:
    """One `hold place` as it was typed; empty texts and lists are not given.

    facts: by the names in ASKED, and expires and review_by. scope_file: a path or "-".
    """

    facts: Mapping[str, str]
    identifiers: Sequence[Written]
    stated: Written
    scope_file: str = ""
    order: Path | None = None
    literal: bool = False
    all_sharers: bool = False


def request(typed: Typed) -> dict[str, Any]:
    """The body of POST /v1/holds. Ends the command where it cannot be made."""
    facts = _facts(typed)
    _times(facts)
    body: dict[str, Any] = {
        **{name: facts[name] for name in ("matter", "basis", "authority", "reference", "served")},
        "order_sha256": sha256_of(typed.order) if typed.order else "",
        "scope": [scopefile.as_json(item) for item in _scope(typed)],
        "mode": "literal" if typed.literal else "resolved",
        "expires": facts.get("expires") or None,
        "review_by": facts.get("review_by") or None,
        "all_sharers": typed.all_sharers,
    }
    return body


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read here. Ends the command where it cannot be read."""
    try:
        if path.stat().st_size > MAX_ORDER:
            asking.fail(f"{path}: longer than {MAX_ORDER:,} bytes", asking.USAGE)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        asking.fail(f"{path}: {error.strerror}", asking.USAGE)


def when(name: str, text: str, *, is_end: bool) -> str:
    """A written day or instant as the service takes it. Ends the command where it is neither."""
    try:
        return scopefile.iso(scopefile.instant(text, is_end=is_end))
    except ValueError as error:
        asking.fail(f"{name}: {error}", asking.USAGE)


def _facts(typed: Typed) -> dict[str, str]:
    facts = {name: text.strip() for name, text in typed.facts.items()}
    missing = [name for name in ASKED if not facts.get(name)]
    dated = facts.get("expires") or facts.get("review_by")
    if not asking.interactive() and (missing or not dated):
        options = [f"--{name}" for name in missing] + (
            [] if dated else ["--expires or --review-by"]
        )
        asking.fail(
            f"missing: {', '.join(options)}; see: tallyhold hold place --help", asking.USAGE
        )
    for name in missing:
        facts[name] = asking.ask(ASKED[name])
    if not dated:
        facts["expires"] = asking.ask("Expires after (day; empty if it does not)", needed=False)
    if not facts.get("expires") and not facts.get("review_by"):
        facts["review_by"] = asking.ask("Review by (day)")
    if facts["basis"] not in BASES:
        asking.fail(f"basis: one of {', '.join(BASES)}", asking.USAGE)
    return facts


def _times(facts: dict[str, str]) -> None:
    for name, is_end in (("served", False), ("expires", True), ("review_by", True)):
        if facts.get(name):
            facts[name] = when(name.replace("_", "-"), facts[name], is_end=is_end)


def _scope(typed: Typed) -> list[ScopeItem]:
    """The identifiers from options, from the file, or else by asking for them."""
    try:
        if typed.identifiers:
            found = scopefile.items(typed.identifiers, typed.stated)
            if typed.scope_file:
                found += scopefile.from_file(
                    _read(typed.scope_file), replace(typed.stated, ports="")
                )
            return found
        if typed.scope_file:
            return scopefile.from_file(_read(typed.scope_file), typed.stated)
    except ScopeProblems as error:
        name = typed.scope_file or "scope"
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        asking.fail(f"{name}: {len(error.problems)} problem(s)\n{lines}", asking.USAGE)
    if not asking.interactive():
        asking.fail(
            "no identifier given: name a --scope-file, or see: tallyhold hold place --help",
            asking.USAGE,
        )
    return _asked(typed.stated)


def _asked(stated: Written) -> list[ScopeItem]:
    """Identifiers typed at the terminal, one after the other, each checked at once."""
    found: list[ScopeItem] = []
    while len(found) < scopefile.MAX_ENTRIES:
        kind = asking.ask(f"Kind of identifier ({', '.join(Kind)})")
        written = Written(
            "this identifier",
            kind,
            asking.ask("Identifier"),
            stated.start or asking.ask("From (day or instant with zone)"),
            stated.end or asking.ask("To (a day is included whole)"),
        )
        try:
            found += scopefile.items([written], stated)
        except ScopeProblems as error:
            asking.say("\n".join(error.problems))
            continue
        if not asking.ask("Another one? [y/N]", needed=False).lower().startswith("y"):
            break
    return found


def _read(name: str) -> bytes:
    """A scope file, or stdin for "-"; no more of it than is needed to see that it is too long."""
    try:
        if name == "-":
            return _some(sys.stdin.buffer)
        with Path(name).open("rb") as file:
            return _some(file)
    except OSError as error:
        asking.fail(f"{name}: {error.strerror}", asking.USAGE)


def _some(file: BinaryIO) -> bytes:
    return file.read(scopefile.MAX_BYTES + 1)
