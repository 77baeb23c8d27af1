"""Carries out one decision under the register's lock, step by step, each durable before the next.

    evidence -> intent -> preserved -> (the destructive statement) -> dropped

What goes wrong before the destructive statement is run ends in `purge.failed`, and nothing is
destroyed. From then on it is not known what the store did until it answers: the purge stays
PRESERVED, `resume` settles it, and until then no hold can change and nothing else is destroyed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from aggregator.store.client import Misused, StoreError
from retention.audit.leaf import MAX_ITEMS
from retention.destruction import evidence
from retention.destruction.book import Book
from retention.destruction.context import LIVE, SWEEP_KEY, VAULT, Context, Finding, log
from retention.destruction.plan import Decision, approve, unsettled
from retention.model import HeldRoot, Hold, Place, Purge, Step, StoreName
from retention.register import leaves as build
from retention.vault.port import PreserveError, Selection

State: TypeAlias = Literal["destroyed", "kept", "failed", "unsettled"]
Progress: TypeAlias = Callable[[Place, str], None]
"""Told of each step of a place when it is done: "evidence", "intent", "preserved", "dropped", …"""


class Halt(RuntimeError):
    """A purge that must not go on; nothing was destroyed. `code` is for its `purge.failed` leaf."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one decision.

    kept: nothing was begun, `reason` says why. failed: nothing was destroyed. unsettled: the store
    did not answer. stops: the cause is the engine or the disk, so other places would fail too.
    """

    place: Place
    store: StoreName
    state: State
    reason: str = ""
    purge: Purge | None = None
    stops: bool = False
    findings: tuple[Finding, ...] = ()


def carry_out(
    context: Context, decision: Decision, operator: str, progress: Progress = lambda *_: None
) -> Outcome:
    """Carry out one decision of a plan, if it still stands.

    Raises Busy where the lock is not to be had, and RegisterError, LogError or OSError where the
    register or its disk fails: what is then half done, `resume` settles.
    """
    with context.register.exclusive():
        if unsettled(context.register.purges()) or context.register.note(SWEEP_KEY) is not None:
            return Outcome(
                decision.place, decision.store, "kept", "something has to be settled first"
            )
        try:
            return _Steps(context, context.again(decision), operator, progress).run()
        except StoreError as error:  # before the intent
            stops = not isinstance(error, Misused)
            return Outcome(decision.place, decision.store, "kept", str(error), stops=stops)


class _Steps:
    """One place's way from a decision to its outcome."""

    def __init__(
        self, context: Context, decision: Decision, operator: str, progress: Progress
    ) -> None:
        self._context, self._decision = context, decision
        self._operator, self._progress = operator, progress
        self._vault, self._register = context.vault, context.register

    def run(self) -> Outcome:
        decision = self._decision
        if not decision.destroys:
            return self._outcome("kept", decision.reason)
        holds = self._context.meeting(decision.partition)
        if tuple(sorted(hold.id for hold in holds)) != decision.holds:
            return self._outcome("kept", "the holds are not those of the decision")
        before = self._vault.count(decision.place, decision.store)
        protected: Selection | None = None
        if holds:
            try:
                counted = evidence.count(self._context, decision, holds, nightly=False)
            except PreserveError as error:
                return self._outcome("kept", f"held rows cannot be counted: {error}")
            evidence.write(self._context, decision, counted)
            self._said("evidence")
            if counted.findings:
                text = "held rows are missing or changed; look into it before anything is destroyed"
                return replace(self._outcome("kept", text), findings=counted.findings)
            protected = counted.selection
        purge = self._intent(holds)
        try:
            purge, selection = self._preserve(purge, holds, protected, before)
        except (StoreError, PreserveError, Halt) as error:
            return self._failed(purge, error)
        approved = approve(decision, purge.id, purge.generation)
        try:
            if purge.store == "live":
                self._vault.drop(approved)
            else:
                self._vault.rebuild(approved, selection)
        except (StoreError, PreserveError) as error:
            log.error("purge %s: no answer to the drop, it is settled later: %s", purge.id, error)
            return replace(self._outcome("unsettled", str(error), purge), stops=True)
        purge = dropped(self._context, purge)
        self._said("dropped")
        return self._outcome("destroyed", decision.reason, purge)

    def _intent(self, holds: Sequence[Hold]) -> Purge:
        decision, register = self._decision, self._register
        purge = Purge(
            register.next_id("P"),
            decision.partition,
            decision.store,
            decision.retain_until_us,
            self._context.policy().digest,
            register.generation,
            Step.INTENT,
            self._operator,
            self._context.believed_us(),
        )
        owed = self._context.seen_leaves([decision])
        self._context.write(purges=[purge], leaves=[*owed, build.purge_intent(purge, len(holds))])
        self._said("intent")
        return purge

    def _preserve(
        self, purge: Purge, holds: Sequence[Hold], protected: Selection | None, before: int
    ) -> tuple[Purge, Selection]:
        """From the intent to all that has to be so for the destructive statement.

        before: rows counted before those were looked for that holds protect.
        """
        vault, place, store = self._vault, purge.partition.place, purge.store
        salt = self._context.salt
        book = self._context.book(place)
        if store == "vault" and not (book and book.least <= before <= book.rows):
            raise Halt("vault-rows", "the vault has other rows than the log says")
        self._unchanged(purge)
        if store == "live" and protected is not None and protected.is_live:
            selection = protected  # read once, for evidence and copy alike
        else:
            selection = vault.select(place, LIVE if store == "live" else VAULT, holds, salt)
        held = tuple(each for each in selection.held if each.rows)
        if len(held) > MAX_ITEMS:
            raise Halt("too-many-holds", f"more than {MAX_ITEMS} holds keep rows of one place")
        if selection.rows > before:
            raise Halt("counts", "more rows selected than there are")
        kept = selection
        if store == "live":
            vault.preserve(selection)
            kept = vault.select(place, VAULT, holds, salt)
        if protected is not None and not same(kept.held, protected.held):
            raise Halt("evidence", "what is kept is not what was counted for the holds")
        if vault.count(place, store) != before:
            raise Halt("rows-changed", "rows came or went meanwhile")
        self._unchanged(purge)
        purge = replace(
            purge,
            step=Step.PRESERVED,
            rows_before=before,
            preserved=selection.rows,
            digest=selection.digest,
            held=held,
        )
        self._context.write(
            purges=[purge],
            notes={kept_key(purge): kept_text(kept.held)},
            leaves=[build.purge_preserved(purge)],
        )
        self._said("preserved")
        self._unchanged(purge)
        return purge, selection

    def _unchanged(self, purge: Purge) -> None:
        """Raise Halt unless holds, clock and policy are as they were at the intent."""
        trust = self._context.guard.check()
        if not trust.trusted:
            raise Halt("clock-untrusted", f"the clock is not trusted any more: {trust.reason}")
        if self._register.generation != purge.generation:
            raise Halt("generation", "holds changed meanwhile")
        if self._context.policy().digest != purge.policy:
            raise Halt("policy", "the policy changed meanwhile")

    def _failed(self, purge: Purge, error: Exception) -> Outcome:
        # After the preserved leaf the register has the purge further than this copy of it.
        now = self._register.purge(purge.id) or purge
        reason = error.code if isinstance(error, Halt | PreserveError) else "store"
        stops = isinstance(error, StoreError) and not isinstance(error, Misused)
        failed(self._context, now, reason)
        log.warning("purge %s failed, nothing was destroyed: %s", purge.id, error)
        return replace(self._outcome("failed", str(error), now), stops=stops)

    def _said(self, step: str) -> None:
        self._progress(self._decision.place, step)

    def _outcome(self, state: State, reason: str, purge: Purge | None = None) -> Outcome:
        return Outcome(self._decision.place, self._decision.store, state, reason, purge)


def dropped(context: Context, purge: Purge) -> Purge:
    """Write down that a purge has destroyed, with the vault's book as it is now."""
    place = purge.partition.place
    rows = purge.rows_before - purge.preserved
    done = replace(purge, step=Step.DROPPED, dropped_us=context.believed_us(), destroyed=rows)
    book = (Book() if purge.store == "vault" else context.book(place)) or Book()
    book = book.plus(purge.preserved, purge.held, purge.partition)
    notes: dict[str, str | None] = {
        kept_key(purge): None,
        Book.key(place): book.text() if book.rows else None,
    }
    if not book.rows:
        notes[evidence.key(place)] = None
    context.write(purges=[done], notes=notes, leaves=[build.purge_dropped(done)])
    return done


def failed(context: Context, purge: Purge, reason: str) -> Purge:
    """Write down that a purge ended without having destroyed anything."""
    done = replace(purge, step=Step.FAILED, reason=reason)
    notes: dict[str, str | None] = {kept_key(purge): None}
    context.write(purges=[done], notes=notes, leaves=[build.purge_failed(done, purge.step)])
    return done


def same(one: Sequence[HeldRoot], other: Sequence[HeldRoot]) -> bool:
    """Whether two counts have the same rows for every hold; those without rows do not matter."""
    return {each for each in one if each.rows} == {each for each in other if each.rows}


def kept_key(purge: Purge) -> str:
    """The key of the note of what the vault has to have before a purge may destroy."""
    return f"kept/{purge.id}"


def kept_text(held: Sequence[HeldRoot]) -> str:
    """That note."""
    return json.dumps([[each.hold, each.rows, each.root] for each in held if each.rows])


def parse_kept(text: str | None) -> tuple[HeldRoot, ...]:
    """That note read."""
    return tuple(HeldRoot(str(h), int(r), str(root)) for h, r, root in json.loads(text or "[]"))
