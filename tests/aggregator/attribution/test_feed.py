"""Bindings read back from both engines: newest versions, day by day, by prefix, by holder."""

from __future__ import annotations

import pytest

from aggregator.attribution.feed import bindings_over, prefixes_of, recent_bindings
from collector.wire.addr import pack
from tests.aggregator.queries.world import DAY, HOUR, World, at, binding
from tests.aggregator.support import Store

pytestmark = pytest.mark.engine

DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")


def test_what_is_stored_can_be_asked_for(engines: Store) -> None:
    world = World(engines)
    for day in DAYS:
        start = at(day)
        opened = binding("a", "10.0.0.1", start)
        closed = binding("a", "10.0.0.1", start, start + 6 * HOUR)
        wide = binding("b", "2001:db8::", start, length=48)
        world.send("edge-1", start + HOUR, binding=[opened, wide])
        world.send("edge-1", start + 7 * HOUR, binding=[closed])
        world.send("edge-2", start + HOUR, binding=[binding("c", "10.0.0.1", start)])
    client = engines.client
    every = list(recent_bindings(client, at(DAYS[0]) // 1000))
    assert len(every) == 9
    assert [one.valid_from_us for _, one in every] == sorted(o.valid_from_us for _, o in every)
    ends = {(c, o.subscriber): (o.valid_to_us - o.valid_from_us) * 1000 for c, o in every}
    assert ends == {("edge-1", "a"): 6 * HOUR, ("edge-1", "b"): DAY, ("edge-2", "c"): DAY}
    assert len(list(recent_bindings(client, at(DAYS[2]) // 1000 + 5))) == 3
    assert list(recent_bindings(client, at("2027-01-01") // 1000)) == []

    span = (at(DAYS[2]) // 1000, at(DAYS[2]) // 1000 + 1)
    assert prefixes_of(client, "a", *span) == [("edge-1", pack("10.0.0.1"), 128)]
    assert prefixes_of(client, "b", *span) == [("edge-1", pack("2001:db8::"), 48)]
    assert prefixes_of(client, "d", *span) == prefixes_of(client, "a", 0, 1) == []

    def over(collector: str, address: str, length: int) -> set[str]:
        found = bindings_over(client, [(collector, pack(address), length)], *span)
        return {one.subscriber for name, one in found if name == collector}

    assert over("edge-1", "10.0.0.1", 128) == {"a"}
    assert over("edge-2", "10.0.0.1", 128) == {"c"}
    assert over("edge-1", "2001:db8:0:77::", 64) == {"b"}
    assert over("edge-1", "2001:db8::", 48) == {"b"}
    assert over("edge-1", "2001:db8::", 32) == set()  # wider than what is held
    assert over("edge-1", "2001:db9::", 64) == over("edge-3", "10.0.0.1", 128) == set()
    # The day asked for and the days beside it, no others.
    days = {
        o.valid_from_us
        for _, o in bindings_over(client, [("edge-1", pack("10.0.0.1"), 128)], *span)
    }
    assert days == {at(day) // 1000 for day in DAYS[1:]}
    many = [("edge-1", pack(f"10.9.{n // 256}.{n % 256}"), 128) for n in range(2500)]
    found = bindings_over(client, [*many, ("edge-1", pack("10.0.0.1"), 128)], *span)
    assert {one.subscriber for _, one in found} == {"a"}
