"""The same purger over real engines: what the model stands for is so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.wire.addr import pack
from retention.model import DAY_US, Place, Step
from retention.vault import late
from tests.retention.destruction.world import HOUR, START, World, item
from tests.retention.model_vault import Crash, Row, row
from tests.retention.vault.conftest import bundled_engine, debian_server
from tests.retention.vault.conftest import world as engine
from tests.retention.vault.world import World as Engine
from tests.retention.vault.world import eventually

__all__ = ["bundled_engine", "debian_server", "engine"]

pytestmark = pytest.mark.engine
DAY = Place("visit", 20260101)


class Rows:
    """Rows of the model, put into the engine's tables."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, *rows: Row, late: bool = False) -> None:
        for each in rows:
            table = f"late_{each.record_class}" if late else each.record_class
            self._engine.put(each.record_class, [each.values], table)

    def there(self, name: str = "visit") -> dict[str, int]:
        """Rows by table."""
        keeper, tables = self._engine.store.keeper, (name, f"late_{name}", f"vault_{name}")
        found = {}
        for table in tables:
            full = f"tallyhold_vault.{table}" if table.startswith("vault") else table
            found[table] = int(keeper.query_columns(f"SELECT count() AS n FROM {full}")["n"][0])
        return found


def a_visit(number: int, who: str) -> Row:
    address = pack(f"192.0.2.{number}")
    return row("visit", number, START + number, subscriber=who, address=address, host="h.example")


@pytest.fixture
def world(folder: Path, engine: Engine) -> Iterator[World]:
    world = World(folder / "world", vault=engine.vault)
    yield world
    world.close()


def test_live_rows_then_the_vault_s_go_and_are_certified(world: World, engine: Engine) -> None:
    rows = Rows(engine)
    rows.put(a_visit(1, "a"), a_visit(2, "b"), a_visit(3, "b"), a_visit(4, "c"))
    one, two = world.hold(item("a")), world.hold(item("a"), item("b"))
    world.observe()
    world.open_for(0)
    run = world.run()
    assert [(each.store, each.state) for each in run.outcomes] == [("live", "destroyed")]
    assert rows.there() == {"visit": 0, "late_visit": 0, "vault_visit": 3}
    assert world.verify().findings == ()
    world.released(two.id)
    run = world.run()
    assert [(each.store, each.state) for each in run.outcomes] == [("vault", "destroyed")]
    assert rows.there()["vault_visit"] == 1
    assert world.verify().findings == ()
    world.released(one.id)
    assert [each.state for each in world.run().outcomes] == ["destroyed"]
    assert rows.there() == {"visit": 0, "late_visit": 0, "vault_visit": 0}
    eventually(lambda: not world.purger.certificates.issue().waiting)
    assert {each.step for each in world.register.purges()} == {Step.FINAL}
    assert world.findings() == []


@pytest.mark.parametrize("method", ["preserve", "drop", "rebuild"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_each_writing_call_is_resumed(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str, when: str
) -> None:
    rows = Rows(engine)
    rows.put(*(a_visit(n, who) for n, who in enumerate("aabbcc")))
    other = world.hold(item("b"))
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    if method == "rebuild":
        world.run()
        world.released(other.id)
    inner = getattr(engine.vault, method)

    def dies(*given: Any) -> None:
        if when == "after":
            inner(*given)
        raise Crash

    monkeypatch.setattr(engine.vault, method, dies)
    with pytest.raises(Crash):
        world.run()
    monkeypatch.undo()
    assert world.reboot().clear
    world.run()
    left = 2 if method == "rebuild" else 4
    assert rows.there() == {"visit": 0, "late_visit": 0, "vault_visit": left}
    assert world.verify().findings == ()
    world.purger.certificates.issue()
    assert world.findings() == []


def test_late_rows_and_later_versions(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version that came late and was swept does not stop the purge of the live one."""
    monkeypatch.setattr(late, "SETTLE_S", -1800)  # slots are whole at once
    rows = Rows(engine)
    session = row("session", 1, START, subscriber="a", observed_us=1)
    newer = replace(session, values={**session.values, "observed_us": 2, "up_octets": 7})
    rows.put(session)
    world.hold(item("a"))
    world.observe()
    world.advance(30 * DAY_US)
    world.observe()
    world.advance(HOUR)
    assert world.verify().findings == ()
    rows.put(newer, row("session", 2, START, subscriber="b"), late=True)
    swept = world.purger.sweeper.run()
    assert (swept.preserved, swept.destroyed) == (1, 1)
    assert world.verify().findings == ()
    world.advance(2 * DAY_US)
    assert [each.state for each in world.run().outcomes] == ["destroyed"]
    assert rows.there("session") == {"session": 0, "late_session": 0, "vault_session": 2}
    assert world.verify().findings == ()
    world.purger.certificates.issue()
    assert world.findings() == []


def test_a_partition_that_a_backup_brings_back_goes_again(world: World, engine: Engine) -> None:
    """But for the row of somebody whom an order holds that came after the destruction."""
    rows = Rows(engine)
    there = [a_visit(n, who) for n, who in enumerate("abcc", 1)]
    rows.put(*there)
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    world.run()
    world.hold(item("b"))
    rows.put(*there)  # what ATTACH PARTITION of a backup would do
    swept = world.purger.sweeper.reconcile()
    assert (swept.preserved, swept.destroyed) == (1, 3)
    assert rows.there() == {"visit": 0, "late_visit": 0, "vault_visit": 2}
    assert world.purger.sweeper.reconcile().slots == 0
    assert world.verify().findings == ()
    world.purger.certificates.issue()
    assert world.findings() == []
