"""A clock 400 days back while a purge has no outcome yet: people are told Busy, all else goes on.

What was dropped just before the process was gone is only known to be so once the clock is
believed; until then no hold changes. The state machine may draw such a jump; here it is certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retention.holds.rules import Ending
from retention.holds.scope import parse
from retention.model import DAY_US, NEVER, Hold, Step
from retention.register.store import Underway
from tests.retention.destruction.scenes import tried, visit
from tests.retention.destruction.world import START, crash
from tests.retention.holds.made import ANN, BOB
from tests.retention.holds.test_desk import Office
from tests.retention.model_vault import Crash

HOUR = DAY_US // 24
S = 1_000_000


class Scene:
    """A purge that is cut off at its drop, and three holds: two that grow, one that soon ends."""

    def __init__(self, folder: Path) -> None:
        self.office = office = Office(folder)
        self.world = world = office.world
        world.store.ingest(visit(1, "a"), visit(2, "b"), visit(3, "b"))
        self.growing = [self.held(expires_us=START + 300 * DAY_US) for _ in range(2)]
        world.observe()
        world.open_for(0)
        self.brief = self.held(expires_us=world.now_us() + HOUR)

    def held(self, expires_us: int) -> Hold:
        return self.office.in_force(parse("subscriber", "a", START, NEVER), expires_us=expires_us)

    def cut(self, when: str) -> None:
        """Lose the process there, and have it again; nothing is settled yet."""
        world = self.world
        world.faults.at_name("drop", when, 0, crash)
        with pytest.raises(Crash):
            world.run()
        world.faults.disarm()
        world.close()
        world.boot()
        world.context.guard.check()
        self.office.desk = self.office._desk()

    def clock(self, off_us: int) -> None:
        self.world.clock.off_us = off_us
        self.office.trusted = self.world.context.guard.check().trusted

    def people_are_told(self) -> None:
        desk = self.office.desk
        with pytest.raises(Underway):
            self.office.place(served_us=0)
        with pytest.raises(Underway):
            desk.extend(ANN, self.growing[0].id, START + 900 * DAY_US)
        with pytest.raises(Underway):
            desk.release(ANN, self.growing[0].id, "closed")


@pytest.fixture
def scene(folder: Path) -> Iterator[Scene]:
    scene = Scene(folder)
    yield scene
    scene.office.check()
    scene.world.close()


def test_while_the_clock_is_400_days_back(scene: Scene) -> None:
    scene.cut("after")
    scene.office.bind("a", "192.0.2.7", START + DAY_US, START + 2 * DAY_US)
    scene.clock(-400 * DAY_US)
    settled = scene.world.purger.resumer.settle()
    assert "clock" in settled.waiting[0]
    destroyed = len(scene.world.destroyed)
    tried(scene.world)
    scene.people_are_told()
    ticked = scene.office.desk.tick()
    assert ticked.problems == {each.id: "busy" for each in (*scene.growing, scene.brief)}
    assert (ticked.ended, ticked.grown) == ({}, {})
    assert len(scene.world.destroyed) == destroyed

    scene.clock(0)
    if not scene.office.trusted:  # this run saw the clock jump
        assert scene.world.context.guard.confirm("0" * 64).trusted
        scene.office.trusted = True
    assert scene.world.purger.resumer.settle().clear
    scene.world.advance(2 * HOUR)
    ticked = scene.office.desk.tick()
    assert ticked.ended == {scene.brief.id: Ending.EXPIRE}
    assert ticked.grown.keys() == {each.id for each in scene.growing}
    assert scene.office.desk.approve(BOB, scene.office.place().id).protects
    assert visit(1, "a").key in scene.world.there()


def test_a_hold_placed_while_the_clock_is_back_has_its_72_hours(scene: Scene) -> None:
    """They count from the latest time that was believed, not from that of the clock."""
    world, desk = scene.world, scene.office.desk
    believed = world.now_us()
    scene.clock(-400 * DAY_US)
    hold = scene.office.place(served_us=0)
    assert believed - 2 * S <= hold.requested.at_us <= believed
    scene.clock(0)
    assert world.context.guard.confirm("0" * 64).trusted
    scene.office.trusted = True
    for hours in range(0, 72, 9):
        assert desk.tick().ended.get(hold.id) is None, hours
        assert desk.hold(hold.id).protects
        assert scene.world.findings() == []
        world.advance(9 * HOUR)
    assert desk.tick().ended[hold.id] is Ending.LAPSE


def test_what_is_whole_is_let_go_and_nobody_waits(scene: Scene) -> None:
    scene.cut("before")
    scene.clock(-400 * DAY_US)
    assert scene.world.purger.resumer.settle().clear
    assert [each.step for each in scene.world.register.purges()] == [Step.FAILED]
    assert scene.office.place(served_us=0).protects
    assert scene.office.desk.tick().problems == {}
    assert {visit(n, who).key for n, who in ((1, "a"), (2, "b"))} <= scene.world.there()


def test_an_end_that_is_due_waits_while_the_engine_is_dead(scene: Scene) -> None:
    scene.cut("after")
    scene.world.store.dead = True
    scene.world.advance(2 * HOUR)
    assert not scene.world.purger.resumer.settle().clear
    assert scene.office.desk.tick().problems[scene.brief.id] == "busy"
    assert scene.office.desk.hold(scene.brief.id).protects
    scene.world.store.dead = False
    assert scene.world.purger.resumer.settle().clear
    assert scene.office.desk.tick().ended == {scene.brief.id: Ending.EXPIRE}
