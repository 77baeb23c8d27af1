"""Plans, and carries plans out: what a dry run shows is the object that a run takes.

`observe` keeps the audit log and ingest informed; `plan` is free of effects; `run` takes a plan and
gives what became of each of its places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from retention.destruction.book import CLOSED_KEY, closed_text
from retention.destruction.certificate import Certificates
from retention.destruction.context import Context, Finding, log
from retention.destruction.plan import CAP, Plan, closures, unavailable
from retention.destruction.resume import Resumer
from retention.destruction.steps import Outcome, Progress, carry_out
from retention.destruction.sweep import Sweeper
from retention.model import Hold
from retention.register.store import Busy

OPERATOR: Final = "tallyhold"
"""Who a run by the schedule is by."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a plan. stopped: why it ended before all places had their turn, or empty."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    stopped: str = ""

    @property
    def destroyed(self) -> tuple[Outcome, ...]:
        return tuple(each for each in self.outcomes if each.state == "destroyed")

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for each in self.outcomes for finding in each.findings)


class Purger:
    """Destroys what is due, one place at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.certificates = Certificates(context)
        self.sweeper = Sweeper(context)
        self.resumer = Resumer(context, self.certificates, self.sweeper)

    def observe(self) -> int:
        """Tell the log of partitions it does not know, and ingest of those that are closed.

        Gives the number of leaves. While the clock is not trusted ingest is told nothing new: rows
        of a partition that it takes for closed are swept as late ones.
        """
        context = self._context
        live, _ = context.listed()
        with context.register.exclusive():
            leaves = context.seen_leaves(
                each for each in context.decide(live, []).decisions if each.retain_until_us
            )
            context.write_leaves(leaves)
            if context.guard.check().trusted:
                self._close()
        return len(leaves)

    def plan(self) -> Plan:
        """What would happen now, place by place."""
        return self._context.decide(*self._context.listed())

    def run(
        self,
        plan: Plan,
        *,
        cap: int = CAP,
        operator: str = OPERATOR,
        progress: Progress = lambda *_: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Run:
        """Carry out a plan's oldest `cap` places, after what is unsettled has been settled.

        Each place is decided anew under the lock, so a hold placed since protects. Raises the
        register's errors and OSError: then `settle` has to come first.
        """
        plan = plan.cap(cap)
        settled = self.resumer.settle()
        if not settled.clear:
            return Run(plan, (), f"not settled: {settled.waiting[0]}")
        outcomes, stopped = list[Outcome](), ""
        for decision in plan.due:
            if stopping():
                stopped = "asked to stop"
                break
            try:
                outcome = carry_out(self._context, decision, operator, progress)
            except Busy as error:
                stopped = str(error)
                break
            outcomes.append(outcome)
            log.info(
                "%s %s %s: %s %s",
                outcome.store,
                decision.place.record_class,
                decision.place.name,
                outcome.state,
                outcome.reason,
            )
            if outcome.state == "destroyed":
                self.certificates.pend()
                progress(decision.place, "certificate")
            if outcome.stops:
                stopped = outcome.reason
                break
        return Run(plan, tuple(outcomes), stopped)

    def unavailable(self, hold: Hold) -> tuple[str, ...]:
        """Ids of purges that destroyed rows of places that a hold's scope meets."""
        return unavailable(hold, self._context.register.purges())

    def _close(self) -> None:
        """Tell ingest, then note since when it knows: a crash between makes us wait longer."""
        context = self._context
        told = context.closed()
        now = closures(context.policy(), context.register.purges(), told, context.believed_us())
        context.vault.publish_closed({name: each.first_open for name, each in now.items()})
        if now != told:
            context.write(notes={CLOSED_KEY: closed_text(now)})
