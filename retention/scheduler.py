"""What is done by itself: one thread that makes rounds, runs the purge, counts evidence, and tells.

A round: the policy as of now, the clock, what has no outcome yet, holds that time moved (none can
before that), what ingest has to know, late rows, certificates. Between rounds, when due: a run of
the purge, the count of all that is held, a heartbeat in the log. A step that fails is logged and
counted and keeps no other from running; what is half done is settled in the next round, first.
People's runs of the purge come through `submit` and are done by the same thread, one at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aggregator.store.errors import StoreError
from retention.audit.log import LogError
from retention.config import Schedule
from retention.destruction.context import Context, Finding, Unsettled
from retention.destruction.evidence import Verifier
from retention.destruction.plan import Plan, unsettled
from retention.destruction.purge import OPERATOR, Purger
from retention.holds.desk import Ticked
from retention.jobs import Job, Jobs
from retention.metrics import Metrics, State
from retention.model import PROTECT_US, Step
from retention.model import State as HoldState
from retention.register import leaves
from retention.register.lock import RegisterError
from retention.routes_base import where
from retention.vault.port import PreserveError

log = logging.getLogger(__name__)

EVIDENCE_NOTE: Final = "schedule/evidence"
"""When everything held was last counted, µs: a restart does not begin the night again."""
EXPECTED: Final = (StoreError, RegisterError, LogError, PreserveError, Unsettled, OSError)
"""Errors that say in plain words, and without any value of a row, what is wrong."""


class Ticking(Protocol):
    """What time moves: holds."""

    def tick(self) -> Ticked:
        """Apply what is due, and say what could not be."""


class Store(Protocol):
    """The engine's side, which may be down; the service's."""

    def refresh(self) -> bool:
        """Whether the engine answers and its tables are as they have to be; never raises."""

    def unwired(self) -> int:
        """Tables that no policy and no exemption names."""


@dataclass(frozen=True)
class Work:
    """What a round works on. policy: takes over what has come into force since. ledger: tells the
    log of SafeGuard's releases."""

    context: Context
    purger: Purger
    verifier: Verifier
    desk: Ticking
    store: Store
    policy: Callable[[], None]
    ledger: Callable[[], None]


class Scheduler:
    """Owns the thread. `monotonic` gives seconds, for pauses; the context's clock for the rest."""

    def __init__(
        self,
        config: Schedule,
        work: Work,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.jobs = Jobs()
        self._work = work
        self._metrics = metrics
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._heartbeat_at = float("-inf")
        self._purge_at = float("-inf")
        self._findings: dict[str, int] = {}
        self._kept_slots = self._hold_problems = 0
        self._engine_up = False
        self._is_repaired = False
        self._state = State()

    def start(self) -> None:
        """Begin with the first round, in the thread."""
        self._stopping.clear()
        self._metrics.start.set(self._work.context.now_us() / 1e6)
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Begin nothing more; returns at once."""
        self._stopping.set()
        self.jobs.wake()

    def stop(self) -> None:
        """Let the place that is being destroyed come to its outcome, and end; also twice."""
        self.ask_to_stop()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    @property
    def state(self) -> State:
        """What the last round found."""
        return self._state

    def submit(self, cap: int, dry_run: bool, operator: str) -> str:
        """Begin a run of the purge; raises `jobs.Running` while another is under way."""
        return self.jobs.submit(cap, dry_run, operator)

    def job(self, name: str) -> Mapping[str, Any] | None:
        """A run as JSON."""
        return self.jobs.job(name)

    def status(self) -> Mapping[str, Any]:
        """What was done last, as JSON."""
        return {"destroy": self.config.destroy, **self.jobs.status()}

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.round()
            job = self.jobs.wait(self.config.tick_s)
            if job is not None and not self._stopping.is_set():
                self._do(job)

    def round(self) -> None:
        """One round, and what is due with it; raises nothing."""
        work = self._work
        self._step("policy", work.policy)
        trusted = self._step("clock", lambda: work.context.guard.check().trusted) is True
        if (up := work.store.refresh()) != self._engine_up:
            level = logging.INFO if up else logging.WARNING
            log.log(level, "the storage engine is %s", "up" if up else "down: nothing is destroyed")
        self._engine_up = up
        plan: Plan | None = None
        if up:
            self._step("settle", self._settle)
        self._step("holds", self._tick)
        if up:
            self._step("safeguard", work.ledger)
            self._step("observe", work.purger.observe)
            if self.config.destroy and not work.store.unwired():
                self._step("sweep", self._sweep)
            self._step("certificates", work.purger.certificates.issue)
            self._due_runs(trusted)
            plan = self._step("plan", work.purger.plan)
        if trusted:
            self._step("heartbeat", self._heartbeat)
        self._step("state", lambda: self._tell(plan, trusted))
        self._metrics.last_tick.set(work.context.now_us() / 1e6)

    def _due_runs(self, trusted: bool) -> None:
        now = self._monotonic()
        wanted = self.config.destroy and trusted and not self._work.store.unwired()
        if wanted and now >= self._purge_at and not self._stopping.is_set():
            self._purge_at = now + self.config.purge_every_s
            self._do(self.jobs.scheduled(self.config.cap, OPERATOR))
        if trusted and self._evidence_is_due():
            self._step("evidence", self._evidence)

    def _evidence_is_due(self) -> bool:
        every_s, now_us = self.config.evidence_every_s, self._work.context.now_us()
        last = self._work.context.register.note(EVIDENCE_NOTE)
        self._metrics.last_evidence.set(int(last or 0) / 1e6)
        return last is None or not int(last) <= now_us < int(last) + int(every_s * 1e6)

    def _tick(self) -> None:
        ticked = self._work.desk.tick()
        for name, ending in ticked.ended.items():
            log.warning("hold %s has ended: %s", name, ending)
            self._metrics.ended.labels(ending.value).inc()
        self._hold_problems = len(ticked.problems)

    def _settle(self) -> None:
        resumer = self._work.purger.resumer
        if self._is_repaired:
            settled = resumer.settle()
        else:  # once, as it reads every certificate there is
            settled = resumer.start()
            self._is_repaired = True
        self._found("settle", settled.findings)

    def _sweep(self) -> None:
        self._kept_slots, sweeper = 0, self._work.purger.sweeper
        for swept in (sweeper.reconcile(), sweeper.run()):
            self._kept_slots += len(swept.kept)
            for what in ("preserved", "destroyed"):
                self._metrics.late.labels(what).inc(getattr(swept, what))

    def _evidence(self) -> None:
        context = self._work.context
        checked = self._work.verifier.run(self._stopping.is_set)
        self._found("evidence", checked.findings)
        if self._stopping.is_set():
            return  # not all of it was counted
        now_us = context.now_us()
        context.register.write(notes={EVIDENCE_NOTE: str(now_us)})
        self._metrics.last_evidence.set(now_us / 1e6)
        log.info("evidence: %d places, %d counts", checked.places, checked.counts)

    def _heartbeat(self) -> None:
        now = self._monotonic()
        if now >= self._heartbeat_at:
            self._work.context.register.write(leaves=[leaves.heartbeat()])
            self._heartbeat_at = now + self.config.heartbeat_s

    def _do(self, job: Job) -> None:
        """Carry out one run, whoever asked for it."""
        job.begin(self._work.context.now_us())
        try:
            if not self._engine_up:
                job.fail("the storage engine is down: nothing was destroyed")
                return
            if self._work.store.unwired():
                job.fail("the database has tables that the policy does not name: see the log")
                return
            plan = self._work.purger.plan().cap(job.cap)
            job.planned(plan)
            if job.dry_run:
                return
            run = self._work.purger.run(
                plan,
                cap=job.cap,
                operator=job.operator,
                progress=job.progress,
                stopping=self._stopping.is_set,
            )
            job.ended(run)
            self._found("purge", run.findings)
            self._count(job)
        except Exception as error:
            job.fail(_said(error))
            self._failed("purge", error)
        finally:
            job.close(self._work.context.now_us())
            self.jobs.finished(job)

    def _count(self, job: Job) -> None:
        for outcome in job.outcomes:
            self._metrics.places.labels(outcome.state).inc()
            if outcome.state == "destroyed" and outcome.purge is not None:
                name = outcome.place.record_class
                self._metrics.rows.labels(name).inc(outcome.purge.destroyed)
        self._metrics.last_purge.set(self._work.context.now_us() / 1e6)

    def _found(self, step: str, findings: tuple[Finding, ...]) -> None:
        self._findings[step] = len(findings)

    def _step(self, name: str, do: Callable[[], Any]) -> Any:
        """What a step gives, or None where it failed."""
        if self._stopping.is_set():
            return None
        try:
            return do()
        except Exception as error:  # no step may keep the others from running
            self._failed(name, error)
            return None

    def _failed(self, name: str, error: Exception) -> None:
        self._metrics.failures.labels(name).inc()
        if isinstance(error, EXPECTED):
            log.error("%s: %s", name, error)
        else:
            # Its text may repeat values of rows; where it was is enough to find it.
            log.error("%s: %s at %s", name, type(error).__name__, where(error))

    def _tell(self, plan: Plan | None, trusted: bool) -> None:
        """Show what there is to act on."""
        context = self._work.context
        now_us, register = context.now_us(), context.register
        holds = register.protecting()
        waiting = [h for h in holds if h.state is HoldState.AWAITING_APPROVAL]
        dropped = [
            each.dropped_us
            for step in (Step.DROPPED, Step.PENDING)
            for each in register.purges(step=step)
        ]
        lives = [each for each in plan.decisions if each.store == "live"] if plan else []
        past = [now_us - each.retain_until_us for each in lives if each.retain_until_us]
        left = [each.requested.at_us + PROTECT_US - now_us for each in waiting]
        before = self._state
        self._state = State(
            engine_up=self._engine_up,
            clock_trusted=trusted,
            log_settled=register.is_settled,
            unsettled=len(unsettled(register.purges())),
            unwired_tables=self._work.store.unwired(),
            due_partitions=len(plan.due) if plan else before.due_partitions,
            overdue_partitions=(
                sum(0 < each.due_us < now_us for each in plan.decisions if each.retain_until_us)
                if plan
                else before.overdue_partitions
            ),
            oldest_seconds=max(0.0, max(past, default=0) / 1e6) if plan else before.oldest_seconds,
            late_slots_kept=self._kept_slots,
            holds_protecting=len(holds),
            approvals_waiting=len(waiting),
            approval_seconds_left=min(left) / 1e6 if left else float("inf"),
            reviews_overdue=sum(
                each.review_by_us is not None and each.review_by_us < now_us for each in holds
            ),
            hold_problems=self._hold_problems,
            certificates_pending=len(dropped),
            certificate_oldest_seconds=max(0.0, (now_us - min(dropped, default=now_us)) / 1e6),
            evidence_findings=sum(self._findings.values()),
        )
        self._metrics.set(self._state)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, EXPECTED) else "the service failed; its log says where"
