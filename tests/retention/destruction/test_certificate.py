"""Certificates: what they say, who signed them, and files and leaves that stay together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retention.audit import sealed
from retention.destruction.certificate import FINAL, PENDING, UNVERIFIED, plain
from retention.model import DAY_US, Step
from tests.retention.destruction.scenes import visit
from tests.retention.destruction.world import ORIGIN, SIGNER, START, World, crash, item, person
from tests.retention.model_vault import Crash


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """A place of which one row is held, open for destruction."""
    world = World(folder / "world")
    world.store.ingest(visit(1, "a"), visit(2, "b"), visit(3, "b"))
    world.hold(item("a"))
    world.observe()
    world.open_for(0)
    world.store.lingering = ("parts", "spool")
    yield world
    world.close()


def files(world: World) -> list[str]:
    return sorted(each.name for each in (world.folder / "log" / "certificates").glob("*"))


def read(world: World, kind: str = PENDING) -> dict[str, Any]:
    path = world.folder / "log" / sealed.path_of("P-2026-000001", kind)
    found = sealed.parse(path.read_bytes())
    assert found.key == SIGNER.key
    found.check()
    return found.certificate


def test_it_says_what_was_destroyed_by_whom_and_when(world: World) -> None:
    world.run(operator="olga")
    said = read(world)
    (purge,) = world.register.purges()
    expected = {
        "format": "tallyhold-certificate",
        "version": 1,
        "state": "pending",
        "purge": purge.id,
        "policy": world.rules.digest,
        "class": "visit",
        "partition": "20260101",
        "store": "live",
        "rows_before": 3,
        "preserved": 1,
        "destroyed": 2,
        "generation": 3,
        "waiting": ["parts", "spool"],
        "operator": person("olga"),
        "start": START,
        "end": START + DAY_US,
        "retain_until": START + 30 * DAY_US,
    }
    assert {name: said[name] for name in expected} == expected
    assert said["holds"] == world.leaves("purge.preserved")[0]["holds"]
    assert said["times"]["retain_until"] == {
        "us": START + 30 * DAY_US,
        "iso": "2026-01-31T00:00:00Z",
    }
    assert said["times"]["dropped"]["us"] == purge.dropped_us
    assert world.leaves()[said["log"]["dropped"]]["kind"] == "purge.dropped"
    assert said["log"]["origin"] == ORIGIN
    assert said["replicas"] == {"r1": {"parts": 0, "detached": 0}}
    assert said["backups"][0]["expires"] == "2026-01-29"
    assert any("DROP PARTITION 20260101" in each for each in said["statements"])
    assert "olga" not in json.dumps(said)


def test_pending_until_nothing_is_waited_for_and_then_final(world: World) -> None:
    world.run()
    issued = world.purger.certificates.issue()
    assert (issued.pending, issued.final, issued.waiting) == ((), (), ("P-2026-000001",))
    world.store.lingering = ("parts",)
    world.purger.certificates.issue()
    assert world.register.purges()[0].waiting == ("parts",)
    assert len(world.leaves(PENDING)) == 1
    world.store.lingering = ()
    assert world.purger.certificates.issue().final == ("P-2026-000001",)
    assert world.purger.certificates.issue().final == ()
    assert read(world, FINAL)["waiting"] == []
    assert files(world) == ["P-2026-000001.final.json", "P-2026-000001.pending.json"]
    (purge,) = world.register.purges()
    assert (purge.step, purge.waiting) == (Step.FINAL, ())
    assert world.leaves(FINAL)[0]["backups"] == 1
    assert world.findings() == []
    assert (
        world.purger.certificates.read(purge.id)
        == (world.folder / "log" / sealed.path_of(purge.id, FINAL)).read_bytes()
    )


def test_a_dead_engine_leaves_it_pending(world: World) -> None:
    world.faults.at_name("residue", "before", 0, lambda: setattr(world.store, "dead", True))
    world.run()
    assert read(world)["waiting"] == [UNVERIFIED]
    world.store.dead, world.store.lingering = False, ()
    world.purger.certificates.issue()
    assert world.findings() == []


@pytest.mark.parametrize("kind", [PENDING, FINAL])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_between_file_and_leaf_is_repaired(world: World, kind: str, when: str) -> None:
    """What stands in the file was so: the leaf tells of that very file."""
    nth = 0 if kind == PENDING else 1
    world.faults.at_name("AuditLog.keep_certificate", when, nth, crash)
    with pytest.raises(Crash):
        world.run()
        world.store.lingering = ()
        world.purger.certificates.issue()
    path = world.folder / "log" / sealed.path_of("P-2026-000001", kind)
    kept = path.read_bytes() if path.exists() else None
    assert (kept is None) == (when == "before")
    world.advance(DAY_US // 2)
    world.reboot()
    assert kept is None or path.read_bytes() == kept
    world.store.lingering = ()
    world.purger.certificates.issue()
    assert world.register.purges()[0].step is Step.FINAL
    assert world.findings() == []


def test_a_file_that_is_not_what_it_should_be_is_replaced_before_its_leaf(world: World) -> None:
    path = world.folder / "log" / sealed.path_of("P-2026-000001", PENDING)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a cert")
    world.run()
    assert read(world)["purge"] == "P-2026-000001"
    world.store.lingering = ()
    world.purger.certificates.issue()
    assert world.findings() == []


@pytest.mark.parametrize("spoil", ["remove", "change"])
@pytest.mark.parametrize("copy", ["log", "register"])
def test_a_lost_or_changed_file_is_put_back(world: World, spoil: str, copy: str) -> None:
    world.run()
    path = world.folder / copy / sealed.path_of("P-2026-000001", PENDING)
    good = path.read_bytes()
    if spoil == "remove":
        path.unlink()
    else:
        path.write_bytes(good.replace(b"visit", b"usage"))
    found = world.purger.certificates.repair()
    assert [each.code for each in found] == ["certificate"]
    assert path.read_bytes() == good
    assert world.purger.certificates.repair() == ()
    assert [each for each in world.findings() if "certificate" in each] == []


def test_both_copies_lost_and_files_of_nobody_are_told(world: World) -> None:
    world.run()
    for copy in ("log", "register"):
        (world.folder / copy / sealed.path_of("P-2026-000001", PENDING)).unlink()
    (world.folder / "log" / "certificates" / "P-2026-000009.final.json").write_bytes(b"{}")
    texts = [each.text for each in world.purger.certificates.repair()]
    assert len(texts) == 2
    assert "no sound copy" in texts[0]
    assert "no purge accounts for" in texts[1]
    assert world.findings()


def test_values_of_a_store_get_a_canonical_form() -> None:
    odd = {"a": (1, 2.5), "b": {3: None}, "c": 2**60, "d": True, "é": b"x", "f": frozenset({1})}
    assert plain(odd) == {
        "a": [1, "2.5"],
        "b": {"3": None},
        "c": str(2**60),
        "d": True,
        "?": "b'x'",
        "f": [1],
    }


def test_no_certificate_is_given_before_there_is_one(world: World) -> None:
    assert world.purger.certificates.read("P-2026-000001") is None
