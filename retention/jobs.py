"""Runs of the purge that people or the schedule asked for: one at a time, each to be looked up.

A run is remembered until the service ends; what it destroyed is in the register and the log.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Literal

from retention.answers import iso, outcome_json, plan_json
from retention.destruction.plan import Plan
from retention.destruction.purge import Run
from retention.destruction.steps import Outcome
from retention.model import Place

MAX_JOBS: Final = 50
"""Runs that are remembered; the schedule makes one an hour."""
SCHEDULE: Final = "schedule"


class Running(Exception):
    """Another run is under way, or waits; `name` is its id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"run {name} of the purge is under way; wait for its end")
        self.name = name


class Job:
    """One run: what was asked for, and how far it has come. Written by one thread, read by all."""

    def __init__(self, name: str, cap: int, dry_run: bool, operator: str) -> None:
        self.name, self.cap, self.dry_run, self.operator = name, cap, dry_run, operator
        self.outcomes: tuple[Outcome, ...] = ()
        self.state: Literal["waiting", "running", "done", "failed"] = "waiting"
        self._plan: Plan | None = None
        self._steps: dict[Place, str] = {}
        self._started_us = self._ended_us = 0
        self._stopped = ""

    def begin(self, now_us: int) -> None:
        """It is being done."""
        self.state, self._started_us = "running", now_us

    def planned(self, plan: Plan) -> None:
        """What it is going to do, or would do."""
        self._plan = plan

    def progress(self, place: Place, step: str) -> None:
        """How far a place is."""
        self._steps = {**self._steps, place: step}

    def ended(self, run: Run) -> None:
        """What became of its places."""
        self.outcomes, self._stopped = run.outcomes, run.stopped

    def fail(self, text: str) -> None:
        """It could not be done, or not to its end."""
        self.state, self._stopped = "failed", text

    def close(self, now_us: int) -> None:
        """It is over, one way or the other."""
        self._ended_us = now_us
        if self.state == "running":
            unfinished = any(each.state in ("failed", "unsettled") for each in self.outcomes)
            self.state = "failed" if unfinished or self._stopped else "done"

    def plain(self) -> dict[str, Any]:
        """The run as JSON. done: places that have come to their outcome, of total."""
        finished = sum(step == "certificate" for step in self._steps.values())
        return {
            "job": self.name,
            "state": self.state,
            "dry_run": self.dry_run,
            "operator": self.operator,
            "cap": self.cap,
            "started": iso(self._started_us) if self._started_us else None,
            "ended": iso(self._ended_us) if self._ended_us else None,
            "total": len(self._plan.due) if self._plan else 0,
            "done": len(self.outcomes) or finished,
            "outcomes": [outcome_json(each) for each in self.outcomes],
            "stopped": self._stopped,
            "plan": plan_json(self._plan) if self._plan and self.dry_run else None,
        }


class Jobs:
    """The runs, and the one that waits for the scheduler's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._current: Job | None = None
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._last: Job | None = None
        self._number = 0
        self._woken = False

    def submit(self, cap: int, dry_run: bool, operator: str) -> str:
        """Ask for a run; gives its id. Raises Running while there is another."""
        with self._changed:
            other = self._waiting or self._current
            if other is not None:
                raise Running(other.name)
            job = self._waiting = self._new("run", cap, dry_run, operator)
            self._changed.notify_all()
            return job.name

    def scheduled(self, cap: int, operator: str) -> Job:
        """A run by the schedule, to be done at once by the thread that asks."""
        with self._changed:
            job = self._current = self._new(SCHEDULE, cap, False, operator)
            return job

    def wait(self, timeout_s: float) -> Job | None:
        """The run that is asked for, once there is one, or None after a while or when woken."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._woken, timeout_s)
            job, self._waiting = self._waiting, None
            self._current = job
            return job

    def wake(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def finished(self, job: Job) -> None:
        """The thread is done with a run."""
        with self._changed:
            self._current, self._last = None, job

    def job(self, name: str) -> Mapping[str, Any] | None:
        """A run as JSON; None where there is none with this id any more."""
        with self._changed:
            found = self._known.get(name)
        return found.plain() if found else None

    def status(self) -> dict[str, Any]:
        """The run that is under way and the last that ended, as JSON."""
        with self._changed:
            running, last = self._current or self._waiting, self._last
        return {
            "running": running.plain() if running else None,
            "last": last.plain() if last else None,
        }

    def _new(self, kind: str, cap: int, dry_run: bool, operator: str) -> Job:
        self._number += 1
        job = Job(f"{kind}-{self._number}", cap, dry_run, operator)
        self._known[job.name] = job
        while len(self._known) > MAX_JOBS:
            self._known.popitem(last=False)
        return job
