"""Late rows: kept where holds match, dropped with their slot, whoever comes in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.store.errors import StoreError, Unavailable
from retention.destruction import sweep
from retention.destruction.context import SWEEP_KEY, Unsettled
from retention.destruction.sweep import Note
from retention.model import DAY_US, HeldRoot, Place, Step
from retention.vault.port import Selection
from tests.retention.destruction.scenes import visit
from tests.retention.destruction.world import HOUR, World, crash, item, policy
from tests.retention.model_vault import Crash

DAY = Place("visit", 20260101)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """Late rows 1 and 2 of a, 3 of b and 4 of c, of a day whose rows are destroyed; a is held."""
    world = World(folder / "world")
    world.store.ingest(visit(9, "c"))
    world.observe()
    world.open_for(0)
    world.run()
    world.hold(item("a"))
    world.store.ingest(visit(1, "a"), visit(2, "a"), visit(3, "b"), visit(4, "c"))
    yield world
    world.close()


def wait(world: World) -> None:
    world.advance(HOUR)


def test_a_slot_stays_while_rows_can_come_to_it(world: World) -> None:
    assert world.purger.sweeper.run().slots == 0
    assert len(world.there()) == 4


def test_held_rows_go_to_the_vault_and_the_others_go(world: World) -> None:
    wait(world)
    swept = world.purger.sweeper.run()
    assert (swept.slots, swept.preserved, swept.destroyed, swept.kept) == (1, 2, 2, ())
    assert world.there() == {visit(1, "a").key, visit(2, "a").key}
    (leaf,) = world.leaves("late.swept")
    assert (leaf["rows_before"], leaf["preserved"], leaf["destroyed"]) == (4, 2, 2)
    assert world.kinds().index("late.swept") == len(world.kinds()) - 1
    assert not world.register.notes(SWEEP_KEY)
    world.purger.certificates.issue()
    assert world.findings() == []


def test_rows_that_are_kept_elsewhere_are_not_kept_twice(world: World) -> None:
    wait(world)
    world.purger.sweeper.run()
    world.store.ingest(visit(1, "a"))
    wait(world)
    swept = world.purger.sweeper.run()
    assert (swept.preserved, swept.destroyed) == (0, 1)
    book = world.context.book(DAY)
    assert book is not None
    assert (book.rows, dict(book.held)) == (2, {world.register.holds()[0].id: 2})


def test_the_period_of_the_policy_in_force_counts(world: World) -> None:
    world.load(policy(90))
    wait(world)
    swept = world.purger.sweeper.run()
    assert swept.slots == 0
    assert "ends" in swept.kept[0][1]
    assert len(world.there()) == 4


def test_a_clock_that_is_not_believed_sweeps_nothing(world: World) -> None:
    wait(world)
    world.clock.off_us = 400 * DAY_US
    swept = world.purger.sweeper.run()
    assert "clock" in swept.kept[0][1]
    assert len(world.there()) == 4


def test_nothing_is_swept_while_a_purge_is_unsettled(world: World) -> None:
    wait(world)
    purge = world.register.purges()[0]
    object.__setattr__(purge, "step", Step.INTENT)
    world.register.write(purges=[purge])
    with pytest.raises(Unsettled):
        world.purger.sweeper.run()


class TestInterrupted:
    """The engine dies between the leaf and the slot's drop, and holds change before it is back."""

    def begun(self, world: World, method: str) -> None:
        wait(world)
        world.faults.at_name(method, "before", 0, lambda: setattr(world.store, "dead", True))
        with pytest.raises(StoreError):
            world.purger.sweeper.run()
        assert len(world.leaves("late.swept")) == 1

    def back(self, world: World) -> None:
        world.store.dead = False
        assert world.purger.resumer.settle().clear
        assert not world.store.late
        assert not world.register.notes(SWEEP_KEY)

    @pytest.mark.parametrize("method", ["preserve_late", "drop_slot"])
    def test_it_is_carried_on(self, world: World, method: str) -> None:
        self.begun(world, method)
        assert not world.purger.resumer.settle().clear
        self.back(world)
        assert len(world.leaves("late.swept")) == 1
        assert world.there() == {visit(1, "a").key, visit(2, "a").key}
        assert world.verify().findings == ()

    @pytest.mark.parametrize("method", ["preserve_late", "drop_slot"])
    def test_a_hold_placed_meanwhile_gets_rows_called_destroyed(
        self, world: World, method: str
    ) -> None:
        self.begun(world, method)
        world.hold(item("b"))
        self.back(world)
        counts = [(e["rows_before"], e["preserved"]) for e in world.leaves("late.swept")]
        assert counts == [(4, 2), (1, 1)]
        assert world.there() == {visit(1, "a").key, visit(2, "a").key, visit(3, "b").key}
        assert world.verify().findings == ()
        world.purger.certificates.issue()
        assert world.findings() == []

    @pytest.mark.parametrize("method", ["preserve_late", "drop_slot"])
    def test_rows_of_a_hold_that_ended_meanwhile_leave_by_the_vault(
        self, world: World, method: str
    ) -> None:
        hold = world.register.holds()[0]
        world.ask_release(hold.id)
        world.advance(7 * DAY_US)
        self.begun(world, method)
        world.release(hold.id)
        self.back(world)
        assert len(world.there()) == 2
        assert [each.store for each in world.run().outcomes] == ["vault"]
        assert not world.there()
        world.purger.certificates.issue()
        assert world.findings() == []

    def test_purges_and_evidence_wait_for_it(self, world: World) -> None:
        self.begun(world, "drop_slot")
        world.store.dead = False
        assert world.verify().counts == 0
        with pytest.raises(Unsettled):
            world.purger.sweeper.run()


def test_many_ids_are_noted_in_parts(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(sweep, "PART", 10)
    ids = bytes(range(48))
    last = Selection(DAY, 2, (HeldRoot("H1", 2, "aa"),), "dd", ids)
    texts = Note("visit", 7, ("20260101",), last).texts()
    assert len(texts) == 1 + 7
    found = {key: text for key, text in texts.items() if text is not None}
    assert Note.parse(found) == Note("visit", 7, ("20260101",), last)
    wait(world)
    world.faults.at_name("preserve_late", "before", 0, crash)
    with pytest.raises(Crash):
        world.purger.sweeper.run()
    assert len(world.register.notes(SWEEP_KEY)) > 2
    world.reboot()
    assert not world.register.notes(SWEEP_KEY)
    assert world.there() == {visit(1, "a").key, visit(2, "a").key}


def test_an_engine_that_fails_before_anything_leaves_nothing_behind(world: World) -> None:
    wait(world)
    world.store.dead = True
    with pytest.raises(Unavailable):
        world.purger.sweeper.run()
    assert not world.register.notes(SWEEP_KEY)


class TestRestore:
    """A backup brings back a partition that was destroyed."""

    @pytest.fixture
    def back(self, folder: Path) -> Iterator[World]:
        """Rows 1 of a, held then and now; 2 of b, held since; 3 of c, whom nobody holds."""
        world = World(folder / "world")
        world.store.ingest(visit(1, "a"), visit(2, "b"), visit(3, "c"))
        world.hold(item("a"))
        world.observe()
        world.open_for(0)
        assert [each.state for each in world.run().outcomes] == ["destroyed"]
        world.purger.certificates.issue()
        assert world.hold(item("b")).unavailable
        world.store.live[DAY] = [visit(1, "a"), visit(2, "b"), visit(3, "c")]
        yield world
        world.close()

    def test_what_a_hold_wants_now_is_kept_and_the_rest_goes_again(self, back: World) -> None:
        assert not back.plan().due
        swept = back.purger.sweeper.reconcile()
        assert (swept.slots, swept.preserved, swept.destroyed, swept.kept) == (1, 1, 2, ())
        assert not back.store.live
        assert back.there() == {visit(1, "a").key, visit(2, "b").key}
        found, told = back.leaves("restore.found", "late.swept")
        assert (found["rows"], found["purge"]) == (3, back.register.purges()[0].id)
        assert (told["rows_before"], told["preserved"], told["destroyed"]) == (3, 1, 2)
        assert back.purger.sweeper.reconcile().slots == 0
        assert back.verify().findings == ()
        assert back.findings() == []

    def test_nothing_goes_while_the_clock_is_wrong(self, back: World) -> None:
        back.clock.off_us = 40 * DAY_US
        assert back.purger.sweeper.reconcile().kept
        assert len(back.store.live[DAY]) == 3
        back.clock.off_us = 0
        assert back.purger.sweeper.reconcile().destroyed == 2
        assert back.findings() == []

    @pytest.mark.parametrize("method", ["preserve_late", "drop_slot"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_crash_is_carried_on(self, back: World, method: str, when: str) -> None:
        back.faults.at_name(method, when, 0, crash)
        with pytest.raises(Crash):
            back.purger.sweeper.reconcile()
        assert back.reboot().clear
        back.purger.sweeper.reconcile()
        assert back.there() == {visit(1, "a").key, visit(2, "b").key}
        assert not back.store.live
        assert back.verify().findings == ()
        assert back.findings() == []
