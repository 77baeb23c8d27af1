"""What the nightly count finds, and what it tells the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from retention.destruction.context import salts
from retention.destruction.evidence import key, parse
from retention.model import DAY_US, Place
from tests.retention.destruction.scenes import session, visit
from tests.retention.destruction.world import HOUR, World, item
from tests.retention.model_vault import Row

DAY = Place("visit", 20260101)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """Two rows of a, held, one of b; the day is closed for writing and not yet destroyed."""
    world = World(folder / "world")
    world.store.ingest(visit(1, "a"), visit(2, "a"), visit(3, "b"))
    world.hold(item("a"))
    world.observe()
    world.advance(30 * DAY_US)
    world.observe()
    yield world
    world.close()


def codes(world: World) -> list[str]:
    return [each.code for each in world.verify().findings]


def test_open_places_are_not_counted(world: World) -> None:
    world.store.ingest(visit(7, "a", 20))
    checked = world.verify()
    assert checked.counts == 0, "closed a moment ago: inserts may be under way"
    world.advance(HOUR)
    assert world.verify().counts == 1


def test_rows_are_told_each_night_and_nothing_else_is(world: World) -> None:
    world.hold(item("nobody"))
    world.advance(HOUR)
    for night in range(3):
        assert world.verify().findings == ()
        told = world.leaves("hold.evidence")
        assert sum(each["rows"] > 0 for each in told) == night + 1
        assert sum(each["rows"] == 0 for each in told) == 1
    assert world.findings() == []


@pytest.mark.parametrize("store", ["live", "vault"])
def test_a_row_that_is_gone_is_found_and_told(world: World, store: str) -> None:
    world.advance(2 * DAY_US)
    if store == "vault":
        world.run()
    assert codes(world) == []
    getattr(world.store, store)[DAY].pop(0)
    found = codes(world)
    assert "held-missing" in found
    assert ("vault-rows" in found) == (store == "vault")
    assert any("held-destroyed" in each for each in world.findings()), "an outsider sees it too"


@pytest.mark.parametrize("store", ["live", "vault"])
def test_a_row_that_is_another_is_found(world: World, store: str) -> None:
    world.advance(2 * DAY_US)
    if store == "vault":
        world.run()
    assert codes(world) == []
    rows: list[Row] = getattr(world.store, store)[DAY]
    old = next(each for each in rows if each.values["subscriber"] == "a")
    rows.remove(old)
    rows.append(Row("visit", {**old.values, "up_bytes": 1}, old.clock_us))
    assert codes(world) == ["held-changed"]
    assert any("held-changed" in each for each in world.findings())


def test_rows_in_the_vault_that_nobody_put_there_are_found(world: World) -> None:
    world.advance(2 * DAY_US)
    world.run()
    world.store.vault[DAY].append(visit(9, "c"))
    assert codes(world) == ["vault-rows"]


def test_a_vault_that_is_gone_as_a_whole_is_found(world: World) -> None:
    world.advance(2 * DAY_US)
    world.run()
    assert codes(world) == []
    world.store.vault.clear()
    assert codes(world) == ["held-missing"]


def test_counts_grow_with_the_scope_without_a_finding(world: World) -> None:
    world.advance(HOUR)
    assert codes(world) == []
    world.grow(world.register.holds()[0].id, item("b"))
    assert codes(world) == []
    counted = parse(world.register.note(key(DAY)))
    assert [each.rows for each in counted.values()] == [3]


def test_a_later_version_that_came_late_is_no_finding(folder: Path) -> None:
    world = World(folder / "world")
    world.store.ingest(session(1, "a", 1))
    world.hold(item("a"))
    world.observe()
    world.advance(30 * DAY_US)
    world.observe()
    world.advance(HOUR)
    assert codes(world) == []
    world.store.ingest(session(1, "a", 2))
    world.advance(HOUR)
    assert world.purger.sweeper.run().preserved == 1
    assert codes(world) == []
    world.advance(DAY_US)
    assert [each.state for each in world.run().outcomes] == ["destroyed"]
    assert codes(world) == []
    assert session(1, "a", 2).key in world.there()
    world.purger.certificates.issue()
    assert world.findings() == []
    world.close()


def test_it_stops_when_asked_to(world: World) -> None:
    world.advance(HOUR)
    assert world.verifier.run(lambda: True).places == 0


def test_salts_differ_by_hold_place_and_secret() -> None:
    salt = salts(b"x" * 32)
    made = {
        salt("H1", DAY),
        salt("H2", DAY),
        salt("", DAY),
        salt("H1", replace_number(DAY)),
        salts(b"y" * 32)("H1", DAY),
    }
    assert len(made) == 5
    assert salt("H1", DAY) == salts(b"x" * 32)("H1", DAY)


def replace_number(place: Place) -> Place:
    return place._replace(number=place.number + 1)


def test_a_changed_root_is_no_change_of_rows(world: World) -> None:
    """The finding is about rows, not about the order in which the store gives them."""
    world.advance(HOUR)
    assert codes(world) == []
    world.store.live[DAY].reverse()
    assert codes(world) == []
    assert replace(world.verify(), places=0, counts=0).findings == ()
