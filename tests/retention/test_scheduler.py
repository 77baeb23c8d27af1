"""Rounds of the scheduler on a modelled store: what is done when, and what a failure spares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.errors import Unavailable
from retention.config import Schedule
from retention.holds.desk import Desk, Ticked
from retention.holds.rules import Ending
from retention.jobs import MAX_JOBS, Jobs, Running
from retention.metrics import Metrics
from retention.model import DAY_US, PROTECT_US, State, Step
from retention.register.lock import RegisterError
from retention.scheduler import EVIDENCE_NOTE, Scheduler, Work
from tests.retention.destruction.world import HOUR, START, World, crash, item, person
from tests.retention.model_vault import Crash, row

PERIOD = 30 * DAY_US


class Store:
    """The engine's side: up or down, with so many tables that nobody knows."""

    def __init__(self) -> None:
        self.is_up, self.strange = True, 0

    def refresh(self) -> bool:
        return self.is_up

    def unwired(self) -> int:
        return self.strange


class Commitments:
    def person(self, name: str) -> str:
        return person(name)

    def commit(self, text: str) -> str:
        return person(text)


class Rig:
    """A world with a scheduler over it; `seconds` is the clock that its pauses go by."""

    def __init__(self, folder: Path, **schedule: Any) -> None:
        self.world = World(folder)
        self.store, self.seconds = Store(), 0.0
        self.policies = self.told = 0
        self.settings = Schedule(**{"tick_s": 1, "purge_every_s": 3600, **schedule})
        self.begin()

    def begin(self) -> None:
        """What a process has of its own."""
        self.metrics, world = Metrics(), self.world
        self.desk = Desk(
            world.register,
            Commitments(),
            world.store,
            trusted=lambda: world.context.guard.check().trusted,
        )
        work = Work(
            world.context, world.purger, world.verifier, self.desk, self.store, self._policy,
            self._tell_of_releases,
        )  # fmt: skip
        self.scheduler = Scheduler(self.settings, work, self.metrics, lambda: self.seconds)

    def _policy(self) -> None:
        self.policies += 1

    def _tell_of_releases(self) -> None:
        self.told += 1

    def round(self, seconds: float = 0.0) -> None:
        self.seconds += seconds
        self.scheduler.round()

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"tallyhold_retention_{name}", labels)
        assert value is not None, name
        return value

    def failures(self, step: str) -> float:
        name = "tallyhold_retention_step_failures_total"
        return self.metrics.registry.get_sample_value(name, {"step": step}) or 0.0

    def visits(self, count: int = 3, day: float = 0, subscriber: str = "s") -> None:
        at_us = START + int(day * DAY_US) + HOUR
        self.world.store.ingest(
            *(row("visit", n, at_us + n, subscriber=subscriber) for n in range(count))
        )

    def overdue_by(self, us: int) -> None:
        """Let time pass in days, with the rounds of each."""
        end = self.world.now_us() + us
        while self.world.now_us() < end:
            self.world.advance(min(DAY_US, end - self.world.now_us()))
            self.round(86_400)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.world.close()


def test_what_is_due_goes_by_itself_and_the_log_is_good(rig: Rig) -> None:
    rig.visits()
    rig.round()
    rig.overdue_by(PERIOD)
    assert len(rig.world.there()) == 3
    rig.overdue_by(2 * DAY_US)
    assert rig.world.there() == set()
    (purge,) = rig.world.register.purges()
    assert (purge.step, purge.operator, purge.destroyed) == (Step.FINAL, "tallyhold", 3)
    assert rig.metric("rows_destroyed_total", record_class="visit") == 3
    assert rig.metric("places_total", outcome="destroyed") == 1
    assert rig.metric("last_purge_timestamp_seconds") > 0
    assert rig.metric("due_partitions") == rig.metric("overdue_partitions") == 0
    assert rig.world.findings() == []


def test_nothing_goes_where_destroying_is_off_and_that_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, destroy=False)
    rig.visits()
    rig.overdue_by(PERIOD + 40 * DAY_US)
    assert len(rig.world.there()) == 3
    assert rig.world.register.purges() == []
    assert rig.metric("due_partitions") == rig.metric("overdue_partitions") == 1
    assert rig.metric("oldest_seconds") > 31 * 86_400
    rig.world.close()


def test_held_rows_stay_and_are_counted_every_night(rig: Rig) -> None:
    rig.visits(subscriber="s")
    rig.visits(subscriber="other", day=0.1)
    rig.world.hold(item("s"))
    rig.overdue_by(PERIOD + 3 * DAY_US)
    assert len(rig.world.there()) == 3
    before = len(rig.world.leaves("hold.evidence"))
    rig.overdue_by(3 * DAY_US)
    assert len(rig.world.leaves("hold.evidence")) == before + 3
    assert rig.metric("holds_protecting") == 1
    assert rig.metric("evidence_findings") == 0
    assert rig.world.findings() == []


def test_what_a_crash_left_is_settled_before_holds_are_moved(rig: Rig) -> None:
    """An end that came due meanwhile has its turn in the first round, and none is told as stuck."""
    rig.visits()
    rig.round()
    world = rig.world
    world.open_for(0)
    brief = world.hold(item("other"), expires_us=world.now_us() + HOUR)
    world.faults.at_name("drop", "after", 0, crash)
    with pytest.raises(Crash):
        world.run()
    world.faults.disarm()
    world.close()
    world.boot()
    assert [each.step for each in world.register.purges()] == [Step.PRESERVED]
    world.clock.true_us += 2 * HOUR
    rig.begin()
    rig.round()
    assert [each.step for each in world.register.purges()] == [Step.FINAL]
    assert rig.desk.hold(brief.id).state is State.EXPIRED
    assert rig.metric("hold_problems") == 0
    assert rig.failures("settle") == rig.failures("holds") == 0
    assert world.findings() == []


def test_holds_are_moved_while_the_engine_is_down(rig: Rig) -> None:
    brief = rig.world.hold(item("s"), expires_us=rig.world.now_us() + HOUR)
    rig.store.is_up = False
    rig.world.advance(2 * HOUR)
    rig.round()
    assert rig.desk.hold(brief.id).state is State.EXPIRED


def test_held_rows_that_are_gone_are_an_alarm_until_they_are_back(rig: Rig) -> None:
    rig.visits()
    rig.world.hold(item("s"))
    rig.overdue_by(PERIOD + 3 * DAY_US)
    vault = rig.world.store.vault
    kept = {place: list(rows) for place, rows in vault.items()}
    (place,) = vault
    vault[place] = vault[place][1:]
    rig.overdue_by(DAY_US)
    assert rig.metric("evidence_findings") > 0
    vault.update(kept)
    rig.overdue_by(DAY_US)
    assert rig.metric("evidence_findings") == 0


def test_a_restart_does_not_begin_the_night_again(rig: Rig) -> None:
    rig.round()
    first = rig.world.register.note(EVIDENCE_NOTE)
    assert first is not None
    rig.world.advance(HOUR)
    rig.scheduler = Scheduler(
        rig.scheduler.config, rig.scheduler._work, rig.metrics, lambda: rig.seconds
    )
    rig.round()
    assert rig.world.register.note(EVIDENCE_NOTE) == first


def test_an_engine_that_is_down_keeps_time_from_nothing_but_destruction(rig: Rig) -> None:
    rig.visits()
    rig.store.is_up = False
    hold = rig.world.submit(item("x"))
    rig.overdue_by(PERIOD + 3 * DAY_US)
    assert len(rig.world.there()) == 3
    assert rig.world.register.purges() == []
    assert rig.metric("engine_up") == 0
    lapsed = rig.world.register.hold(hold.id)
    assert lapsed is not None
    assert not lapsed.protects
    rig.store.is_up = True
    rig.overdue_by(2 * DAY_US)
    assert rig.world.there() == set()
    assert rig.metric("engine_up") == 1


def test_an_engine_that_dies_in_the_middle_is_settled_when_it_is_back(rig: Rig) -> None:
    rig.visits()
    rig.overdue_by(PERIOD)

    def die() -> None:
        raise Unavailable("the engine died")

    rig.world.faults.every = lambda point: die() if point == "drop before" else None
    rig.overdue_by(2 * DAY_US)
    assert rig.metric("unsettled") == 1
    assert rig.failures("settle") == 0  # waiting is no failure of ours
    rig.world.faults.every = lambda point: None
    rig.round(1)
    assert rig.metric("unsettled") == 0
    assert rig.world.there() == set()
    assert rig.world.findings() == []


def test_a_clock_that_jumped_stops_destruction_and_heartbeats(rig: Rig) -> None:
    rig.visits()
    rig.overdue_by(PERIOD)
    rig.world.clock.off_us = 40 * DAY_US
    beats = len(rig.world.leaves("heartbeat"))
    for _ in range(3):
        rig.round(86_400)
    assert len(rig.world.there()) == 3
    assert rig.metric("clock_trusted") == 0
    assert len(rig.world.leaves("heartbeat")) == beats
    assert rig.world.leaves("clock.step")[-1]["trusted"] is False
    rig.world.clock.off_us = 0
    rig.overdue_by(2 * DAY_US)
    assert rig.metric("clock_trusted") == 1
    assert rig.world.there() == set()
    assert rig.world.findings() == []


def test_unknown_tables_stop_destruction(rig: Rig) -> None:
    rig.visits()
    rig.store.strange = 1
    rig.overdue_by(PERIOD + 3 * DAY_US)
    assert len(rig.world.there()) == 3
    assert rig.metric("unwired_tables") == 1


@pytest.mark.parametrize(
    ("step", "break_it"),
    [
        ("observe", lambda rig: setattr(rig.world.purger, "observe", fail)),
        ("sweep", lambda rig: setattr(rig.world.purger.sweeper, "run", fail)),
        ("certificates", lambda rig: setattr(rig.world.purger.certificates, "issue", fail)),
        ("plan", lambda rig: setattr(rig.world.purger, "plan", fail)),
        ("holds", lambda rig: setattr(rig.desk, "tick", fail)),
        ("evidence", lambda rig: setattr(rig.world.verifier, "run", fail)),
        ("settle", lambda rig: setattr(rig.world.purger.resumer, "settle", fail)),
    ],
)
def test_a_step_that_fails_keeps_no_other_from_running(
    rig: Rig, step: str, break_it: Callable[[Rig], None], caplog: pytest.LogCaptureFixture
) -> None:
    rig.round()
    beats = len(rig.world.leaves("heartbeat"))
    break_it(rig)
    rig.overdue_by(2 * DAY_US)
    assert rig.failures(step) >= 1
    assert len(rig.world.leaves("heartbeat")) > beats + 2  # two of them are time passing
    assert rig.metric("last_tick_timestamp_seconds") * 1e6 >= rig.world.now_us() - 1
    assert "sub-0001" not in caplog.text
    assert "test_scheduler.py" in caplog.text  # where it was


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("sub-0001")


def test_errors_in_plain_words_are_told_in_them(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Any:
        raise RegisterError("the disk is full: make room")

    rig.desk.tick = refuse  # type: ignore[method-assign]
    rig.round()
    assert "holds: the disk is full: make room" in caplog.text


def test_what_people_must_act_on_is_shown(rig: Rig) -> None:
    rig.world.submit(item("x"))
    rig.round()
    assert rig.metric("approvals_waiting") == 1
    assert 0 < rig.metric("approval_seconds_left") <= PROTECT_US / 1e6
    rig.desk.tick = lambda: Ticked(problems={"H-1": "too-wide"}, ended={"H-2": Ending.LAPSE})  # type: ignore[method-assign]
    rig.round()
    assert rig.metric("hold_problems") == 1
    assert rig.policies == 2


def test_the_register_has_a_heartbeat_when_due(tmp_path: Path) -> None:
    rig = Rig(tmp_path, heartbeat_s=100)
    for _ in range(5):
        rig.round(50)
    assert len(rig.world.leaves("heartbeat")) == 3
    rig.world.close()


# Runs that people ask for


def test_a_run_by_a_person_is_done_once_and_can_be_looked_up(rig: Rig) -> None:
    rig.scheduler.config = Schedule(tick_s=0.05, destroy=False, purge_every_s=3600)
    rig.visits()
    rig.overdue_by(PERIOD + 2 * DAY_US)
    dry = rig.scheduler.submit(5, True, "otto")
    with pytest.raises(Running):
        rig.scheduler.submit(5, False, "otto")
    rig.scheduler.start()
    until(lambda: state(rig, dry) == "done")
    shown = rig.scheduler.job(dry)
    assert shown is not None
    assert (shown["total"], shown["plan"]["due"], shown["outcomes"]) == (1, 1, [])
    assert len(rig.world.there()) == 3
    wet = rig.scheduler.submit(5, False, "otto")
    until(lambda: state(rig, wet) == "done")
    shown = rig.scheduler.job(wet)
    assert shown is not None
    (outcome,) = shown["outcomes"]
    assert (outcome["state"], outcome["destroyed"], outcome["class"]) == ("destroyed", 3, "visit")
    assert rig.world.register.purges()[0].operator == "otto"
    assert rig.scheduler.status()["last"]["job"] == wet
    assert rig.scheduler.job("run-99") is None
    rig.scheduler.stop()


def test_a_run_that_fails_says_why(rig: Rig) -> None:
    rig.round()
    rig.world.purger.plan = fail  # type: ignore[method-assign]
    rig.scheduler.config = Schedule(tick_s=0.05, destroy=False)
    name = rig.scheduler.submit(5, False, "otto")
    rig.scheduler.start()
    until(lambda: state(rig, name) == "failed")
    shown = rig.scheduler.job(name)
    assert shown is not None
    assert "sub-0001" not in str(shown)
    rig.store.is_up = False
    until(lambda: not rig.scheduler.state.engine_up)
    name = rig.scheduler.submit(5, False, "otto")
    until(lambda: state(rig, name) == "failed")
    shown = rig.scheduler.job(name)
    assert shown is not None
    assert "engine is down" in shown["stopped"]
    rig.scheduler.stop()


def test_a_stop_lets_the_place_end_and_begins_no_other(rig: Rig) -> None:
    for day in range(4):
        rig.visits(day=day)
    rig.scheduler.config = Schedule(tick_s=0.05, destroy=False)
    rig.overdue_by(PERIOD + 10 * DAY_US)
    inside, go_on = threading.Event(), threading.Event()

    def wait(point: str) -> None:
        if point == "drop before":
            inside.set()
            go_on.wait(20)

    rig.world.faults.every = wait
    rig.scheduler.start()
    rig.scheduler.submit(10, False, "otto")
    assert inside.wait(20)
    stopper = threading.Thread(target=rig.scheduler.stop)
    stopper.start()
    stopper.join(0.2)
    assert stopper.is_alive()
    go_on.set()
    stopper.join(20)
    assert not stopper.is_alive()
    steps = [purge.step for purge in rig.world.register.purges()]
    assert len(steps) == 1
    assert steps[0] in (Step.DROPPED, Step.PENDING, Step.FINAL)


def test_runs_are_remembered_up_to_a_limit() -> None:
    jobs = Jobs()
    names = []
    for _ in range(MAX_JOBS + 5):
        job = jobs.scheduled(5, "tallyhold")
        names.append(job.name)
        jobs.finished(job)
    assert jobs.job(names[0]) is None
    assert jobs.job(names[-1]) is not None
    assert len(set(names)) == len(names)


def test_whoever_waits_for_a_run_is_woken() -> None:
    jobs = Jobs()
    assert jobs.wait(0.01) is None
    jobs.wake()
    assert jobs.wait(60) is None


def state(rig: Rig, name: str) -> str:
    shown = rig.scheduler.job(name)
    assert shown is not None
    return str(shown["state"])


def until(condition: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(600):
        if condition():
            return
        event.wait(0.05)
    raise AssertionError("waited 30 s")
