"""Every state in which a purge can be found, and what it is settled to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retention.destruction.resume import LOST
from retention.model import DAY_US, Place, Purge, Step
from tests.retention.destruction.scenes import visit
from tests.retention.destruction.world import World, crash, item
from tests.retention.model_vault import Crash

DAY = Place("visit", 20260101)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """A place of which one row of three is held, open for destruction."""
    world = World(folder / "world")
    world.store.ingest(visit(1, "a"), visit(2, "b"), visit(3, "b"))
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    yield world
    world.close()


def cut(world: World, method: str, when: str, nth: int = 0) -> None:
    """Run, and lose the process at this call; then have it again, nothing settled yet."""
    world.faults.at_name(method, when, nth, crash)
    with pytest.raises(Crash):
        world.run()
    world.faults.disarm()
    world.close()
    world.boot()


def only(world: World) -> Purge:
    (purge,) = world.register.purges()
    return purge


def test_before_anything_was_preserved_it_has_failed(world: World) -> None:
    cut(world, "preserve", "after")
    settled = world.purger.resumer.settle()
    assert [each.step for each in settled.ended] == [Step.FAILED]
    assert (only(world).reason, settled.clear) == ("interrupted", True)
    assert len(world.store.live[DAY]) == 3
    run = world.run()
    assert [each.purge.id for each in run.destroyed if each.purge] == ["P-2026-000002"]
    world.purger.certificates.issue()
    assert world.findings() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_whole_or_gone_it_is_dropped(world: World, when: str) -> None:
    cut(world, "drop", when)
    assert (DAY in world.store.live) == (when == "before")
    settled = world.purger.resumer.settle()
    assert [each.step for each in settled.ended] == [Step.DROPPED]
    assert world.there() == {visit(1, "a").key}
    assert (only(world).preserved, only(world).destroyed) == (1, 2)
    world.purger.certificates.issue()
    assert world.findings() == []


def test_a_part_that_was_left_is_dropped_too(world: World) -> None:
    cut(world, "drop", "before")
    world.store.live[DAY].pop()  # one of two shards answered
    assert world.purger.resumer.settle().clear
    assert world.there() == {visit(1, "a").key}
    world.purger.certificates.issue()
    assert world.findings() == []


def test_a_vault_that_lacks_rows_is_filled_again_while_the_live_ones_are_whole(
    world: World,
) -> None:
    cut(world, "drop", "before")
    world.store.vault.clear()
    assert world.purger.resumer.settle().clear
    assert world.there() == {visit(1, "a").key}
    assert only(world).step is Step.DROPPED


def test_rows_that_are_nowhere_any_more_are_an_alarm_and_stop_everything(world: World) -> None:
    cut(world, "drop", "after")
    world.store.vault.clear()
    for _ in range(2):
        settled = world.purger.resumer.settle()
        assert [each.code for each in settled.findings] == [LOST]
        assert not settled.clear
    assert only(world).step is Step.PRESERVED, "nothing is claimed that is not so"
    assert world.run().stopped.startswith("not settled")


def test_a_bad_clock_does_not_drop_but_what_is_whole_is_let_go(world: World) -> None:
    cut(world, "drop", "before")
    world.clock.off_us = 300 * DAY_US
    settled = world.purger.resumer.settle()
    assert [each.step for each in settled.ended] == [Step.FAILED]
    assert len(world.store.live[DAY]) == 3
    world.clock.off_us = 0
    assert world.context.guard.check().trusted
    assert world.run().destroyed
    world.purger.certificates.issue()
    assert world.findings() == []


def test_a_bad_clock_waits_with_what_may_be_gone(world: World) -> None:
    cut(world, "drop", "after")
    world.clock.off_us = 300 * DAY_US
    settled = world.purger.resumer.settle()
    assert "clock" in settled.waiting[0]
    world.clock.off_us = 0
    assert world.purger.resumer.settle().clear
    world.purger.certificates.issue()
    assert world.findings() == []


class TestVault:
    """A purge of the vault that was cut off."""

    @pytest.fixture
    def rebuilding(self, world: World) -> World:
        """Two rows in the vault, one of a hold that has ended."""
        other = world.hold(item("b"))
        world.run()
        world.released(other.id)
        assert len(world.there()) == 3
        return world

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_it_is_rebuilt_again(self, rebuilding: World, when: str) -> None:
        world = rebuilding
        cut(world, "rebuild", when)
        settled = world.purger.resumer.settle()
        assert [(each.store, each.step) for each in settled.ended] == [("vault", Step.DROPPED)]
        assert world.there() == {visit(1, "a").key}
        book = world.context.book(DAY)
        assert book is not None
        assert book.rows == 1
        world.purger.certificates.issue()
        assert world.findings() == []

    def test_held_rows_that_are_gone_are_an_alarm(self, rebuilding: World) -> None:
        world = rebuilding
        cut(world, "rebuild", "before")
        world.store.vault.clear()
        assert [each.code for each in world.purger.resumer.settle().findings] == [LOST]

    def test_a_vault_with_other_rows_than_the_log_knows_is_left_alone(
        self, rebuilding: World
    ) -> None:
        world = rebuilding
        world.store.vault[DAY].append(visit(9, "c"))
        assert [each.state for each in world.run().outcomes] == ["failed"]
        assert world.register.purges()[-1].reason == "vault-rows"


def test_a_dead_engine_leaves_it_as_it_is(world: World) -> None:
    cut(world, "drop", "after")
    world.store.dead = True
    settled = world.purger.resumer.settle()
    assert not settled.clear
    assert not settled.ended
    world.store.dead = False
    assert world.purger.resumer.settle().clear


def test_nothing_to_settle_is_clear(world: World) -> None:
    settled = world.purger.resumer.start()
    assert settled.clear
    assert settled == type(settled)()
