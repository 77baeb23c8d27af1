"""Two scenes in which everything is due at once, and the rows that must be left after each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from aggregator.store.errors import StoreError
from retention.destruction.context import Unsettled
from retention.model import DAY_US, Hold
from retention.register.store import RegisterError
from tests.retention.destruction.world import HOUR, START, World, item
from tests.retention.model_vault import Crash, Row, row

EVERY = bool(os.environ.get("TALLYHOLD_EVERY_POINT"))


def points(total: int, step: int, first: int = 0) -> range:
    """The points at which trouble comes: one in `step`, or with TALLYHOLD_EVERY_POINT all."""
    return range(total) if EVERY else range(first % step, total, step)


@dataclass
class Scene:
    """A world just before its service has much to do."""

    world: World
    kept: set[bytes]
    """Keys of the rows that must be left when it is done."""
    holds: list[Hold] = field(default_factory=list)


def visit(number: int, subscriber: str, day: float = 0) -> Row:
    return row("visit", number, START + int(day * DAY_US) + number, subscriber=subscriber)


def session(number: int, subscriber: str, version: int = 1, day: float = 0) -> Row:
    at = START + int(day * DAY_US) + number
    return row("session", number, at, subscriber=subscriber, observed_us=version, up_octets=version)


def first(folder: Path) -> Scene:
    """Live partitions with rows that two holds, one or none match; late rows of the same days."""
    world = World(folder)
    kept = [visit(1, "a"), visit(2, "a"), visit(3, "b"), session(1, "a", 2), session(2, "b")]
    kept += [visit(11, "a")]  # comes late
    gone = [visit(4, "c"), visit(5, "d"), session(3, "c"), visit(20, "c", 1), session(1, "a", 1)]
    world.store.ingest(*(r for r in kept + gone if r is not kept[5]))
    holds = [world.hold(item("a")), world.hold(item("a"), item("b")), world.hold(item("z"))]
    world.observe()
    world.open_for(0)
    world.store.ingest(kept[5], visit(12, "c"), visit(2, "a"))
    world.advance(HOUR)
    return Scene(world, {r.key for r in kept} | {r.key for r in [visit(20, "c", 1)]}, holds)


def second(folder: Path) -> Scene:
    """The vault after `first`, one of its holds released: a part of it is to be rebuilt."""
    scene = first(folder)
    service(scene.world)
    scene.world.released(scene.holds[1].id)
    scene.kept = {r.key for r in (visit(1, "a"), visit(2, "a"), session(1, "a", 2), visit(11, "a"))}
    del scene.holds[1]
    return scene


def again(scene: Scene, folder: Path) -> Scene:
    """The same scene, whose world is closed, in another folder."""
    return replace(scene, world=World(folder, like=scene.world))


SCENES: dict[str, Callable[[Path], Scene]] = {"first": first, "second": second}


def service(world: World) -> None:
    """What the scheduler does by itself, once."""
    world.purger.resumer.settle()
    world.observe()
    world.purger.sweeper.reconcile()
    world.purger.sweeper.run()
    world.run()
    world.purger.certificates.issue()
    world.verify()


def tried(world: World) -> str:
    """The service, with whatever goes wrong: the name of the error, or ""."""
    try:
        service(world)
    except (StoreError, RegisterError, Unsettled, OSError) as error:
        return type(error).__name__
    except Crash:
        return "crash"
    return ""
