"""Late rows on both engines: slots of arrival, what is kept of them, and what ingest is told."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time

import pytest
from clickhouse_driver import Client as Driver
from clickhouse_driver.errors import Error as DriverError

from aggregator.store.closed import ClosedPartitions
from retention.holds.columns import CLASSES
from retention.model import DAY_US, Place
from retention.vault import late
from retention.vault.late import SETTLE_S, _is_settled
from retention.vault.port import SLOT_S, LateSlot, PreserveError
from tests.retention.vault.world import (
    DAY,
    NOON,
    S,
    World,
    approved,
    eventually,
    held_row,
    hold_on,
    place,
)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are whole at once, as if the clock were half an hour further."""
    monkeypatch.setattr(late, "SETTLE_S", -1800)


@pytest.mark.parametrize(
    ("now", "is_settled"),
    [(1200, False), (1200 + 899, False), (1200 + 900, True), (1200 + 901, True)],
)
def test_a_slot_is_whole_fifteen_minutes_after_its_end(now: int, is_settled: bool) -> None:
    assert _is_settled(1200 // SLOT_S - 1, now - SETTLE_S) is is_settled


@pytest.mark.engine
def test_the_server_itself_says_when_rows_came(world: World) -> None:
    """Its own clock, in UTC whatever its zone, and in the partition's number."""
    before = int(time.time())
    world.put("visit", [held_row("visit", "ann")], "late_visit")
    found = world.store.keeper.query_columns(
        "SELECT toUnixTimestamp(arrived) AS at FROM late_visit"
    )
    assert before - 1 <= found["at"][0] <= time.time() + 1
    parts = world.store.keeper.query_columns(
        "SELECT partition FROM system.parts WHERE table = 'late_visit' AND active AND rows > 0"
    )
    assert parts["partition"] == [str(found["at"][0] // SLOT_S)]


@pytest.mark.engine
def test_a_young_slot_is_neither_listed_nor_dropped(world: World) -> None:
    world.put("usage", [held_row("usage", "ann")], "late_usage")
    assert world.vault.slots() == []
    slot = LateSlot("usage", int(time.time()) // SLOT_S, ())
    with pytest.raises(PreserveError) as caught:
        world.vault.drop_slot(approved(slot.place, "late"), slot)
    assert caught.value.code == "open"
    assert world.store.count("late_usage") == 1


@pytest.mark.engine
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("record_class", CLASSES)
def test_a_slot_is_swept(world: World, record_class: str) -> None:
    """Rows of two clock partitions in one slot: held ones into the vault, then the slot goes."""
    column = "kind" if record_class == "mapping" else "collector"
    lost = secrets.token_urlsafe(24)
    start = {"session": "slice_start_us", "binding": "valid_from_us"}.get(record_class, "start_us")
    before = NOON - 31 * DAY_US
    ends = {"end_us": before + S} if record_class == "mapping" else {}
    rows = [
        held_row(record_class, "ann"),
        held_row(record_class, lost if record_class != "mapping" else "eve", **{column: lost}),
        held_row(record_class, "ann", **{start: before, **ends}),
    ]
    world.put(record_class, rows, f"late_{record_class}")
    world.put(record_class, [held_row(record_class, "bob")])  # live, and none of a slot's
    (slot,) = world.vault.slots()
    at = place(record_class)
    older = Place(record_class, 20251121 if at.number == DAY else 202511)
    assert [(each.place, each.rows) for each in slot.partitions] == [(older, 1), (at, 2)]
    assert slot.rows == 3
    for each in (older, at, older, at):
        selection = world.select(each, hold_on("ann"), late=slot)
        world.vault.preserve_late(slot, selection)
        assert world.has(selection, hold_on("ann"))
    assert world.vault.count(at, "vault") == world.vault.count(older, "vault") == 1
    for _ in range(2):
        world.vault.drop_slot(approved(slot.place, "late"), slot)
        assert world.store.count(f"late_{record_class}") == 0
    assert world.vault.slots() == []
    assert world.kept(record_class) == sorted(each["record_id"] for each in (rows[0], rows[2]))
    assert world.vault.count(at, "live") == 1
    eventually(lambda: not world.files_with(lost.encode()))


@pytest.mark.engine
@pytest.mark.usefixtures("at_once")
def test_what_is_kept_elsewhere_is_not_kept_twice(world: World) -> None:
    """A batch that was sent again: its row is in the vault, or in the live partition still."""
    rows = [held_row("visit", "ann") for _ in range(3)]
    at, ann = place("visit"), hold_on("ann")
    world.put("visit", rows[:1])
    world.put("visit", rows[1:2], "tallyhold_vault.vault_visit")
    world.put("visit", rows, "late_visit")
    (slot,) = world.vault.slots()
    selection = world.select(at, ann, late=slot)
    assert selection.rows == 1
    assert selection.held[0].rows == 1
    world.vault.preserve_late(slot, selection)
    assert world.kept("visit") == sorted(each["record_id"] for each in rows[1:])
    assert world.select(at, ann, late=slot).rows == 0
    world.vault.preserve_late(slot, selection)  # as after a crash, from a note
    assert world.vault.count(at, "vault") == 2
    world.purge(at, ann)
    assert world.kept("visit") == sorted(each["record_id"] for each in rows)


@pytest.mark.engine
@pytest.mark.usefixtures("at_once")
def test_a_newer_version_that_came_late_takes_nothing_away(world: World) -> None:
    """The live version is held, the late one is not: it is destroyed, and the held one stays."""
    first = held_row("binding", "ann")
    second = first | {"subscriber": "bob", "observed_us": first["observed_us"] + S}
    third = first | {"valid_to_us": NOON + S, "observed_us": first["observed_us"] + 2 * S}
    at, ann = place("binding"), hold_on("ann")
    world.put("binding", [first])
    world.put("binding", [second], "late_binding")
    (slot,) = world.vault.slots()
    assert world.select(at, ann, late=slot).rows == 0
    world.vault.drop_slot(approved(slot.place, "late"), slot)
    world.put("binding", [third], "late_binding")
    (slot,) = world.vault.slots()
    world.vault.preserve_late(slot, world.select(at, ann, late=slot))
    world.purge(at, ann)
    assert world.vault.count(at, "vault") == 2  # both versions that were held, older and newer
    world.store.keeper.execute("OPTIMIZE TABLE tallyhold_vault.vault_binding FINAL")
    assert world.vault.count(at, "vault") == 2


@pytest.mark.engine
def test_an_insert_under_way_keeps_its_slot_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still write to the slot in which it began, however long ago that was."""
    world.put("usage", [held_row("usage", "ann")], "late_usage")
    world.put("visit", [held_row("visit", "ann")], "late_visit")
    parts = world.store.keeper.query_columns(
        "SELECT partition FROM system.parts WHERE table = 'late_usage' AND active AND rows > 0"
    )
    number = int(parts["partition"][0])
    # Far enough for the slot to be over, and near enough for the insert to have begun before.
    monkeypatch.setattr(late, "SETTLE_S", -2 * SLOT_S)
    at = world.store.keeper.endpoint
    driver = Driver(at.host, at.port, user=at.user, password=at.password)
    query_id = f"ingest-late_usage-202512-{secrets.token_hex(16)}"
    sleeping = "sleepEachRow(1)" if world.store.name == "bundled" else "sleep(1)"

    def insert() -> None:
        with contextlib.suppress(DriverError):  # it is killed in the end
            driver.execute(
                f"SELECT {sleeping} FROM system.numbers LIMIT 300",
                query_id=query_id,
                settings={"max_block_size": 1},
            )

    running = threading.Thread(target=insert)
    running.start()
    try:
        eventually(lambda: len(world.vault.slots()) == 1, 60)
        assert [slot.record_class for slot in world.vault.slots()] == ["visit"]
        slot = LateSlot("usage", number, ())
        with pytest.raises(PreserveError, match="still take rows"):
            world.vault.drop_slot(approved(slot.place, "late"), slot)
    finally:
        world.store.keeper.query_columns(f"KILL QUERY WHERE query_id = '{query_id}' SYNC")
        running.join()
        driver.disconnect()
    assert [slot.record_class for slot in world.vault.slots()] == ["usage", "visit"]


@pytest.mark.engine
def test_a_slot_needs_its_own_approval(world: World) -> None:
    slot = LateSlot("usage", 1, ())
    for wrong in (approved(slot.place), approved(Place("usage", 2), "late")):
        with pytest.raises(PreserveError, match="approval"):
            world.vault.drop_slot(wrong, slot)


@pytest.mark.engine
def test_ingest_is_told_what_is_closed(world: World) -> None:
    closed = ClosedPartitions(world.store.client)
    world.vault.publish_closed({"visit": 20251201, "usage": 202511})
    assert closed("visit", 20251130)
    assert not closed("visit", 20251201)
    assert not closed("call", 20250101)
    for _ in range(2):
        world.vault.publish_closed({"visit": 20251105, "usage": 202511})  # a longer period
    assert world.store.count("closed_partitions") == 3
    fresh = ClosedPartitions(world.store.client)
    assert fresh("visit", 20251104)
    assert not fresh("visit", 20251105)
    assert fresh("usage", 202510)
    with pytest.raises(ValueError, match="no persons"):
        world.vault.publish_closed({"link": 202511})
