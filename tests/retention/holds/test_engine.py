"""Resolution and coverage over real tables, on both engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collector.wire.addr import pack
from retention.holds import growth
from retention.holds.kept import covered
from retention.holds.resolve import compact
from retention.holds.scope import parse, prefix
from retention.model import Hold
from tests.retention.holds.made import in_force
from tests.retention.vault.world import NOON, S, World, place, row

MINUTE = 60 * S
INSIDE = {"address": pack("100.64.0.7"), "prefix_len": 128}


def fill(world: World) -> None:
    """Ann behind a port of a shared address for five minutes; Eve behind another, and after her."""
    binding = {**INSIDE, "session_id": b"a" * 16, "subscriber": "ann"}
    after = {"valid_from_us": NOON + 5 * MINUTE, "valid_to_us": NOON + 9 * MINUTE}
    world.put(
        "binding",
        [
            row("binding", **binding, valid_to_us=NOON + 5 * MINUTE),
            row("binding", **INSIDE, **after, subscriber="eve", session_id=b"e" * 16),
        ],
    )
    world.put(
        "mapping",
        [
            row("mapping", inside_address=pack("100.64.0.7"), public_address=pack("192.0.2.1")),
            row(
                "mapping",
                inside_address=pack("100.64.0.8"),
                public_address=pack("192.0.2.1"),
                port_first=2048,
                port_last=3071,
            ),
        ],
    )
    session = {"session_id": b"a" * 16, "acct_session_id": "0000A7"}
    world.put(
        "session",
        [
            row("session", **session, subscriber="ann"),
            row("session", **session, slice_start_us=NOON - MINUTE, slice_end_us=NOON + 1),
        ],
    )
    world.put("visit", [row("visit", **INSIDE), row("visit", subscriber="eve")])
    world.put("usage", [row("usage", subscriber="ann", end_us=NOON + MINUTE)])


def resolved(world: World, hold: Hold) -> Hold:
    """The hold with all that the engine's history leads it to."""
    now = NOON + 86_400 * S
    found = growth.read(world.vault, hold, now)
    return replace(hold, scope=compact((*hold.scope, *growth.items(hold, found, now))))


@pytest.mark.engine
def test_a_port_and_a_time_lead_to_one_subscriber_and_their_rows(world: World) -> None:
    fill(world)
    order = parse("address", "192.0.2.1", NOON - MINUTE, NOON + 5 * MINUTE, (), (1500, 1500))
    hold = resolved(world, in_force(order))
    assert {
        (item.value, item.from_us - NOON, item.to_us - NOON) for item in hold.scope if item.resolved
    } == {
        ("ann", 0, 5 * MINUTE),
        ("100.64.0.7/32", 0, 5 * MINUTE),
        ("0000A7", 0, 1),  # the slice that does not name her
    }
    assert resolved(world, hold) == hold
    kept = covered(world.vault, hold, (), NOON).by_class()
    assert {name: rows for name, (_, rows, _, _) in kept.items()} == {
        "binding": 1,
        "mapping": 1,
        "session": 2,
        "usage": 1,
        "visit": 1,
    }


@pytest.mark.engine
def test_a_shared_address_is_seen_in_the_mappings(world: World) -> None:
    fill(world)
    order = parse("address", "192.0.2.1", NOON, NOON + MINUTE)
    assert growth.shared(world.vault, [order], ()) == order
    later = replace(order, from_us=NOON + 6 * MINUTE, to_us=NOON + 7 * MINUTE)
    assert growth.shared(world.vault, [later], ()) is None
    assert growth.shared(world.vault, [later], (prefix("192.0.2.0/24"),)) == later


@pytest.mark.engine
def test_coverage_counts_live_and_vault_together(world: World) -> None:
    fill(world)
    hold = resolved(world, in_force(parse("subscriber", "ann", NOON, NOON + 5 * MINUTE)))
    before = covered(world.vault, hold, (), NOON)
    world.purge(place("binding"), hold)
    after = covered(world.vault, hold, (), NOON)
    assert before.by_class() == after.by_class()
    kept = {each.partition.place.record_class: (each.live, each.vault) for each in after.places}
    assert kept["binding"] == (0, 1)
    assert kept["usage"] == (1, 0)
