"""Counts what each hold protects of each closed place, tells the log, and says what is missing.

A count is over live rows and the vault together. The last one of each hold and place is noted in
the register, so that rows that are gone, or are others than before, are found when they are next
counted: before the place is purged, and every night.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from retention.audit.canonical import Leaf
from retention.destruction.book import Book
from retention.destruction.context import BATCH, BOTH, SWEEP_KEY, Context, Finding, log
from retention.destruction.plan import Decision, unsettled
from retention.model import HeldRoot, Hold, Partition, Place
from retention.register import leaves as build
from retention.vault.port import PreserveError, Selection


class Counted(NamedTuple):
    """One hold's rows of one place as they were counted at `at_us`, at that generation."""

    generation: int
    rows: int
    root: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Count:
    """A fresh count: the leaves and the note it owes, and what is wrong."""

    selection: Selection
    leaves: tuple[Leaf, ...]
    note: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A night's verification: how many places and holds were counted, and what was found."""

    places: int
    counts: int
    findings: tuple[Finding, ...]


def key(place: Place) -> str:
    """The key of a place's note in the register."""
    return f"evidence/{place.record_class}/{place.name}"


def parse(text: str | None) -> dict[str, Counted]:
    """The counts of a note by hold."""
    raw: dict[str, list[object]] = json.loads(text) if text else {}
    return {
        name: Counted(int(str(g)), int(str(r)), str(root), int(str(at)))
        for name, (g, r, root, at) in raw.items()
    }


def count(context: Context, decision: Decision, holds: Sequence[Hold], *, nightly: bool) -> Count:
    """Count what `holds`, all that meet it, protect of a closed place.

    nightly: leaves for all counts that have rows, though the log has them; else for those that it
    does not have at this generation. What it has from before the place was closed does not count.
    """
    place, generation = decision.place, context.register.generation
    selection = context.vault.select(place, BOTH, holds, context.salt)
    before = parse(context.register.note(key(place)))
    now: dict[str, Counted] = {}
    leaves, findings = list[Leaf](), list[Finding]()
    roots = {each.hold: each for each in selection.held}
    for hold in holds:
        root, old = roots[hold.id], before.get(hold.id)
        if old is not None:
            findings += compare(place, old, root)
        if old is None or _owed(old, root, generation, decision.retain_until_us, nightly):
            old = Counted(generation, root.rows, root.root, context.believed_us())
            leaves.append(build.hold_evidence(hold.id, place, root.rows, root.root, generation))
        now[hold.id] = old
    note = json.dumps({name: list(each) for name, each in now.items()})
    return Count(selection, tuple(leaves), note, tuple(findings))


def _owed(old: Counted, root: HeldRoot, generation: int, closed_us: int, nightly: bool) -> bool:
    """Whether the log has to be told a count that it may have already."""
    if old.at_us < closed_us or (old.rows, old.root) != (root.rows, root.root):
        return True
    return root.rows > 0 if nightly else old.generation != generation


def with_versions(text: str | None, held: Iterable[HeldRoot]) -> str | None:
    """A note after late rows came for some holds: they can be later versions of rows counted."""
    counts = parse(text)
    for each in held:
        if each.rows and each.hold in counts:
            counts[each.hold] = counts[each.hold]._replace(root="")
    return text and json.dumps({name: list(each) for name, each in counts.items()})


def compare(place: Place, before: Counted, now: HeldRoot) -> list[Finding]:
    """What a count shows wrong against the one before it."""
    where = f"{place.record_class} {place.name}"
    if now.rows < before.rows:
        lost = before.rows - now.rows
        return [Finding("held-missing", place, f"{where}: {lost} held rows are gone", now.hold)]
    if now.rows == before.rows > 0 and before.root not in ("", now.root):
        return [Finding("held-changed", place, f"{where}: held rows are not the same", now.hold)]
    return []


class Verifier:
    """Counts all closed places again."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, stopping: Callable[[], bool] = lambda: False) -> Checked:
        """Verify everything that holds protect; writes leaves and gives what is wrong.

        Raises StoreError, RegisterError or Busy: what was verified until then is in the log.
        """
        context = self._context
        live, vaulted = context.listed()
        live += self._vanished({each.place for each in (*live, *vaulted)})
        decisions = [
            each
            for each in context.decide(live, vaulted).decisions
            if each.store == "vault" or context.frozen(each)
        ]
        places, counts, findings = 0, 0, list[Finding]()
        done = set[Place]()
        for decision in decisions:
            if stopping():
                break
            with context.register.exclusive():
                if unsettled(context.register.purges()) or context.register.note(SWEEP_KEY):
                    break  # live and vault cannot be told apart before it is settled
                if decision.store == "vault":
                    findings += self._books(decision)
                if decision.place not in done:
                    done.add(decision.place)
                    found, number = self._verify(decision)
                    findings += found
                    counts += number
                    places += 1
        for finding in findings:
            log.error("evidence: %s (%s)", finding.text, finding.hold or "vault")
        return Checked(places, counts, tuple(findings))

    def _vanished(self, listed: Set[Place]) -> list[Partition]:
        """Places of which rows were counted, or put into the vault, and none is there any more.

        The store does not list what is gone as a whole, so the register has to.
        """
        register = self._context.register
        noted = {
            name.partition("/")[2]
            for name, text in register.notes("evidence/").items()
            if any(each.rows for each in parse(text).values())
        }
        booked = {
            name.partition("/")[2]
            for name, text in register.notes("vault/").items()
            if (book := Book.parse(text)) is not None and book.least
        }
        return [
            Partition(
                place, fields["start"], fields["end"], fields["earliest"], fields["latest"], 0
            )
            for place, fields in register.seen().items()
            if place not in listed and f"{place.record_class}/{place.name}" in noted | booked
        ]

    def _verify(self, decision: Decision) -> tuple[list[Finding], int]:
        context = self._context
        holds = context.meeting(decision.partition)
        if not holds:
            return [], 0
        try:
            counted = count(context, decision, holds, nightly=True)
        except PreserveError as error:
            return [Finding(error.code, decision.place, f"it cannot be counted: {error}")], 0
        write(self._context, decision, counted)
        return list(counted.findings), len(holds)

    def _books(self, decision: Decision) -> list[Finding]:
        """Compare the vault with its book. Copies of rows that are live do not count."""
        place = decision.place
        book = self._context.book(place)
        there = self._context.vault.count(place, "vault")
        live = self._context.vault.count(place, "live")
        least, most = (book.least, book.rows) if book else (0, 0)
        if there < least or (there > most and not live):
            text = f"{place.record_class} {place.name}: the vault has {there} rows, not {most}"
            return [Finding("vault-rows", place, text)]
        return []


def write(context: Context, decision: Decision, counted: Count) -> None:
    """Make a count durable, with the place as the log has to know it before."""
    owed = [*context.seen_leaves([decision]), *counted.leaves]
    context.write_leaves(owed[:-BATCH])
    context.write(notes={key(decision.place): counted.note}, leaves=owed[-BATCH:])
