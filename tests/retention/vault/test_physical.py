"""What is left of a purged partition is found wherever it is: copies, logs, spools, backups."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.client import Client, Endpoint
from retention.model import DAY_US, Purge
from retention.vault.engine import EngineVault
from retention.vault.folders import (
    InventoryError,
    Leftovers,
    Outside,
    backups,
    leftovers,
    waiting_batches,
)
from retention.vault.port import Residue
from tests.aggregator.support import Spool, rows, usage_rows
from tests.ports import free_port
from tests.retention.vault.world import (
    NOON,
    S,
    World,
    approved,
    eventually,
    held_row,
    hold_on,
    place,
    purge_of,
)

AT = place("visit")


def seen(world: World, residue: Residue) -> dict[str, Any]:
    (name,) = [name for name in residue.evidence if name != "folders"]
    found: dict[str, Any] = residue.evidence[name]
    json.dumps(residue.evidence)  # as a certificate has it
    return found


def waiting(world: World, purge: Purge, **outside: Any) -> tuple[str, ...]:
    vault = world.make(outside=Outside(data=(world.root,), **outside))
    return vault.residue(purge).waiting


@pytest.mark.engine
def test_a_partition_that_is_there_is_seen_and_then_gone(world: World) -> None:
    world.put("visit", [held_row("visit", "ann")])
    assert "parts" in world.vault.residue(purge_of(AT)).waiting
    world.purge(AT, hold_on("ann"))
    eventually(lambda: not world.vault.residue(purge_of(AT)).waiting)
    found = seen(world, world.vault.residue(purge_of(AT)))
    assert found["folder"] == {"parts": 0, "detached": 0, "shadow": 0, "mutations": 0}
    assert found["detached"] == (0 if world.store.name == "bundled" else None)
    elsewhere = seen(world, world.make(outside=Outside()).residue(purge_of(AT)))
    assert elsewhere["folder"] == "elsewhere"


@pytest.mark.engine
def test_frozen_detached_and_staged_parts_are_waited_for(world: World) -> None:
    """FREEZE and DETACH keep rows where no table lists them."""
    keeper = world.store.keeper
    world.put("visit", [held_row("visit", "ann")])
    keeper.execute(f"ALTER TABLE visit FREEZE PARTITION {AT.number}")
    keeper.execute(f"ALTER TABLE visit DETACH PARTITION {AT.number}")
    world.put("visit", [held_row("visit", "ann")], "tallyhold_vault.staging_visit")
    world.vault.drop(approved(AT))
    try:
        eventually(lambda: waiting(world, purge_of(AT)) == ("detached", "shadow", "staging"), 20)
        assert waiting(world, purge_of(place("usage"))) == ()
    finally:
        shutil.rmtree(world.root / "shadow")
        keeper.execute("TRUNCATE TABLE tallyhold_vault.staging_visit")
        for part in (world.folder_of("tallyhold.visit") / "detached").iterdir():
            shutil.rmtree(part)
    eventually(lambda: waiting(world, purge_of(AT)) == ())


@pytest.mark.engine
def test_a_mutation_is_waited_for(world: World) -> None:
    """Its text has identifiers, in a file that stays after it is done."""
    world.put("visit", [held_row("visit", "ann")])
    file = world.folder_of("tallyhold.visit") / "mutation_7.txt"
    world.vault.drop(approved(AT))
    eventually(lambda: waiting(world, purge_of(AT)) == ())
    file.write_text("commands: DELETE WHERE subscriber = 'ann'\n")
    assert waiting(world, purge_of(AT)) == ("mutations",)
    file.unlink()
    assert waiting(world, purge_of(AT)) == ()


@pytest.mark.engine
def test_old_parts_of_the_vault_are_waited_for_and_new_ones_are_not(world: World) -> None:
    world.put("visit", [held_row("visit", "ann")], "tallyhold_vault.vault_visit")
    assert "parts" in world.vault.residue(purge_of(AT, "vault", preserved=0)).waiting
    assert world.vault.residue(purge_of(AT, "vault", preserved=1)).waiting == ()


@pytest.mark.engine
def test_a_log_of_statements_has_to_be_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = world.store.keeper
    ask = keeper.query_columns
    made, old = {"query_log_3": "CREATE TABLE … ENGINE = MergeTree"}, [1]

    def asked(sql: str, *rest: Any) -> Any:
        if "create_table_query" in sql:
            return {"name": [*made, "part_log"], "made": [*made.values(), ""]}
        if "event_date" in sql:
            return {"old": [old[0]]}
        return ask(sql, *rest)

    monkeypatch.setattr(keeper, "query_columns", asked)
    assert waiting(world, purge_of(AT)) == ("logs",)
    old[0] = 0  # nothing is older than a month
    assert waiting(world, purge_of(AT)) == ()
    old[0], made["query_log_3"] = 1, "CREATE … ENGINE = MergeTree TTL event_date + toIntervalDay(7)"
    assert waiting(world, purge_of(AT)) == ()


@pytest.mark.engine
def test_a_replica_that_does_not_answer_may_have_everything(world: World) -> None:
    dead = Client(Endpoint("127.0.0.1", free_port(), "default", ""))
    vault = EngineVault([[world.store.keeper, dead]])
    found = vault.residue(purge_of(AT))
    assert found.waiting == ("replica-down",)
    assert found.evidence[f"127.0.0.1:{dead.endpoint.port}"] == {"error": "Unavailable"}


def write(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def test_spools_are_searched_for_the_partition_s_window(tmp_path: Path) -> None:
    """By the header alone: class and window; a name tells nothing, and what is no batch may be."""
    purge = purge_of(AT)
    first = purge.partition.start_us * 1000
    visits = rows("visit", {"start_ns": NOON * 1000, "host": "a.example"})
    spool = Spool()
    here = spool.batch({"visit": visits}, start_ns=NOON * 1000)
    other = spool.batch({"usage": usage_rows(["10.0.0.1"])}, start_ns=NOON * 1000)
    before = spool.batch({"visit": visits}, start_ns=first - 300 * S * 1000)
    touching = spool.batch({"visit": visits}, start_ns=first - 299 * S * 1000)
    after = spool.batch({"visit": visits}, start_ns=purge.partition.latest_us * 1000)
    folder = tmp_path / "spool"
    for number, data in enumerate((other, before, after)):
        write(folder, f"{number:020d}.batch", data)
    write(folder, "ledger.json", b"{}")
    assert waiting_batches((folder,), purge) == {"batches": 3, "meets": 0, "unreadable": 0}
    write(folder / "dead", "00000000000000000009.batch", here)
    write(folder, "00000000000000000010.part", touching)
    assert waiting_batches((folder,), purge) == {"batches": 5, "meets": 2, "unreadable": 0}
    write(folder, "00000000000000000011.batch", here[:40])
    assert waiting_batches((folder, tmp_path / "none"), purge) == {
        "batches": 6,
        "meets": 2,
        "unreadable": 1,
    }


@pytest.mark.engine
def test_a_batch_that_waits_keeps_the_certificate_open(world: World, tmp_path: Path) -> None:
    visits = rows("visit", {"start_ns": NOON * 1000, "host": "a.example"})
    write(tmp_path, f"{1:020d}.batch", Spool().batch({"visit": visits}, start_ns=NOON * 1000))
    assert waiting(world, purge_of(AT), folders=(tmp_path,)) == ("spool",)
    (tmp_path / f"{1:020d}.batch").unlink()
    assert waiting(world, purge_of(AT), folders=(tmp_path,)) == ()


def test_backups_made_before_the_drop_are_listed_until_they_expire(tmp_path: Path) -> None:
    path = tmp_path / "backups.json"
    assert backups(path, NOON, NOON) == ()
    assert backups(None, NOON, NOON) == ()
    day = dt.datetime(2025, 12, 22, 12, tzinfo=dt.UTC)

    def entry(name: str, created: int, expires: int) -> dict[str, str]:
        times = {"created": created, "expires": expires}
        return {"id": name} | {
            key: (day + dt.timedelta(days=days)).isoformat() for key, days in times.items()
        }

    listed = [entry("b1", -1, 27), entry("b2", 1, 29), entry("b3", -40, -12)]
    path.write_text(json.dumps(listed))
    assert backups(path, NOON, NOON) == (listed[0],)
    assert backups(path, NOON, NOON + 27 * DAY_US) == ()
    for bad in ("{}", "[", "[1]", '[{"id": "b", "created": "soon", "expires": "later"}]',
                '[{"id": "b", "created": "2025-12-22", "expires": "2025-12-23"}]'):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(InventoryError):
            backups(path, NOON, NOON)


@pytest.mark.engine
def test_an_inventory_that_cannot_be_read_is_no_proof(world: World, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{")
    assert waiting(world, purge_of(AT), backups=tmp_path / "b.json") == ("backups",)


def test_names_on_disk_are_told_by_their_partition(tmp_path: Path) -> None:
    table = tmp_path / "data" / "tallyhold" / "usage"
    for name in ("202511_1_1_0", "202512_1_3_1", "202512_4_4_0", "tmp_insert_202512_5_5_0",
                 "detached/broken_202512_1_1_0", "detached/202511_1_1_0"):  # fmt: skip
        (table / name).mkdir(parents=True)
    for name in ("data/tallyhold/usage/202512_1_3_1", "data/tallyhold/link/202512_1_3_1"):
        (tmp_path / "shadow" / "1" / name).mkdir(parents=True)
    (table / "mutation_3.txt").touch()
    found = leftovers(tmp_path, table, 202512, {"202512_4_4_0"})
    assert found == Leftovers(parts=2, detached=1, shadow=1, mutations=1)
    assert leftovers(tmp_path, table.parent / "none", 202512, ()) == Leftovers()
