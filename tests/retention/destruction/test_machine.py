"""A stateful machine: anything in any order, against an oracle of which rows should be there.

Invariants, by the numbers of the design: 1 a held row is never absent; 2 no row leaves before its
period is over, and none that nobody holds is left when the service has done its work; 3 what ends
with one hold is no other's; 4 an address is held for the instants asked for, whoever had it; 5 each
destructive statement has its intent at the present generation (`world.py`); 6 a hold is honoured,
or told which purges came before it; 8 a run does what its plan said; 9 a wrong clock destroys
nothing; 10 what a restore brings back goes again, but for what a hold wants now. At the end an
outsider finds nothing wrong in the log.

The same machine runs over the model of the store and, for fewer steps, over both real engines.
TALLYHOLD_MACHINE_STEPS=1000000 and TALLYHOLD_ENGINE_MACHINE_STEPS=10000 run about so
many rule steps instead of the usual ten thousand, and 150 an engine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from collector.wire.addr import pack
from retention.audit.canonical import Leaf
from retention.destruction.plan import SETTLE_US
from retention.model import (
    DAY_US,
    NEVER,
    OPEN_US,
    PROTECT_US,
    RELEASE_US,
    Hold,
    Kind,
    Place,
    ScopeItem,
    Step,
)
from retention.policy.partitions import after, span
from retention.vault import late
from tests.retention.destruction.conftest import MEMORY
from tests.retention.destruction.engine_store import EngineStore
from tests.retention.destruction.scenes import service, tried
from tests.retention.destruction.world import HOUR, World, crash, policy
from tests.retention.model_vault import ModelVault, Row, newest, row
from tests.retention.vault.conftest import bundled_engine, debian_server
from tests.retention.vault.conftest import world as engine
from tests.retention.vault.world import World as Engine
from tests.retention.vault.world import eventually

__all__ = ["bundled_engine", "debian_server", "engine"]

STEPS_EACH = 50
STEPS = int(os.environ.get("TALLYHOLD_MACHINE_STEPS", "10000"))
ENGINE_STEPS = int(os.environ.get("TALLYHOLD_ENGINE_MACHINE_STEPS", "150"))
"""On each real engine, where a step takes a hundred times as long."""
DAYS = 30
OFTEN_US = 18 * DAY_US
"""The service does its work at least so often, as the law of the log (31 days) asks for."""

PEOPLE = ("a", "b", "c")
ADDRESSES = ("192.0.2.1", "192.0.2.2")
CLASSES = ("visit", "session", "usage")

Point: TypeAlias = tuple[str, str, int]
Scope: TypeAlias = tuple[Kind, int, int, int, frozenset[str]]
"""Kind, which one, from so many hours ago, for so many hours, classes."""
SCOPES: Final = st.tuples(
    st.sampled_from((Kind.SUBSCRIBER, Kind.SUBSCRIBER, Kind.ADDRESS)),
    st.integers(0, 2),
    st.sampled_from((1440, 1440, 700, 200, 0)) | st.integers(0, 1440),
    st.sampled_from((2500, 1500)) | st.integers(1, 1000),
    st.just(frozenset(CLASSES)) | st.frozensets(st.sampled_from(CLASSES), min_size=1),
)
POINTS: Final = st.tuples(
    st.sampled_from(
        (
            "select",
            "preserve",
            "drop",
            "rebuild",
            "preserve_late",
            "drop_slot",
            "count",
            "residue",
            "Register.write",
            "AuditLog.extend",
            "AuditLog.keep_certificate",
        )
    ),
    st.sampled_from(("before", "after")),
    st.integers(0, 3) | st.integers(0, 25),
)
"""At which call of the store, the register or the log trouble comes: which, when, which time."""
TIMES: Final = st.sampled_from((1, 24, 192, 216)) | st.integers(1, 216)
"""Hours that pass."""


@dataclass
class Promise:
    """One hold as the oracle has it."""

    items: list[ScopeItem]
    made_us: int
    approved: bool = False
    expires_us: int | None = None
    release_us: int | None = None


@dataclass
class Oracle:
    """Which rows should be: all that ever came, and whoever wants them kept."""

    rows: dict[bytes, Row] = field(default_factory=dict)
    holds: dict[str, Promise] = field(default_factory=dict)

    def wanted(self, each: Row) -> bool:
        return any(wants(item, each) for hold in self.holds.values() for item in hold.items)


def wants(item: ScopeItem, each: Row) -> bool:
    """Whether an item is about a row; written from the design, without the matcher."""
    values = each.values
    if each.record_class == "session":
        start, end = values["slice_start_us"], values["slice_end_us"]
    else:
        start, end = values["start_us"], values["end_us"]
    end = max(end or (start // DAY_US + 1) * DAY_US, start + 1)
    if each.record_class not in item.classes or start >= item.to_us or item.from_us >= end:
        return False
    if item.kind is Kind.SUBSCRIBER:
        return bool(values["subscriber"] == item.value)
    return bool(values.get("address") == pack(item.value.partition("/")[0]))


def until(place: Place) -> int:
    return after(span(place)[1] - DAY_US, 0, DAYS)


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.world = World(self.folder / "w", policy(DAYS), store=self.store())
        self.oracle = Oracle()
        self.number = 0
        self.present = dict[bytes, str]()
        self.served_us = 0
        self.jumps = 0

    def store(self) -> ModelVault | EngineStore | None:
        """The store, if not a new model."""
        return None

    @initialize(
        days=st.lists(st.integers(0, 25), min_size=3, max_size=8),
        holds=st.lists(SCOPES, max_size=3),
    )
    def begin(self, days: list[int], holds: list[Scope]) -> None:
        """Rows of the last weeks, and holds: without them the first steps have nothing to do."""
        self.world.advance(50 * DAY_US)
        self.world.observe()
        self.served_us = self.world.now_us()
        for n, day in enumerate(days):
            for name in CLASSES:
                self.ingest(name, PEOPLE[n % 3], ADDRESSES[n % 2], day * 24 + n, 1)
        for scope in holds:
            self.place(scope, None, True)

    def teardown(self) -> None:
        try:
            if self.oracle.rows:
                self.whole_service()
                self.replayed()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)

    # Rows.

    @rule(
        name=st.sampled_from(CLASSES),
        who=st.sampled_from(PEOPLE),
        where=st.sampled_from(ADDRESSES),
        back=st.integers(0, 45 * 24) | st.integers(31 * 24, 40 * 24),
        count=st.integers(1, 3),
    )
    def ingest(self, name: str, who: str, where: str, back: int, count: int) -> None:
        """Rows of now, or of up to 45 days ago: those are late. Addresses change hands."""
        at = max(0, self.world.now_us() - back * HOUR)
        for _ in range(count):
            self.number += 1
            values: dict[str, object] = {"subscriber": who, "address": pack(where)}
            if name == "session":
                values = {"subscriber": who, "slice_end_us": at + HOUR * (self.number % 2)}
            self._comes(row(name, self.number, at, **values))

    @precondition(lambda self: self.oracle.rows)
    @rule(data=st.data(), version=st.integers(1, 5))
    def comes_again(self, data: st.DataObject, version: int) -> None:
        """A row again as it was, or of a session as a later version."""
        old = self.oracle.rows[data.draw(st.sampled_from(sorted(self.oracle.rows)))]
        changed = {"observed_us": version} if old.record_class == "session" else {}
        if old.key not in self.present and not changed:
            return  # a resend of destroyed rows is refused by the ledger
        self._comes(Row(old.record_class, {**old.values, **changed}, old.clock_us))

    def _comes(self, each: Row) -> None:
        self.world.store.ingest(each)
        self.oracle.rows[each.key] = each
        self.present[each.key] = ""

    # Holds. The desk does not take them while the clock is wrong.

    good_clock = precondition(lambda self: self.world.context.guard.check().trusted)
    some_hold = precondition(lambda self: self.oracle.holds)
    healthy = precondition(lambda self: not (self.world.store.dead or self.world.store.full))

    @good_clock
    @rule(
        scope=SCOPES,
        days=st.none() | st.integers(1, 40),
        approved=st.booleans(),
    )
    def place(self, scope: Scope, days: int | None, approved: bool) -> None:
        world = self.world
        if self._unsettled() or len(self.oracle.holds) >= 6:
            return
        found = self._item(*scope)
        expires = None if days is None else world.now_us() + days * DAY_US
        hold = world.submit(found, expires_us=expires)
        self._told(hold, found)
        self.oracle.holds[hold.id] = Promise([found], world.now_us(), approved, expires)
        if approved:
            world.approve(hold.id)

    def _item(
        self, kind: Kind, which: int, back: int, hours: int, classes: frozenset[str]
    ) -> ScopeItem:
        start = max(0, self.world.now_us() - back * HOUR)
        if kind is Kind.ADDRESS and (names := tuple(sorted(classes - {"session"}))):
            value = f"{ADDRESSES[which % 2]}/32"
            return ScopeItem(kind, value, start, start + hours * HOUR, names)
        return ScopeItem(
            Kind.SUBSCRIBER, PEOPLE[which], start, start + hours * HOUR, tuple(sorted(classes))
        )

    def _told(self, hold: Hold, wanted: ScopeItem) -> None:
        """Invariant 6: what a purge destroyed before is told, with the purge."""
        register = self.world.register
        places = {register.purge(name).partition.place for name in hold.unavailable}  # type: ignore[union-attr]
        for key, each in self.oracle.rows.items():
            if key not in self.present and wants(wanted, each) and each.place in self._purged():
                assert each.place in places, "destroyed rows of a hold, and nobody said so"

    def _purged(self) -> set[Place]:
        done = (Step.DROPPED, Step.PENDING, Step.FINAL)
        purges = self.world.register.purges()
        return {p.partition.place for p in purges if p.step in done and p.destroyed}

    @good_clock
    @some_hold
    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        waiting = [n for n, hold in self.oracle.holds.items() if not hold.approved]
        if waiting and not self._unsettled():
            name = data.draw(st.sampled_from(waiting))
            self.world.approve(name)
            self.oracle.holds[name].approved = True

    @good_clock
    @some_hold
    @rule(data=st.data(), scope=SCOPES)
    def grow(self, data: st.DataObject, scope: Scope) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.holds)))
        if self._unsettled() or len(self.oracle.holds[name].items) > 3:
            return
        found = self._item(*scope)
        self._told(self.world.grow(name, found), found)
        self.oracle.holds[name].items.append(found)

    @good_clock
    @some_hold
    @rule(data=st.data(), days=st.integers(1, 30))
    def extend(self, data: st.DataObject, days: int) -> None:
        open_ = [n for n, h in self.oracle.holds.items() if h.approved and h.expires_us]
        if open_ and not self._unsettled():
            name = data.draw(st.sampled_from(open_))
            later = (self.oracle.holds[name].expires_us or 0) + days * DAY_US
            self.world.extend(name, later)
            self.oracle.holds[name].expires_us = later

    @good_clock
    @some_hold
    @rule(data=st.data())
    def ask_release(self, data: st.DataObject) -> None:
        asked = [n for n, h in self.oracle.holds.items() if h.approved and not h.release_us]
        if asked and not self._unsettled():
            name = data.draw(st.sampled_from(asked))
            self.world.ask_release(name)
            self.oracle.holds[name].release_us = self.world.now_us() + RELEASE_US

    def _tick(self) -> None:
        """What is due for holds: they lapse, expire and are released."""
        if self._unsettled() or not self.world.context.guard.check().trusted:
            return
        now_us = self.world.now_us()
        for name, hold in list(self.oracle.holds.items()):
            if now_us >= (hold.expires_us or NEVER):
                self.world.expire(name)
            elif not hold.approved and now_us >= hold.made_us + PROTECT_US:
                self.world.lapse(name)
            elif now_us >= (hold.release_us or NEVER):
                self.world.release(name)
            else:
                continue
            del self.oracle.holds[name]

    # Time, trouble, and what the service does.

    @rule(hours=TIMES)
    def time_passes(self, hours: int) -> None:
        if self.world.now_us() + hours * HOUR > self.served_us + OFTEN_US:
            self.whole_service()
        self.world.advance(hours * HOUR)
        self._tick()

    @precondition(lambda self: self.jumps < 2)
    @rule(off=st.sampled_from((-400, -25, -1, 9, 40, 400)))
    def clock_jumps(self, off: int) -> None:
        """Invariant 9. The clock is put right in the end, and somebody says that it is."""
        world = self.world
        self.jumps += 1
        world.context.guard.check()
        world.clock.off_us = off * DAY_US
        before, done = self._where(), len(world.destroyed)
        tried(world)
        assert (self._where(), len(world.destroyed)) == (before, done)
        world.clock.off_us = 0
        assert world.context.guard.check().trusted or world.context.guard.confirm("0" * 64).trusted

    def _where(self) -> dict[bytes, str]:
        return self.world.store.where()

    @healthy
    @rule()
    def purge(self) -> None:
        """Invariant 8: a run destroys the places that its plan says, and no row of others."""
        world = self.world
        world.purger.resumer.settle()
        plan = world.plan()
        before = self._where()
        run = world.purger.run(plan)
        assert not run.stopped
        assert [each.state for each in run.outcomes] == ["destroyed"] * len(plan.due)
        places = {each.place for each in plan.due}
        for key, where in before.items():
            if self.oracle.rows[key].place not in places:
                assert self._where()[key] == where

    @healthy
    @rule(cap=st.integers(1, 2))
    def purge_a_little(self, cap: int) -> None:
        self.world.run(cap=cap)

    @healthy
    @rule()
    def sweep(self) -> None:
        """As the service does: what a failure left half done is settled first."""
        self.world.advance(HOUR)
        assert self.world.purger.resumer.settle().clear
        self.world.purger.sweeper.run()

    @healthy
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Invariant 10: a backup brings a destroyed partition back, with all that was in it."""
        world = self.world
        assert world.purger.resumer.settle().clear
        places = sorted(self._dropped() - {each.place for each in world.store.partitions()})
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        back = [each for each in self.oracle.rows.values() if each.place == place]
        world.store.bring_back(back)
        there = self._where()
        self.present |= {each.key: there[each.key] for each in back}

    def _dropped(self) -> set[Place]:
        done = (Step.DROPPED, Step.PENDING, Step.FINAL)
        purges = self.world.register.purges()
        return {p.partition.place for p in purges if p.store == "live" and p.step in done}

    @healthy
    @rule()
    def evidence(self) -> None:
        assert self.world.verify().findings == ()

    @rule(hours=TIMES, point=POINTS, dead=st.booleans())
    def crashes(self, hours: int, point: Point, dead: bool) -> None:
        """The process is gone in the middle of its work, and comes back.

        dead: without its engine, so that people can act before all is settled.
        """
        self.time_passes(hours)
        self.world.faults.at_name(*point, crash)
        if tried(self.world) == "crash":
            self.world.store.dead = dead
            self.world.reboot()
        self.world.faults.disarm()

    @rule(hours=TIMES, point=POINTS, full=st.booleans(), lasts=st.booleans())
    def engine_fails(self, hours: int, point: Point, full: bool, lasts: bool) -> None:
        def act() -> None:
            setattr(self.world.store, "full" if full else "dead", True)

        self.time_passes(hours)
        self.world.faults.at_name(*point, act)
        tried(self.world)
        self.world.faults.disarm()
        if not lasts:
            self.mended()

    def mended(self) -> None:
        self.world.store.dead = self.world.store.full = False

    @rule()
    def whole_service(self) -> None:
        """With all in order: afterwards exactly those rows are there that should be (2)."""
        world = self.world
        self.mended()
        service(world)
        self._tick()
        world.advance(SETTLE_US + HOUR)
        self._tick()
        service(world)
        self.served_us = world.now_us()
        self.nothing_is_lost()
        now_us = self.served_us - SETTLE_US - HOUR
        there = self._where()
        for key, each in self.oracle.rows.items():
            if now_us >= until(each.place) + OPEN_US and not self.oracle.wanted(each):
                assert key not in there, "a row that nobody holds is still there"
        self.replayed()
        self.certified()

    def certified(self) -> None:
        """Every purge has come to its end."""
        purges = self.world.register.purges()
        assert all(each.step in (Step.FINAL, Step.FAILED) for each in purges)

    def replayed(self) -> None:
        # A place of which only late rows ever came is seen when its vault is rebuilt; the replay
        # has no word for it, and waits for the destruction of live rows that never were.
        live = {Place(e["class"], int(e["partition"])) for e in self._intents("live")}
        only = {Place(e["class"], int(e["partition"])) for e in self.world.leaves("late.swept")}
        words = [f"{name} {number} is past its period" for name, number in only - live]
        found = [each for each in self.world.findings() if not any(each.endswith(w) for w in words)]
        assert not found, found

    def _intents(self, store: str) -> list[Leaf]:
        return [each for each in self.world.leaves("purge.intent") if each["store"] == store]

    def _unsettled(self) -> bool:
        return bool(self.world.register.purges(step=Step.PRESERVED))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Invariants 1 to 4: what went since the last step could go."""
        there = self._where()
        now_us = self.world.now_us()
        best = {e.identity: e for e in newest(self.oracle.rows[key] for key in there)}
        for key in list(self.present):
            where, each = self.present[key], self.oracle.rows[key]
            if key in there:
                self.present[key] = there[key]
                continue
            newer = best.get(each.identity)
            if newer and newer.values["observed_us"] >= each.values["observed_us"]:
                continue  # a version of the row is there that stands for it
            assert not self.oracle.wanted(each), "a held row is gone"
            opens = until(each.place) + (0 if where == "late" else OPEN_US)
            assert now_us >= opens, "a row is gone before its period is over"
            del self.present[key]


def walk(machine: type[Machine], steps: int) -> None:
    """Take about so many steps, in walks of STEPS_EACH at most."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, steps // STEPS_EACH),
            stateful_step_count=min(steps, STEPS_EACH),
            # The same walks at every landing; long runs take new ones each time.
            derandomize=steps <= 10_000,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(0 if STEPS > 10_000 else 900)
def test_anything_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    walk(Machine, STEPS)


@pytest.mark.engine
@pytest.mark.timeout(0 if ENGINE_STEPS > 200 else 900)
def test_anything_in_any_order_on_a_real_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same machine over both engines. Late slots are whole at once there: the engine's clock
    is the real one, and nobody waits twenty minutes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(late, "SETTLE_S", -1800)

    class OnEngine(Machine):
        def store(self) -> EngineStore:
            engine.clear()
            return EngineStore(engine)

        def certified(self) -> None:
            """Parts leave the disk seconds after their drop, so that is waited for."""
            eventually(lambda: not self.world.purger.certificates.issue().waiting, 120)
            super().certified()

    walk(OnEngine, ENGINE_STEPS)
