"""Whatever ends the process, the engine or the disk at any point: the end is the right one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retention.model import Step
from tests.retention.destruction.scenes import SCENES, Scene, again, points, service, tried
from tests.retention.destruction.world import World, crash


def made(folder: Path, name: str) -> tuple[Scene, int]:
    """A scene to copy, and the number of points that its service passes."""
    scene = SCENES[name](folder / "scene")
    scene.world.close()
    world = again(scene, folder / "count").world
    service(world)
    world.close()
    return scene, len(world.faults.seen)


def settled(scene: Scene) -> None:
    """Let the service run to the end, and see that all is as if nothing had happened."""
    world = scene.world
    service(world)
    service(world)
    assert world.there() == scene.kept
    assert not world.store.late
    assert all(each.step in (Step.FINAL, Step.FAILED) for each in world.register.purges())
    assert world.findings() == []
    world.close()
    shutil.rmtree(world.folder)


@pytest.mark.parametrize("name", SCENES)
def test_nothing_goes_wrong_where_nothing_goes_wrong(folder: Path, name: str) -> None:
    settled(again(made(folder, name)[0], folder / "again"))


@pytest.mark.parametrize("name", SCENES)
def test_a_crash_at_any_point_is_resumed(folder: Path, name: str) -> None:
    template, total = made(folder, name)
    assert total > 100
    for at in range(total):
        scene = again(template, folder / str(at))
        world = scene.world
        world.faults.arm(at, crash)
        assert tried(world) == "crash", at
        assert scene.kept <= world.there(), at
        world.reboot()
        assert world.findings() == [], at
        settled(scene)


def test_crash_again_while_resuming(folder: Path) -> None:
    template, total = made(folder, "first")
    for at in points(total, 13, 3):
        for more in range(at % 4, 30, 8):
            scene = again(template, folder / f"{at}-{more}")
            world = scene.world
            world.faults.arm(at, crash)
            assert tried(world) == "crash"
            world.close()
            world.boot()
            world.faults.arm(more, crash)
            tried(world)
            world.reboot()
            settled(scene)


def die(world: World) -> Callable[[], None]:
    def act() -> None:
        world.store.dead = True

    return act


def fill(world: World) -> Callable[[], None]:
    def act() -> None:
        world.store.full = True

    return act


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("trouble", [die, fill])
def test_the_engine_fails_at_any_point(
    folder: Path, name: str, trouble: Callable[[World], Callable[[], None]]
) -> None:
    template, total = made(folder, name)
    for at in points(total, 4, len(name) + len(trouble.__name__)):
        scene = again(template, folder / str(at))
        world = scene.world
        world.faults.arm(at, trouble(world))
        tried(world)
        tried(world)  # as long as it lasts nothing is claimed that is not so
        assert scene.kept <= world.there(), at
        assert world.findings() == [], at
        world.store.dead = world.store.full = False
        settled(scene)
