"""Brings to an outcome what a crash or a dead engine left without one; nothing is claimed unknown.

    INTENT       nothing was destroyed: failed
    PRESERVED    the live partition is whole and the vault has what it must: destroy again; dropped
                 it is whole and the vault lacks rows: copy again, then as above, else failed
                 it is gone and the vault has what it must: dropped
                 it is gone and the vault lacks rows: an alarm, and nothing else is destroyed
    a sweep      carried on (`sweep.py`)

Whether the live partition is whole is told by its rows, which nothing can add to or take from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.store.client import StoreError
from retention.destruction.certificate import Certificates
from retention.destruction.context import LIVE, VAULT, Context, Finding, log
from retention.destruction.plan import approve_again, unsettled
from retention.destruction.steps import dropped, failed, kept_key, parse_kept, same
from retention.destruction.sweep import Sweeper
from retention.model import Hold, Purge, Step
from retention.vault.port import PreserveError

LOST: Final = "held-lost"
"""Code of the finding that rows a hold protects are neither live nor in the vault."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling came to. waiting: why something is still without an outcome, or empty."""

    ended: tuple[Purge, ...] = ()
    findings: tuple[Finding, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def clear(self) -> bool:
        """Whether holds may change and places may be destroyed again."""
        return not self.waiting


class Resumer:
    """Settles at start and before every run."""

    def __init__(self, context: Context, certificates: Certificates, sweeper: Sweeper) -> None:
        self._context, self._certificates, self._sweeper = context, certificates, sweeper

    def settle(self) -> Settled:
        """Settle all there is. Raises Busy and the register's and disk's errors, no StoreError."""
        ended, findings, waiting = list[Purge](), list[Finding](), list[str]()
        register = self._context.register
        with register.exclusive():
            if not register.is_settled:
                register.write()  # leaves that the log was owed come before any statement
            for purge in unsettled(register.purges()):
                try:
                    found = self._settle(purge)
                except (StoreError, PreserveError) as error:
                    waiting.append(f"{purge.id}: {error}")
                    continue
                if isinstance(found, Purge):
                    ended.append(found)
                elif isinstance(found, Finding):
                    findings.append(found)
                    waiting.append(f"{purge.id}: {found.text}")
                else:
                    waiting.append(f"{purge.id}: {found}")
            if not waiting:
                try:
                    reason = self._sweeper.carry_on()
                except (StoreError, PreserveError) as error:
                    reason = str(error)
                if reason:
                    waiting.append(f"late rows: {reason}")
        for finding in findings:
            log.critical("%s", finding.text)
        for text in waiting:
            log.error("not settled: %s", text)
        return Settled(tuple(ended), tuple(findings), tuple(waiting))

    def start(self) -> Settled:
        """Settle, and bring every certificate's file and leaf together; once, at start."""
        self._context.guard.check()  # from here on it knows what passes
        settled = self.settle()
        repaired = self._certificates.repair()
        self._certificates.issue()
        return Settled(settled.ended, settled.findings + repaired, settled.waiting)

    def _settle(self, purge: Purge) -> Purge | Finding | str:
        """The purge at its outcome, an alarm, or why it has to wait."""
        context = self._context
        if purge.step is Step.INTENT:
            return failed(context, purge, "interrupted")
        place = purge.partition.place
        there = context.vault.count(place, purge.store)
        holds = context.meeting(purge.partition)
        trust = context.guard.check()
        current = context.register.generation == purge.generation
        if not (current and trust.trusted):
            if there == purge.rows_before and purge.store == "live" and there:
                return failed(context, purge, "generation" if trust.trusted else "clock-untrusted")
            if not current:
                # The lock was broken: what is gone went under other holds than there are now.
                text = f"purge {purge.id}: holds changed before its outcome was known"
                return Finding("generation", place, text)
            return f"the clock is not trusted: {trust.reason}"
        if purge.store == "vault":
            return self._rebuilt(purge, holds)
        if there and not self._vault_has(purge, holds):
            self._copy_again(purge, holds, whole=there == purge.rows_before)
        if not self._vault_has(purge, holds):
            if there == purge.rows_before and there:
                return failed(context, purge, "not-preserved")
            return self._lost(purge)
        if there not in (0, purge.rows_before):
            log.error("purge %s: a part of the partition was left; it is dropped again", purge.id)
        context.vault.drop(approve_again(purge))
        return dropped(context, purge)

    def _rebuilt(self, purge: Purge, holds: Sequence[Hold]) -> Purge | Finding | str:
        """A purge of the vault: rebuild it again from what holds match in it."""
        context, place = self._context, purge.partition.place
        selection = context.vault.select(place, VAULT, holds, context.salt)
        if not same(selection.held, purge.held):
            return self._lost(purge)
        context.vault.rebuild(approve_again(purge), selection)
        return dropped(context, purge)

    def _vault_has(self, purge: Purge, holds: Sequence[Hold]) -> bool:
        """Whether the vault has of every hold what it had when the purge had preserved."""
        context = self._context
        must = parse_kept(context.register.note(kept_key(purge)))
        if not must:
            return True
        found = context.vault.select(purge.partition.place, VAULT, holds, context.salt)
        return same(found.held, must)

    def _copy_again(self, purge: Purge, holds: Sequence[Hold], *, whole: bool) -> None:
        context = self._context
        if whole:
            selection = context.vault.select(purge.partition.place, LIVE, holds, context.salt)
            context.vault.preserve(selection)

    def _lost(self, purge: Purge) -> Finding:
        place = purge.partition.place
        text = (
            f"purge {purge.id}: held rows of {place.record_class} {place.name} are neither live "
            "nor in the vault; nothing else is destroyed until somebody has looked"
        )
        return Finding(LOST, place, text)
