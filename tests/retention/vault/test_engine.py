"""Preserve, drop and rebuild on both engines: what is held is kept, the rest leaves the disk."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

import pytest

from aggregator.store.client import Client, Unavailable
from aggregator.store.schema import RECORD_TABLES, SchemaError
from retention.holds.columns import CLASSES
from retention.model import Place
from retention.vault import blocks, select
from retention.vault.port import PreserveError
from retention.vault.tables import Names
from tests.retention.vault.world import (
    World,
    approved,
    eventually,
    held_row,
    hold_on,
    place,
    purge_of,
    salt,
)


@pytest.mark.engine
@pytest.mark.parametrize("record_class", CLASSES)
def test_held_rows_go_to_the_vault_and_the_rest_from_the_disk(
    world: World, record_class: str
) -> None:
    """A marker in a text column of each row shows on disk where the row is."""
    column = "kind" if record_class == "mapping" else "subscriber"
    kept, lost = (secrets.token_urlsafe(24) for _ in range(2))
    if column == "subscriber":
        held = [held_row(record_class, kept) for _ in range(3)]
        free = [held_row(record_class, lost) for _ in range(5)]
    else:
        held = [held_row(record_class, kept, kind=kept) for _ in range(3)]
        free = [held_row(record_class, lost, kind=lost) for _ in range(5)]
    world.put(record_class, held + free)
    at = place(record_class)
    for marker in (kept, lost):  # a merge may be under way, so a walk can miss a part
        eventually(lambda marker=marker: world.files_with(marker.encode()))

    selection = world.purge(at, hold_on(kept))

    assert selection.rows == 3
    assert world.vault.count(at, "live") == 0
    assert world.vault.count(at, "vault") == 3
    assert world.kept(record_class) == sorted(each["record_id"] for each in held)
    eventually(lambda: not world.vault.residue(purge_of(at)).waiting)
    eventually(lambda: not world.files_with(lost.encode()))
    vault = world.folder_of(Names().table(record_class, "vault"))
    assert world.files_with(kept.encode())
    for folder in world.files_with(kept.encode()):
        assert vault.name in folder


@pytest.mark.engine
@pytest.mark.parametrize("record_class", ["usage", "binding"])
def test_every_step_can_be_repeated(world: World, record_class: str) -> None:
    world.put(record_class, [held_row(record_class, who) for who in ("ann", "ann", "bob")])
    at, ann = place(record_class), hold_on("ann")
    for _ in range(2):
        world.vault.prepare()
        world.vault.drop(approved(Place(record_class, at.number - 1)))  # there never was one
    selection = world.select(at, ann)
    for _ in range(2):
        world.vault.preserve(selection)
        assert world.vault.count(at, "vault") == 2
    for _ in range(2):
        world.vault.drop(approved(at))
        assert world.vault.count(at, "live") == 0
        world.vault.preserve(selection)  # nothing is left to copy, and all of it is there
        assert world.has(selection, ann)
    again = world.vault.select(at, {"vault"}, [ann], salt)
    assert again == selection
    for _ in range(2):
        world.vault.rebuild(approved(at, "vault"), again)
        assert world.vault.count(at, "vault") == 2
    nothing = world.vault.select(at, {"vault"}, [], salt)
    for _ in range(2):
        world.vault.rebuild(approved(at, "vault"), nothing)
        assert world.vault.count(at, "vault") == 0
        assert world.vault.vaulted() == []


@pytest.mark.engine
def test_the_vault_lets_go_of_what_no_hold_matches_any_more(world: World) -> None:
    """A hold that ended frees its own rows and none of another's; old parts leave the disk."""
    lost = secrets.token_urlsafe(24)
    listed = [held_row("call", who) for who in ("ann", "ann", lost, "bob")]
    world.put("call", listed)
    at = place("call")
    world.purge(at, hold_on("ann", "H-1"), hold_on(lost, "H-2"))
    assert [(each.place, each.rows) for each in world.vault.vaulted()] == [(at, 3)]
    left = world.vault.select(at, {"vault"}, [hold_on("ann", "H-1")], salt)
    world.vault.rebuild(approved(at, "vault"), left)
    assert world.kept("call") == sorted(each["record_id"] for each in listed[:2])
    eventually(lambda: not world.vault.residue(purge_of(at, "vault", preserved=2)).waiting)
    assert not world.files_with(lost.encode())


@pytest.mark.engine
def test_what_an_unfinished_purge_left_does_not_stay(world: World) -> None:
    """Copied, and then the hold ended before anything was dropped; late rows there are kept."""
    world.put("visit", [held_row("visit", "ann"), held_row("visit", "bob")])
    late = held_row("visit", "bob")
    world.put("visit", [late], "tallyhold_vault.vault_visit")
    at = place("visit")
    world.vault.preserve(world.select(at, hold_on("ann"), hold_on("bob", "H-2")))
    assert world.vault.count(at, "vault") == 3
    world.vault.preserve(world.select(at))
    assert world.kept("visit") == [late["record_id"]]
    world.store.keeper.execute("TRUNCATE TABLE tallyhold_vault.vault_visit")
    world.vault.preserve(world.select(at, hold_on("ann")))
    world.vault.preserve(world.select(at))
    assert world.kept("visit") == []


@pytest.mark.engine
def test_rows_that_go_after_they_were_selected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are preserved all the same, as they were read; of many it shows that they are not."""
    world.put("usage", [held_row("usage", "ann"), held_row("usage", "bob")])
    at, ann = place("usage"), hold_on("ann")
    few = world.select(at, ann)
    monkeypatch.setattr(select, "MAX_ROWS", 0)
    many = world.select(at, ann)
    assert few == many
    world.store.keeper.execute("TRUNCATE TABLE usage")
    with pytest.raises(PreserveError) as caught:
        world.vault.preserve(many)
    assert caught.value.code == "changed"
    assert not world.has(many, ann)
    world.vault.preserve(few)
    assert world.has(many, ann)


@pytest.mark.engine
@pytest.mark.parametrize("record_class", CLASSES)
def test_rows_are_kept_as_they_are_whichever_way_they_are_copied(
    world: World, monkeypatch: pytest.MonkeyPatch, record_class: str
) -> None:
    """Every column at its limits: through our hands where they are few, else within the engine."""
    extreme = {
        name: limit
        for name, kind in RECORD_TABLES[record_class].columns
        if (limit := _extreme(name, kind)) is not None
    }
    at, ann = place(record_class), hold_on("ann")
    world.put(record_class, [held_row(record_class, "ann", **extreme), held_row(record_class, "e")])
    kept = []
    for most in (blocks.MAX_ROWS, 0):
        monkeypatch.setattr(select, "MAX_ROWS", most)
        selection = world.select(at, ann)
        assert (selection.rows, selection.blocks is None) == (1, most == 0)
        world.vault.preserve(selection)
        names = ", ".join(RECORD_TABLES[record_class].names)
        table = Names().table(record_class, "vault")
        kept.append(world.store.keeper.query_columns(f"SELECT {names}, clock_day FROM {table}"))
        world.store.keeper.execute(f"TRUNCATE TABLE {table}")
    mine = kept[0]["record_id"][0].hex()
    live = world.store.keeper.query_columns(
        f"SELECT {names}, clock_day FROM {record_class} WHERE hex(record_id) = '{mine.upper()}'"
    )
    assert kept == [live, live]


def _extreme(name: str, kind: str) -> object:
    """A value that is easily spoilt on its way; None for what makes the row ann's and NOON's."""
    if kind == "UInt64":
        return 2**64 - 1
    if kind == "UInt32":
        return 2**32 - 1
    if name in ("host", "realm", "reason", "a_raw", "boot"):
        return "\0quote' \\ \u00fc\U0001f4de\n" * 40
    return b"\xff\0" * 8 if name == "batch" else None


@pytest.mark.engine
@pytest.mark.parametrize("at_statement", range(0, 22, 3))
def test_a_purge_that_dies_anywhere_loses_nothing_and_can_be_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch, at_statement: int
) -> None:
    """The engine stops answering before one of the statements, or after it was carried out."""
    held = [held_row("session", "ann") for _ in range(3)]
    world.put("session", [*held, held_row("session", "eve")])
    at, ann = place("session"), hold_on("ann")
    ids = sorted(each["record_id"] for each in held)
    keeper = world.store.keeper
    for answered in (False, True):
        left = [at_statement]

        def fail(name: str, left: list[int] = left, answered: bool = answered) -> Any:
            ask = getattr(Client, name)

            def asked(*given: Any) -> Any:
                left[0] -= 1
                if left[0] == -1 and not answered:
                    raise Unavailable("gone")
                answer = ask(keeper, *given)
                if left[0] == -1:
                    keeper.close()  # the connection with what is temporary
                    raise Unavailable("gone")
                return answer

            return asked

        with monkeypatch.context() as patch:
            for name in ("execute", "query_columns", "insert"):
                patch.setattr(keeper, name, fail(name))
            with contextlib.suppress(Unavailable):
                world.purge(at, ann)
        live = world.vault.count(at, "live")
        assert live in (0, 4)
        if live == 0:
            assert world.kept("session") == ids
    world.purge(at, ann)
    assert world.kept("session") == ids
    assert world.vault.count(at, "live") == 0


@pytest.mark.engine
def test_two_hundred_thousand_held_rows(world: World) -> None:
    listed = [held_row("usage", "ann") for _ in range(1000)]
    for n in range(200):
        for number, each in enumerate(listed):
            each["record_id"] = (n * 1000 + number).to_bytes(16, "big")
        world.put("usage", listed)
    world.put("usage", [held_row("usage", "eve") for _ in range(1000)])
    at = place("usage")
    selection = world.purge(at, hold_on("ann"))
    assert selection.rows == 200_000
    assert world.vault.count(at, "vault") == 200_000
    assert world.vault.count(at, "live") == 0


@pytest.mark.engine
def test_an_approval_is_for_one_thing(world: World) -> None:
    world.put("usage", [held_row("usage", "ann")])
    at = place("usage")
    selection = world.select(at)
    for wrong in (approved(at, "vault"), approved(at, "late")):
        with pytest.raises(PreserveError, match="approval"):
            world.vault.drop(wrong)
    for wrong in (approved(at), approved(Place("usage", at.number + 1), "vault")):
        with pytest.raises(PreserveError, match="approval"):
            world.vault.rebuild(wrong, selection)
    with pytest.raises(ValueError, match="no partition"):
        world.vault.drop(approved(Place("usage", 20_2599)))
    with pytest.raises(ValueError, match="no class|no table"):
        world.vault.drop(approved(Place("ingest_ledger", at.number)))
    assert world.vault.count(at, "live") == 1


@pytest.mark.engine
def test_a_statement_of_an_earlier_run_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that still runs would mix its rows with ours; one that never ends fails the purge."""
    world.put("usage", [held_row("usage", "ann")])
    selection = world.select(place("usage"), hold_on("ann"))
    keeper, running = world.store.keeper, [2]
    ask = keeper.query_columns

    def asked(sql: str, *rest: Any) -> Any:
        if "system.processes" in sql:
            running[0] -= 1
            return {"running": [int(running[0] >= 0)]}
        return ask(sql, *rest)

    monkeypatch.setattr(keeper, "query_columns", asked)
    slept: list[float] = []
    clock = iter(range(0, 10_000, 50))
    vault = world.make(monotonic=lambda: float(next(clock)), sleep=slept.append)
    vault.preserve(selection)
    assert len(slept) == 2
    running[0] = 10_000
    with pytest.raises(Unavailable, match="earlier run"):
        vault.preserve(selection)


@pytest.mark.engine
def test_tables_that_drifted_are_refused(world: World) -> None:
    keeper = world.store.keeper
    keeper.execute("ALTER TABLE tallyhold_vault.vault_usage DROP COLUMN flows")
    keeper.execute("ALTER TABLE tallyhold_vault.staging_visit ADD COLUMN url String")
    keeper.execute("DROP TABLE tallyhold_vault.vault_call")
    keeper.execute(
        "CREATE TABLE tallyhold_vault.vault_call AS call ENGINE = ReplacingMergeTree(observed_us)"
        " PARTITION BY toYYYYMM(clock_day) ORDER BY record_id"
    )
    with pytest.raises(SchemaError) as caught:
        world.vault.prepare()
    for words in (
        "vault_usage.flows is missing",
        "staging_visit.url is not known",
        "vault_call is not partitioned and ordered",
        "vault_call is of engine ReplacingMergeTree",
    ):
        assert words in str(caught.value)


@pytest.mark.engine
def test_without_the_tables_of_ingest_there_is_no_vault(world: World) -> None:
    with pytest.raises(SchemaError, match="elsewhere has no table binding"):
        world.make(names=Names(live="elsewhere")).prepare()


@pytest.mark.parametrize("names", [("a; b", "v"), ("t", "v v"), ("t", "t")])
def test_names_cannot_carry_sql(names: tuple[str, str]) -> None:
    with pytest.raises(SchemaError):
        Names(*names)


@pytest.mark.engine
def test_parts_of_the_vault_go_after_a_second_and_reach_the_disk(world: World) -> None:
    for kept in ("vault", "staging"):
        shown = world.store.keeper.query_columns(f"SHOW CREATE TABLE tallyhold_vault.{kept}_usage")
        text = next(iter(shown.values()))[0]
        assert "old_parts_lifetime = 1" in text
        assert " TTL " not in text
        assert ("fsync_after_insert = 1" in text) == (world.store.name == "bundled")
