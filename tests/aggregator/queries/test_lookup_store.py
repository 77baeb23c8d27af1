"""Look-ups over stored rows, on both engines: what collectors sent, through the real ingest."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from typing import Any

import pytest

from aggregator.queries.answering import Answering
from aggregator.queries.deterministic import Deterministic, Version
from aggregator.queries.evidence import Margins
from aggregator.queries.lookup_store import StoreEvidence, TooMany
from aggregator.queries.who import Rules
from collector.wire.addr import pack
from collector.wire.records import record_id
from tests.aggregator.queries import world as rows
from tests.aggregator.queries.world import DAY, HOUR, MINUTE, World, at
from tests.aggregator.support import S

pytestmark = pytest.mark.engine

NOON = at("2026-11-22T12:00")
MARGINS = Margins(settle_us=20 * 60_000_000)


def mapping(
    inside: str, public: str, ports: tuple[int, int], start: int, end: int, kind: str = "flow"
) -> dict[str, Any]:
    return {
        "start_ns": start,
        "end_ns": end,
        "observed_ns": end,
        "inside_address": pack(inside),
        "public_address": pack(public),
        "protocol": 6 if kind == "flow" else 0,
        "port_first": ports[0],
        "port_last": ports[1],
        "kind": kind,
    }


def session(name: str, start: int, end: int = 0, **more: Any) -> dict[str, Any]:
    """As its binding names it: `rows.binding` takes the session's id from the name alone."""
    return rows.session(name, start, end, **{"session_id": record_id("session", name), **more})


class ReadOnly:
    """The store as the service asks it: with a user that may write, and gives that right up."""

    def __init__(self, world: World) -> None:
        self._world = world

    def query_columns(
        self, sql: str, params: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> Mapping[str, list[Any]]:
        given = {**(settings or {}), "readonly": 2}
        return self._world.store.keeper.query_columns(sql, params, given)


def who(world: World, address: str, port: int | None, when: int, **rules: Any) -> dict[str, Any]:
    asked = Answering(ReadOnly(world), Rules(margins=MARGINS, **rules))
    return asked.who(address, port, 6 if port else None, when // 1000, 2_000_000).plain


def names(answer: dict[str, Any]) -> list[str]:
    return [each["subscriber"] for each in answer["candidates"]]


@pytest.fixture
def told(world: World) -> World:
    """Two subscribers one after the other on one inside address, flows and a block; once each."""
    if world.store.count("binding", "subscriber = 'look-1'"):
        return world
    one, two = "10.70.0.1", "10.70.0.2"
    world.send(
        "look-edge",
        NOON + 2 * HOUR,
        session=[
            session("look-1", NOON - HOUR, NOON, end_reason="stated"),
            session("look-2", NOON + MINUTE, 0, proof=NOON + 80 * MINUTE),
            session("look-3", NOON - DAY, at("2026-11-22T00:00")),
            session("look-3", NOON - DAY, slice_start=at("2026-11-22T00:00"), proof=NOON + HOUR),
        ],
        binding=[
            rows.binding("look-1", one, NOON - HOUR, NOON),
            rows.binding("look-2", one, NOON + MINUTE),
            rows.binding("look-3", two, NOON - DAY, at("2026-11-22T00:00")),
            rows.binding("look-3", two, at("2026-11-22T00:00")),
            rows.binding("look-6", "2001:db8:70:100::", NOON - HOUR, NOON, length=56),
        ],
        mapping=[
            mapping(one, "198.51.100.70", (5001, 5001), NOON - 10 * MINUTE, NOON - 7 * MINUTE),
            mapping(one, "198.51.100.70", (5001, 5001), NOON - 10 * MINUTE, NOON - 5 * MINUTE),
            mapping(one, "198.51.100.70", (5001, 5001), NOON + 5 * MINUTE, NOON + 9 * MINUTE),
            mapping(two, "198.51.100.70", (6000, 6999), NOON - HOUR, NOON + HOUR, "block"),
            mapping(two, "198.51.100.71", (6000, 6999), NOON - HOUR, NOON - HOUR + 1, "block"),
        ],
    )
    return world


def test_from_a_port_to_the_subscriber_with_the_evidence(told: World) -> None:
    answer = who(told, "198.51.100.70", 5001, NOON - 8 * MINUTE)
    assert (answer["grade"], names(answer)) == ("CERTAIN", ["look-1"])
    (one,) = answer["candidates"]
    assert one["mapping"]["inside"] == "10.70.0.1"
    assert one["mapping"]["source"] == "flow"
    assert one["mapping"]["proven_until"] == "2026-11-22T11:55:00.000Z"
    assert len(one["mapping"]["record"]) == 32
    assert one["mapping"]["arrived"] == one["binding"]["arrived"] == "2026-11-22T14:00:10.000Z"
    assert (one["binding"]["prefix"], len(one["binding"]["records"])) == ("10.70.0.1/32", 1)
    assert (one["session"]["nas"], one["session"]["line"]) == ("bras-1", "ge-0/0/1")


def test_the_same_port_later_was_somebody_elses(told: World) -> None:
    answer = who(told, "198.51.100.70", 5001, NOON + 7 * MINUTE)
    assert (answer["grade"], names(answer)) == ("CERTAIN", ["look-2"])
    between = who(told, "198.51.100.70", 5001, NOON + 2 * MINUTE)
    assert (between["grade"], between["count"]) == ("NONE", 0)


def test_a_block_held_for_two_hours_and_a_session_since_yesterday(told: World) -> None:
    answer = who(told, "198.51.100.70", 6500, NOON)
    assert (answer["grade"], names(answer)) == ("CERTAIN", ["look-3"])
    released_unheard = who(told, "198.51.100.71", 6500, NOON)
    assert (released_unheard["grade"], names(released_unheard)) == ("BOUNDED", ["look-3"])


def test_a_direct_binding_and_the_tail_after_its_last_proof(told: World) -> None:
    assert who(told, "10.70.0.1", None, NOON + HOUR)["grade"] == "CERTAIN"
    tail = who(told, "10.70.0.1", None, NOON + 90 * MINUTE)
    assert (tail["grade"], names(tail)) == ("BOUNDED", ["look-2"])
    assert who(told, "10.70.0.1", None, NOON + 30 * S)["grade"] == "NONE"


def test_an_ipv6_address_inside_a_delegated_prefix(told: World) -> None:
    answer = who(told, "2001:db8:70:1ab::7", 443, NOON - 10 * MINUTE)
    assert names(answer) == ["look-6"]
    # No session row of it has arrived, so nothing says how long it was alive.
    assert answer["grade"] == "BOUNDED"
    assert who(told, "2001:db8:70:200::7", 443, NOON - 10 * MINUTE)["grade"] == "NONE"


def test_without_a_port_sharers_are_counted(told: World) -> None:
    answer = who(told, "198.51.100.70", None, NOON - 6 * MINUTE)
    assert (answer["grade"], answer["count"], answer["candidates"]) == ("AMBIGUOUS", 2, [])
    shared = who(told, "203.0.113.9", None, NOON, shared=(ipaddress.ip_network("203.0.113.0/24"),))
    assert (shared["grade"], shared["count"]) == ("AMBIGUOUS", 0)


def test_deterministic_configuration_is_a_source_like_the_others(told: World) -> None:
    version = Version(
        "cgn", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "10.70.0.0/24", "198.51.100.80/28",
        (1024, 65_535), 1000, "look-edge",
    )  # fmt: skip
    fixed = Deterministic((version,))
    answer = who(told, "198.51.100.80", 3100, NOON, deterministic=fixed)
    assert (answer["grade"], names(answer)) == ("CERTAIN", ["look-3"])
    assert answer["candidates"][0]["mapping"]["record"] == version.identity
    assert who(told, "198.51.100.80", None, NOON, deterministic=fixed)["count"] == 64


def test_what_is_not_delivered_yet_is_a_gap(told: World) -> None:
    """The collector's last window ends two hours after noon; nobody can know what came then."""
    answer = who(told, "10.70.0.1", None, NOON + 2 * HOUR)
    assert answer["grade"] == "GAP"
    assert "not-delivered" in {each["reason"] for each in answer["losses"]}


def test_a_late_binding_changes_the_answer_and_a_gap_stays_one(world: World) -> None:
    early = at("2026-11-25T12:00")
    world.send(
        "late-edge",
        early + HOUR,
        session=[session("late-1", early - HOUR, 0, proof=early + 50 * MINUTE)],
        binding=[rows.binding("late-1", "10.71.0.1", early - HOUR)],
        gap=[rows.gap(early + 20 * MINUTE, early + 21 * MINUTE, "binding,session")],
    )
    first = who(world, "10.71.0.1", None, early)
    assert (first["grade"], names(first)) == ("CERTAIN", ["late-1"])
    assert who(world, "10.71.0.1", None, early + 20 * MINUTE)["grade"] == "GAP"
    # A session whose records were held up: it had the address from ten minutes before.
    world.send(
        "late-edge",
        early + 2 * HOUR,
        session=[session("late-2", early - 10 * MINUTE, early + HOUR, end_reason="stated")],
        binding=[rows.binding("late-2", "10.71.0.1", early - 10 * MINUTE, early + HOUR)],
    )
    second = who(world, "10.71.0.1", None, early)
    assert second["grade"] == "AMBIGUOUS"
    assert set(names(second)) == {"late-1", "late-2"}


def test_an_address_left_and_taken_again_was_not_held_between(world: World) -> None:
    """A binding that ended while its session went on is not proven up to its end."""
    t = at("2026-11-27T12:00")
    world.send(
        "moved-edge",
        t + 3 * HOUR,
        session=[session("moved", t, t + 2 * HOUR, end_reason="stated")],
        binding=[
            rows.binding("moved", "10.72.0.1", t, t + HOUR),
            rows.binding("moved", "10.72.0.1", t + 90 * MINUTE, t + 2 * HOUR),
        ],
    )
    assert who(world, "10.72.0.1", None, t + 30 * MINUTE)["grade"] == "BOUNDED"
    assert names(who(world, "10.72.0.1", None, t + 75 * MINUTE)) == []
    assert who(world, "10.72.0.1", None, t + 100 * MINUTE)["grade"] == "CERTAIN"


def test_an_inferred_end_is_bounded_up_to_its_latest(world: World) -> None:
    t = at("2026-11-28T12:00")
    world.send(
        "lost-edge",
        t + 3 * HOUR,
        session=[
            session("lost", t, t + HOUR, end_reason="inferred:stale", end_max_ns=t + 2 * HOUR)
        ],
        binding=[{**rows.binding("lost", "10.73.0.1", t, t + HOUR), "certainty": "bounded"}],
    )
    assert who(world, "10.73.0.1", None, t + 30 * MINUTE)["grade"] == "CERTAIN"
    assert who(world, "10.73.0.1", None, t + 90 * MINUTE)["grade"] == "BOUNDED"
    # Nobody; and other tests' collectors, silent since, might have told of somebody.
    nobody = who(world, "10.73.0.1", None, t + 150 * MINUTE)
    assert (nobody["candidates"], nobody["grade"]) == ([], "GAP")


def test_destroyed_days_are_a_gap_and_never_a_none(world: World) -> None:
    old = at("2025-01-05T12:00")
    assert who(world, "10.74.0.1", None, old)["grade"] == "NONE"
    closed: dict[str, list[Any]] = {
        "record_class": ["binding"],
        "first_open": [20250106],
        "version": [1],
    }
    world.store.keeper.insert("closed_partitions", closed)
    answer = who(world, "10.74.0.1", None, old)
    assert (answer["grade"], answer["losses"][0]["reason"]) == ("GAP", "destroyed")
    assert who(world, "10.74.0.1", None, old + 3 * DAY)["grade"] == "NONE"


def test_what_cannot_be_asked_is_said_in_words(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Answering(world.client, Rules())
    for address, port, protocol, tolerance in (
        ("192.0.2.1:80", None, None, 0),
        ("192.0.2.1", None, 6, 0),
        ("192.0.2.1", 1, 6, 3_600_000_001),
    ):
        with pytest.raises(ValueError, match="^[a-z]+: "):
            asked.who(address, port, protocol, NOON // 1000, tolerance)
    monkeypatch.setattr("aggregator.queries.lookup_store.MAX_ROWS", 0)
    monkeypatch.setattr(StoreEvidence, "losses", lambda *_: [])
    with pytest.raises(TooMany):
        asked.who("10.70.0.1", None, None, NOON // 1000, 0)
