"""What people and time do with holds, each step durable in the register and told by its leaves.

Every change is made under the register's exclusive lock, so it never comes between what a purge
preserved and its outcome; one write has the hold, its new scope, and what had been destroyed
before. A refusal changes nothing and is a leaf itself. Busy, LogPending and RegisterError are the
register's and pass through. Times are µs of the register's clock; while that is back, the latest
that was believed. Call `tick` every few minutes, and before every purge.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from aggregator.store.errors import StoreError
from retention.holds import growth, state
from retention.holds.draft import Draft
from retention.holds.errors import HoldRefused, NotFound
from retention.holds.kept import covered
from retention.holds.parts import (
    Commitments,
    Coverage,
    Kept,
    Registry,
    Store,
    Ticked,
    digest_of,
    request_key,
)
from retention.holds.resolve import NOTHING
from retention.holds.rules import Action, Actor, Ending
from retention.holds.scope import normalise, prefix
from retention.model import Hold, Kind, ScopeItem, State
from retention.register import leaves
from retention.register.clock import MARK, latest_us
from retention.register.lock import RegisterError, Underway

__all__ = ["Actor", "Coverage", "Desk", "Draft", "HoldRefused", "Kept", "NotFound", "Ticked"]

log = logging.getLogger(__name__)

RESOLVE_US: Final = 600_000_000
"""From one resolution of a hold in force to the next: ten minutes. Rows that only a new binding
leads to are in no danger before their own period ends."""
_ENDED: Final = {
    Ending.LAPSE: leaves.hold_lapsed,
    Ending.EXPIRE: leaves.hold_expired,
    Ending.RELEASE: leaves.hold_released,
}
_NEVER: Final = -(2**62)


class Desk:
    """shared: prefixes of addresses that several subscribers have at once, as text. trusted:
    whether the clock may end holds; while it may not, nothing lapses, expires or is released.
    tells_refusals: False where the caller writes them itself, as an API with a limit does.
    """

    def __init__(
        self,
        register: Registry,
        commitments: Commitments,
        store: Store,
        *,
        shared: Sequence[str] = (),
        trusted: Callable[[], bool] = lambda: True,
        tells_refusals: bool = True,
    ) -> None:
        self._register, self._commitments, self._store = register, commitments, store
        self._person = commitments.person
        self._shared = tuple(prefix(normalise(Kind.ADDRESS, each)) for each in shared)
        self._trusted = trusted
        self._tells_refusals = tells_refusals
        self._resolved_us: dict[str, int] = {}

    # What people do.

    def place(self, actor: Actor, draft: Draft, request_id: str = "") -> Hold:
        """A new hold, which protects when this returns. Raises HoldRefused, ScopeError.

        With the same request id again it is the same hold: a retry after a lost answer.
        """
        with self._acting(actor, Action.PLACE, ""):
            note = request_key(actor, request_id)
            known = self._register.note(note) if note else None
            if known is not None:
                return self._repeated(known, draft)
            now = self._now_us()
            hold = state.submit(draft, "new", actor, now)
            found, new = growth.first(self._store, hold, self._shared, now)
            hold = replace(hold, id=self._register.next_id("H"))
            generation = self._register.generation
            tell = leaves.hold_submitted(hold, generation, self._person, self._commitments.commit)
            hold, more = self._grow(hold, new, generation + len(tell), first=True)
            value = f"{hold.id} {_sum(draft)}"
            self._register.write(
                holds=[hold], notes={note: value} if note else None, leaves=[*tell, *more]
            )
            if found is not None:
                self._resolved_us[hold.id] = now
            return hold

    def approve(self, actor: Actor, id: str) -> Hold:
        """Approve what waits: the submission, an extension, or a release."""
        with self._acting(actor, Action.APPROVE, id):
            hold, now, generation = self._present(id)
            person, by = self._person, state.approval(actor, now)
            if hold.extension:
                extension, hold = hold.extension, state.approve_extension(hold, actor, now)
                told = leaves.hold_extended(hold, extension, by, generation, person)
            elif hold.release:
                self._need_clock()
                hold = state.approve_release(hold, actor, now)
                told = leaves.hold_release_approved(hold, by, generation, person)
            else:
                hold = state.approve(hold, actor, now)
                told = leaves.hold_approved(hold, generation, person)
                return self._settled(hold, [told], now)
            return self._write(hold, [told])

    def reject(self, actor: Actor, id: str, reason: str = "rejected") -> Hold:
        """Reject a submission, which ends the hold, or an extension, which leaves it as it is.

        reason: a word as leaves take it, such as "no-basis".
        """
        with self._acting(actor, Action.REJECT, id):
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", reason):
                raise HoldRefused("bad-request", 'reason: a short word such as "no-basis"')
            hold, now, generation = self._present(id)
            by = state.approval(actor, now)
            if hold.extension:
                hold, tell = (
                    state.reject_extension(hold, actor, now),
                    leaves.hold_extension_rejected,
                )
            else:
                hold, tell = state.reject(hold, actor, now), leaves.hold_rejected
            return self._write(hold, [tell(hold, by, reason, generation, self._commitments.person)])

    def extend(self, actor: Actor, id: str, expires_us: int | None) -> Hold:
        """Request a later expiry; None for none at all. Another person approves it."""
        with self._acting(actor, Action.EXTEND, id):
            hold, now, generation = self._present(id)
            hold = state.request_extension(hold, actor, expires_us, now)
            told = leaves.hold_extension_requested(hold, generation, self._person)
            return self._write(hold, [told])

    def cancel_extension(self, actor: Actor, id: str) -> Hold:
        """Take a request for an extension back, as its requester."""
        with self._acting(actor, Action.CANCEL_EXTENSION, id):
            hold, now, generation = self._present(id)
            hold = state.cancel_extension(hold, actor, now)
            by = state.approval(actor, now)
            told = leaves.hold_extension_cancelled(hold, by, generation, self._person)
            return self._write(hold, [told])

    def review(self, actor: Actor, id: str, review_by_us: int) -> Hold:
        """Say that somebody looked at a hold, and by when it is to be looked at again."""
        with self._acting(actor, Action.REVIEW, id):
            hold, now, generation = self._present(id)
            hold = state.review(hold, actor, review_by_us, now)
            by = state.approval(actor, now)
            return self._write(hold, [leaves.hold_reviewed(hold, by, generation, self._person)])

    def release(self, actor: Actor, id: str, reason: str) -> Hold:
        """Request the release; it takes two others' approvals and then seven days."""
        with self._acting(actor, Action.RELEASE, id):
            hold, now, generation = self._present(id)
            hold = state.request_release(hold, actor, reason, now)
            told = leaves.hold_release_requested(hold, generation, self._person)
            return self._write(hold, [told])

    def cancel_release(self, actor: Actor, id: str) -> Hold:
        """Call a release off."""
        with self._acting(actor, Action.CANCEL_RELEASE, id):
            hold, now, generation = self._present(id)
            hold = state.cancel_release(hold, actor, now)
            by = state.approval(actor, now)
            told = leaves.hold_release_cancelled(hold, by, generation, self._person)
            return self._write(hold, [told])

    def hold(self, id: str) -> Hold:
        """One hold; raises NotFound."""
        found = self._register.hold(id) if len(id) <= 64 else None
        if found is None:
            raise NotFound
        return found

    def coverage(self, id: str) -> Coverage:
        """What there is of a hold, counted now. Raises NotFound, StoreError."""
        return covered(self._store, self.hold(id), self._register.purges(), self._now_us())

    # What time does.

    def tick(self) -> Ticked:
        """End what is due, resolve again what late bindings may lead on from, list late reviews."""
        done = Ticked()
        for hold in self._register.holds():
            if not hold.protects:
                self._resolved_us.pop(hold.id, None)
                continue
            try:
                ending = self._end_due(hold.id)
                if ending:
                    done.ended[hold.id] = ending
                    continue
                self._look_again(hold, done)
            except Underway:  # it may be so for long, as while the clock is wrong
                done.problems[hold.id] = "busy"
                log.warning("hold %s waits for the outcome of a purge", hold.id)
            if state.review_overdue(hold, self._now_us()):
                done.overdue_reviews.append(hold.id)
        if done.overdue_reviews:
            log.warning("%d holds are past their review", len(done.overdue_reviews))
        return done

    def _end_due(self, id: str) -> Ending | None:
        """Apply what time has made due for a hold, if the clock is to be trusted."""
        now = self._now_us()
        hold = self.hold(id)
        if not state.due(hold, now) or not self._trusted():
            return None
        with self._register.exclusive():
            hold, now = self.hold(id), self._now_us()
            if not state.due(hold, now):
                return None
            ending, ended = state.end(hold, now)
            self._write(ended, [_ENDED[ending](ended, self._register.generation)])
            return ending

    def _look_again(self, hold: Hold, done: Ticked) -> None:
        now = self._now_us()
        waits = hold.state is State.AWAITING_PRESERVATION
        last = self._resolved_us.get(hold.id, _NEVER)
        if not waits and (not hold.resolve or now < last + RESOLVE_US):
            return
        try:
            found = growth.read(self._store, hold, now)
            with self._register.exclusive():
                present = self.hold(hold.id)
                if not present.protects:
                    return
                new = growth.items(present, found, now)
                if new or present.state is State.AWAITING_PRESERVATION:
                    grown, told = self._grow(present, new, self._register.generation)
                    self._write(grown, told)
                if new:
                    done.grown[hold.id] = len(new)
            self._resolved_us[hold.id] = now
        except HoldRefused as error:
            done.problems[hold.id] = error.code
            log.error("hold %s does not grow any more: %s", hold.id, error.text)
        except StoreError:
            done.problems[hold.id] = "store"
            log.warning("hold %s is not resolved again: the store does not answer", hold.id)

    # How it is done.

    def _settled(self, hold: Hold, told: list[dict[str, Any]], now: int) -> Hold:
        """Write an approved hold, resolved and compared with purges if the store answers."""
        try:
            found = growth.read(self._store, hold, now) if hold.resolve else NOTHING
            new = growth.items(hold, found, now)
        except (StoreError, HoldRefused):
            # Approved it is; it stays in AwaitingPreservation, and tick tells and tries again.
            return self._write(hold, told)
        hold, more = self._grow(hold, new, self._register.generation + len(told))
        self._write(hold, [*told, *more])
        self._resolved_us[hold.id] = now
        return hold

    def _grow(
        self, hold: Hold, new: Sequence[ScopeItem], generation: int, *, first: bool = False
    ) -> tuple[Hold, list[dict[str, Any]]]:
        purges, commit = self._register.purges(), self._commitments.commit
        return growth.grown(hold, new, purges, generation, commit, first=first)

    def _repeated(self, known: str, draft: Draft) -> Hold:
        id, _, digest = known.partition(" ")
        if digest != _sum(draft):
            raise HoldRefused("request-id-used", "this request id stands for another hold")
        return self.hold(id)

    def _present(self, id: str) -> tuple[Hold, int, int]:
        """The hold as time has left it, the time, and the generation."""
        self.hold(id)
        self._end_due(id)
        return self.hold(id), self._now_us(), self._register.generation

    def _write(self, hold: Hold, told: Sequence[dict[str, Any]]) -> Hold:
        self._register.write(holds=[hold], leaves=told)
        return hold

    def _need_clock(self) -> None:
        if not self._trusted():
            text = "the clock is not trusted: no release before it is confirmed"
            raise HoldRefused("clock-untrusted", text)

    def _now_us(self) -> int:
        return latest_us(self._register.now() // 1000, self._register.note(MARK))

    @contextlib.contextmanager
    def _acting(self, actor: Actor, action: Action, id: str) -> Iterator[None]:
        """The lock, and a leaf for what is refused."""
        try:
            with self._register.exclusive():
                yield
        except HoldRefused as error:
            if self._tells_refusals:
                subject = "" if error.code == "not-found" else id
                try:
                    told = self._refusal(actor, action, subject, error.code)
                    self._register.write(leaves=[told])
                except RegisterError:
                    # Refused all the same; that the log cannot take it has its own alarm.
                    log.exception("a refusal could not be written to the audit log")
            raise

    def _refusal(self, actor: Actor, action: Action, id: str, reason: str) -> dict[str, Any]:
        asked = actor.person, str(actor.role), action.value, id or None, reason
        return leaves.refusal(*asked, self._person, self._commitments.commit)


def _sum(draft: Draft) -> str:
    """What a retry has in common with its first try; a served of now is another each time."""
    return digest_of(repr(replace(draft, served_us=0)))
