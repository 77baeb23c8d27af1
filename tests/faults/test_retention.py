"""Purges and holds on real engines: cut off anywhere, raced by a hold, and looked for on disk.

Only the clock, the policy and the staff are made up. Each attempt has a copy of one appliance's
folder and destroys a place of its own, so that many can use one engine, one after the other.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.store.client import Client
from retention.audit import canonical
from retention.audit.canonical import Leaf
from retention.audit.commit import CommitmentStore
from retention.destruction.plan import Plan
from retention.holds.desk import Actor, Desk, Draft
from retention.holds.scope import parse
from retention.model import DAY_US, Hold, Place, Purge, State, Step
from retention.policy.partitions import place_of
from retention.vault.engine import EngineVault
from retention.vault.folders import Outside
from retention.vault.tables import in_place
from safeguard.search import find
from tests.retention.destruction.world import HOUR, START, Clock, Faults, policy
from tests.retention.destruction.world import World as Appliance
from tests.retention.register import stepping
from tests.retention.vault.conftest import bundled_engine, debian_server, world
from tests.retention.vault.world import World as Engine
from tests.retention.vault.world import eventually, row

__all__ = ["bundled_engine", "debian_server", "world"]

pytestmark = pytest.mark.engine

CLASSES: Final = ("visit", "session", "binding", "call")
DAYS: Final = 6
"""As many as the attempts of a test need; all must be due at once, so there can be no 30."""
LAST: Final = {
    Step.DROPPED: "purge.dropped",
    Step.PENDING: "purge.certificate-pending",
    Step.FINAL: "purge.certificate-final",
    Step.FAILED: "purge.failed",
}
REQUESTER, APPROVER = Actor("ann", "legal-requester"), Actor("bob", "legal-approver")
NEVER_STOP: Final = 10**9


class Watched:
    """A vault whose every call is a point before and a point after."""

    def __init__(self, vault: EngineVault, point: Callable[[str, str], None]) -> None:
        self._vault, self._point = vault, point

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._vault, name)

        def call(*given: Any, **named: Any) -> Any:
            self._point(name, "before")
            found = inner(*given, **named)
            self._point(name, "after")
            return found

        return call


class Bench(Appliance):
    """The appliance of the destruction tests, on an engine; with a desk."""

    store: Any

    def __init__(self, folder: Path, engine: Engine, at_us: int = START) -> None:
        self.folder, self.rules = folder, policy()
        self.clock, self.faults = Clock(at_us), Faults()
        # Connections of its own: a forked child must not speak on its parent's.
        self.client = Client(engine.store.keeper.endpoint)
        vault = EngineVault([[self.client]], outside=Outside(data=(engine.root,)))
        self.store = self._vault = Watched(vault, self.faults.point)
        self.boot()

    def boot(self) -> None:
        super().boot()
        kept = CommitmentStore(self.folder / "commitments", self.folder / "commitments.key")
        self.context = replace(self.context, person=kept.person)
        self.desk = Desk(self.register, kept, self.store)

    def close(self) -> None:
        super().close()
        self.client.close()

    def leaves(self, *kinds: str) -> list[Leaf]:
        every = [canonical.decode(self.log.entry(index)) for index in range(self.log.size)]
        return [each for each in every if not kinds or each["kind"] in kinds]

    def submit_for(self, subscriber: str) -> Hold:
        """The same hold, however often it is asked for."""
        item = parse("subscriber", subscriber, START, START + 60 * DAY_US)
        draft = Draft("m", "court-order", "c", "r", START, (item,), expires_us=START + 300 * DAY_US)
        return self.desk.place(REQUESTER, draft, f"request-{subscriber}")

    def approved(self, hold: Hold) -> Hold:
        waits = hold.state is State.AWAITING_APPROVAL
        return self.desk.approve(APPROVER, hold.id) if waits else hold

    def only(self, place: Place) -> Plan:
        """The plan, with one live place in it."""
        made = self.purger.plan()
        mine = tuple(e for e in made.decisions if (e.place, e.store) == (place, "live"))
        assert len(mine) == 1
        return replace(made, decisions=mine)

    def destroy(self, plan: Plan) -> None:
        self.purger.run(plan)
        self.purger.certificates.issue()

    def purge_of(self, place: Place) -> Purge | None:
        """The latest purge of a place."""
        found = [e for e in self.register.purges() if e.partition.place == place]
        return max(found, key=lambda each: each.id, default=None)

    def agrees(self) -> None:
        """Register and log say the same of every purge, and an outsider has nothing against it."""
        assert self.register.is_settled
        told: dict[str, str] = {}
        for leaf in self.leaves():
            if "purge" in leaf:
                told[str(leaf["purge"])] = str(leaf["kind"])
        assert told == {each.id: LAST[each.step] for each in self.register.purges()}
        submitted = [str(leaf["hold"]) for leaf in self.leaves("hold.submitted")]
        assert sorted(submitted) == sorted(each.id for each in self.register.holds())
        assert self.findings() == []


@dataclass
class Scene:
    """Many places that are due, a hold on "ann", and the folder of an appliance that knows them."""

    engine: Engine
    folder: Path
    at_us: int = 0
    rows: dict[tuple[Place, str], set[bytes]] = field(default_factory=dict)
    """Ids of the rows of each subscriber, by place."""
    free: Iterator[Place] = field(default_factory=lambda: iter(()))
    open: list[tuple[Bench, Place]] = field(default_factory=list)

    def fill(self) -> None:
        """Rows of three subscribers in every place; sessions have an old version of each too."""
        for name in CLASSES:
            made = list[dict[str, Any]]()
            for day, who in itertools.product(range(DAYS), ("ann", "ann", "bob", "eve", "eve")):
                one = shaped(name, START + day * DAY_US + 12 * HOUR, subscriber=who)
                made.append(one)
                if name == "session":
                    made.append(one | {"observed_us": one["observed_us"] - 1})
                at = place_of(name, START + day * DAY_US)
                self.rows.setdefault((at, who), set()).add(one["record_id"])
            self.engine.put(name, made)
        days = [START + day * DAY_US for day in range(DAYS)]
        self.free = iter([place_of(name, at) for at in days for name in CLASSES])
        bench = Bench(self.folder / "scene", self.engine)
        bench.load(bench.rules)
        bench.approved(bench.submit_for("ann"))
        bench.open_for(DAYS - 1)
        self.at_us = bench.now_us()
        bench.close()

    def copy(self) -> tuple[Path, Place]:
        """The folder of a new attempt, and the place that is its own."""
        place = next(self.free)
        folder = self.folder / f"{place.record_class}-{place.name}"
        shutil.copytree(self.folder / "scene", folder)
        return folder, place

    def start(self, folder: Path) -> Bench:
        return Bench(folder, self.engine, self.at_us)

    def resumed(self, folder: Path) -> Bench:
        """A new process on the folder of one that was killed."""
        bench = self.start(folder)
        settled = bench.purger.resumer.start()
        if not settled.clear:  # the engine may still be at what the dead one asked for
            eventually(lambda: bench.purger.resumer.settle().clear)
        assert not settled.findings
        return bench

    def ids(self, place: Place, table: str) -> list[bytes]:
        """Of all rows in a table, each version of each; sorted."""
        sql = f"SELECT record_id FROM {table} WHERE {in_place(place)}"
        return sorted(self.engine.store.keeper.query_columns(sql)["record_id"])

    def share(self, total: int, count: int) -> list[int]:
        """So many numbers below `total`, evenly; the engines have different ones."""
        offset = 0.25 if self.engine.store.name == "bundled" else 0.75
        return [int((at + offset) * total / count) for at in range(count)]

    def live(self, place: Place) -> list[bytes]:
        return self.ids(place, place.record_class)

    def kept(self, place: Place) -> list[bytes]:
        return self.ids(place, f"tallyhold_vault.vault_{place.record_class}")

    def of(self, place: Place, *who: str) -> list[bytes]:
        return sorted(set[bytes]().union(*(self.rows[place, each] for each in who)))

    def whole(self, place: Place) -> bool:
        return sorted(set(self.live(place))) == self.of(place, "ann", "bob", "eve")

    def ended(self, bench: Bench, place: Place, *held: str) -> Purge:
        """See that a place came to its end: destroyed, or whole and then destroyed by a new run."""
        found = bench.purge_of(place)
        bench.agrees()
        if found is None or found.step is Step.FAILED:
            assert self.whole(place)
            bench.destroy(bench.only(place))
            found = bench.purge_of(place)
        assert found is not None and found.step in (Step.PENDING, Step.FINAL)
        assert self.live(place) == []
        assert self.kept(place) == self.of(place, *held)
        assert found.preserved == len(self.of(place, *held))
        self.open.append((bench, place))
        return found

    def finish(self) -> None:
        """Every certificate becomes final, and all logs are good."""
        for bench, place in self.open:
            eventually(lambda b=bench, p=place: _is_final(b, p))
            bench.agrees()
            bench.close()
        self.open.clear()


def _is_final(bench: Bench, place: Place) -> bool:
    bench.purger.certificates.issue()
    found = bench.purge_of(place)
    return found is not None and found.step is Step.FINAL


def shaped(record_class: str, at_us: int, **given: Any) -> dict[str, Any]:
    """A row of five minutes from `at_us`."""
    one = row(record_class, **given)
    moved = at_us - one["observed_us"]
    times = {
        name: value + moved
        for name, value in one.items()
        if name.endswith("_us") and isinstance(value, int) and value > START // 2
    }
    return one | times


@pytest.fixture
def scene(world: Engine) -> Iterator[Scene]:
    """In memory: a killed process loses nothing that the kernel has, so no disk is waited for."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    made = Scene(world, folder)
    made.fill()
    yield made
    for bench, _ in made.open:
        bench.close()
    shutil.rmtree(folder)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed(act: Callable[[], None]) -> bool:
    """Run in a forked child; whether SIGKILL ended it. It may do nothing else but succeed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return False


def points(scene: Scene, act: Callable[[Bench, Place], None], *held: str) -> tuple[int, float]:
    """Points that an undisturbed act passes, and the seconds that it takes."""
    folder, place = scene.copy()
    bench = scene.start(folder)
    bench.faults.seen.clear()
    started = time.monotonic()
    act(bench, place)
    passed = len(bench.faults.seen), time.monotonic() - started
    scene.ended(bench, place, *held)
    return passed


def purging(bench: Bench, place: Place) -> None:
    bench.destroy(bench.only(place))


def placing(bench: Bench, place: Place) -> None:
    bench.approved(bench.submit_for("bob"))


def test_a_purge_that_is_killed_at_any_call_is_resumed(scene: Scene) -> None:
    """Before and after calls of the store, writes of the register and appends to the log; and at
    any time, while the engine works."""
    total, whole_s = points(scene, purging, "ann")
    assert total > 40
    for at in scene.share(total, 12):
        folder, place = scene.copy()

        def child(folder: Path = folder, place: Place = place, at: int = at) -> None:
            bench = scene.start(folder)
            bench.faults.arm(at, die)
            purging(bench, place)

        assert is_killed(child), at
        scene.ended(scene.resumed(folder), place, "ann")
    for delay_s in (whole_s * at / 4 for at in (1, 2, 3)):
        folder, place = scene.copy()

        def late(folder: Path = folder, place: Place = place, delay_s: float = delay_s) -> None:
            bench = scene.start(folder)
            threading.Timer(delay_s, die).start()
            purging(bench, place)
            time.sleep(30)

        assert is_killed(late)
        scene.ended(scene.resumed(folder), place, "ann")
    scene.finish()


def test_a_purge_that_is_killed_at_any_write_to_the_disk_is_resumed(scene: Scene) -> None:
    """Before system calls that write, from the start of the process on."""

    def stopped(at: int) -> bool:
        folder, place = scene.copy()
        ran = stepping.run(lambda say: purging(scene.start(folder), place), at)
        calls.append(ran.calls)
        scene.ended(scene.resumed(folder), place, "ann")
        return ran.killed

    calls = list[int]()
    assert not stopped(NEVER_STOP)
    assert calls[0] > 100
    # The last calls of all may differ by a few from class to class.
    killed = [stopped(at) for at in scene.share(calls[0] - 8, 9)]
    assert all(killed)
    scene.finish()


def test_a_hold_whose_placement_is_killed_is_placed_or_not(scene: Scene) -> None:
    """What was answered is kept; asked again it is the same hold; and it holds."""

    def placed(folder: Path, place: Place, said: list[str]) -> None:
        bench = scene.resumed(folder)
        holds = {each.id for each in bench.register.holds()}
        assert len(holds) <= 2
        assert holds.issuperset(said)
        bench.agrees()
        hold = bench.approved(bench.submit_for("bob"))
        assert {each.id for each in bench.register.holds()} == holds | {hold.id}
        assert len(bench.register.holds()) == 2
        assert hold.state is State.PRESERVED
        bench.destroy(bench.only(place))
        scene.ended(bench, place, "ann", "bob")

    def stopped(at: int) -> tuple[bool, int]:
        folder, place = scene.copy()

        def act(say: Callable[[str], None]) -> None:
            bench = scene.start(folder)
            hold = bench.submit_for("bob")
            say(hold.id)
            bench.approved(hold)

        ran = stepping.run(act, at)
        placed(folder, place, ran.said)
        return ran.killed, ran.calls

    def undisturbed(bench: Bench, place: Place) -> None:
        placing(bench, place)
        totals.append(len(bench.faults.seen))
        purging(bench, place)

    totals = list[int]()
    points(scene, undisturbed, "ann", "bob")
    for at in scene.share(totals[0], 4):
        folder, place = scene.copy()

        def child(folder: Path = folder, place: Place = place, at: int = at) -> None:
            bench = scene.start(folder)
            bench.faults.arm(at, die)
            placing(bench, place)

        assert is_killed(child), at
        placed(folder, place, [])
    killed, calls = stopped(NEVER_STOP)
    assert not killed
    assert all(stopped(at)[0] for at in scene.share(calls, 6))
    scene.finish()


def raced(scene: Scene, start: Callable[[Bench, Callable[[], None]], None]) -> str:
    """A purge in one thread, and a hold on "bob" that comes when `start` says; what came of it."""
    folder, place = scene.copy()
    bench = scene.start(folder)
    holds, errors = list[Hold](), list[BaseException]()

    def guarded(act: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                act()
            except BaseException as error:
                errors.append(error)

        return threading.Thread(target=run)

    def submit() -> None:
        assert now.wait(60)
        holds.append(bench.submit_for("bob"))

    now = threading.Event()
    submitting, purge = guarded(submit), guarded(lambda: purging(bench, place))
    submitting.start()
    start(bench, now.set)
    purge.start()
    purge.join(60)
    now.set()  # where the purge was over before the instant that was chosen
    submitting.join(60)
    assert not errors, errors
    hold = bench.approved(holds[0])
    found = bench.purge_of(place)
    assert found is not None
    if hold.state is State.PRESERVATION_NOT_AVAILABLE:
        assert hold.unavailable == (found.id,)
        assert bench.purger.certificates.read(found.id)
        scene.ended(bench, place, "ann")
        return "too late"
    assert hold.state is State.PRESERVED
    assert hold.unavailable == ()
    scene.ended(bench, place, "ann", "bob")
    return "honoured"


def test_a_hold_at_any_instant_is_honoured_or_told_that_it_is_too_late(scene: Scene) -> None:
    total, whole_s = points(scene, purging, "ann")
    outcomes = list[str]()

    def at_point(number: int) -> Callable[[Bench, Callable[[], None]], None]:
        def start(bench: Bench, submit: Callable[[], None]) -> None:
            def act() -> None:
                submit()
                time.sleep(0.02)  # so that it waits for the lock, or has it, when the purge goes on

            bench.faults.arm(number, act)

        return start

    def after(delay_s: float) -> Callable[[Bench, Callable[[], None]], None]:
        return lambda bench, submit: threading.Timer(delay_s, submit).start()

    for number in (0, 1, 2, 3, *scene.share(total, 8)):  # the first look at the plan
        outcomes.append(raced(scene, at_point(number)))
    chance = random.Random(5)
    for _ in range(4):
        outcomes.append(raced(scene, after(chance.uniform(0, whole_s))))
    assert {*outcomes} == {"honoured", "too late"}
    scene.finish()


def test_the_files_of_the_engine_forget_who_was_destroyed_and_know_who_is_held(
    world: Engine, tmp_path: Path
) -> None:
    """Looked for in every file, in column files under their compression."""
    gone, held = b"sub-gone-7c1f9a", b"sub-held-e02d4b"
    at, tables = START + 12 * HOUR, ("visit", "session")
    bench = Bench(tmp_path / "bench", world)
    bench.load(bench.rules)
    bench.approved(bench.submit_for(held.decode()))
    for name in tables:
        made = [shaped(name, at, subscriber=who.decode()) for who in (gone, held) * 20]
        world.put(name, made[:30])
        world.put(name, made[30:])
    bench.open_for(0)
    places = [world.root.parent, bench.folder]
    lives = {name: world.folder_of(f"tallyhold.{name}") for name in tables}
    vaults = {name: world.folder_of(f"tallyhold_vault.vault_{name}") for name in tables}
    before = find(places, [gone, held])
    for name in tables:  # else it would not be found afterwards either
        assert any(lives[name] in path.parents for path in before[gone])
        assert any(lives[name] in path.parents for path in before[held])
    for name in tables:
        bench.destroy(bench.only(place_of(name, at)))
    eventually(lambda: not find(places, [gone])[gone], 60)
    eventually(lambda: all(_is_final(bench, place_of(name, at)) for name in tables))
    after = find(places, [gone, held])
    assert after[gone] == []
    for name in tables:
        assert any(vaults[name] in path.parents for path in after[held])
        assert not any(lives[name] in path.parents for path in after[held])
    bench.agrees()
    bench.close()
