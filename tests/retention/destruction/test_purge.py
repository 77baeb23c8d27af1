"""The purge's order of steps, what stops it, and that a dry run is the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from retention.model import DAY_US, Place
from tests.retention.destruction.world import START, World, item
from tests.retention.model_vault import row


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def visits(subscriber: str, count: int, first: int = 0, day: float = 0) -> list:
    at = START + int(day * DAY_US)
    return [row("visit", first + n, at + n, subscriber=subscriber) for n in range(count)]


def test_rows_that_no_hold_matches_are_dropped_and_certified(world: World) -> None:
    world.store.ingest(*visits("a", 3))
    world.observe()
    world.open_for(0)
    run = world.run()
    assert [each.state for each in run.outcomes] == ["destroyed"]
    assert not world.keys()
    world.purger.certificates.issue()
    kinds = [kind for kind in world.kinds() if kind.startswith("purge.")]
    assert kinds == [
        "purge.intent",
        "purge.preserved",
        "purge.dropped",
        "purge.certificate-pending",
        "purge.certificate-final",
    ]
    assert world.findings() == []


def test_rows_that_a_hold_matches_are_kept(world: World) -> None:
    kept = visits("a", 2)
    world.store.ingest(*kept, *visits("b", 3, 10))
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    run = world.run()
    assert [each.state for each in run.outcomes] == ["destroyed"]
    assert world.keys() == {each.key for each in kept}
    assert list(world.store.vault) == [Place("visit", 20260101)]
    world.verify()
    assert world.findings() == []
