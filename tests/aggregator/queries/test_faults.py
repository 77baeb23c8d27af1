"""A line's timeline and outages, on both engines; their rules by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from aggregator.queries.answering import Answering
from aggregator.queries.faults import cause_text, flaps
from aggregator.queries.outages import MINUTE_US, Minute, bursts, places, widest
from aggregator.queries.who import Rules
from tests.aggregator.queries.world import DAY, HOUR, MINUTE, World, at, binding, call, gap, session

NOON = at("2026-11-22T12:00")
AREAS = {"north": ["out-bras-1", "out-bras-2"]}


def asked(world: World) -> Answering:
    return Answering(world.client, Rules(), AREAS)


@pytest.mark.engine
def test_one_line_on_one_timeline(world: World) -> None:
    name = "fault-1"
    if not world.store.count("session", f"subscriber = '{name}'"):
        drops = [
            session(
                name, NOON + n * 10 * MINUTE, NOON + n * 10 * MINUTE + 9 * MINUTE, number=n,
                end_reason="stated", terminate_cause=2,
            )
            for n in range(4)
        ]  # fmt: skip
        lost = session(
            name, NOON + 2 * HOUR, NOON + 3 * HOUR, number=8, end_reason="inferred:stale",
            end_max_ns=NOON + 4 * HOUR,
        )  # fmt: skip
        world.send(
            "fault-edge",
            NOON + 6 * HOUR,
            session=[*drops, lost, session(name, NOON + 40 * MINUTE, NOON + HOUR, number=7,
                                           end_reason="stated", terminate_cause=1)],
            binding=[binding(name, "10.80.0.1", NOON, NOON + 5 * HOUR)],
            call=[
                call("10.80.0.1", NOON + MINUTE, number=1, disposition="FAILED", sip_code=503),
                call("10.80.0.1", NOON + 2 * MINUTE, number=2),  # busy is no fault
                call("10.80.0.1", NOON + 3 * MINUTE, 5000, number=3),
            ],
            gap=[gap(NOON + 2 * HOUR, NOON + 2 * HOUR + MINUTE, "session,call")],
        )  # fmt: skip
    answer = asked(world).line(name, "2026-11-22", world.now_ns // 1000)
    assert (answer["sessions"], answer["drops"], answer["flaps"]) == (6, 4, 1)
    assert answer["calls_failed"] == 1
    assert answer["completeness"] < 1
    what = [each["what"] for each in answer["timeline"]]
    assert Counter(what) == {
        "session begins": 6, "session ends": 6, "flaps": 1, "call from the line failed": 1,
        "records missing": 1,
    }  # fmt: skip
    assert [each["at"] for each in answer["timeline"]] == sorted(
        each["at"] for each in answer["timeline"]
    )
    ends = [each for each in answer["timeline"] if each["what"] == "session ends"]
    assert ends[0]["detail"] == "lost carrier"
    assert ends[0]["line"] == "ge-0/0/1"
    assert ends[-2]["detail"] == "user request"
    assert ends[-1]["detail"] == "inferred:stale"
    assert ends[-1]["until_at_latest"] == "2026-11-22T16:00:00.000Z"
    assert "+44" not in str(answer), "numbers are no business of the fault team"
    with pytest.raises(ValueError, match="empty"):
        asked(world).line("", "2026-11-22", 0)
    with pytest.raises(ValueError, match="no period"):
        asked(world).line(name, "yesterday", 0)


def lines(nas: str, port: str, count: int, end: int, **more: Any) -> list[dict[str, Any]]:
    return [
        session(
            f"out-{nas}-{port}-{n}", end - HOUR, end + n * 1_000_000_000, nas=nas,
            line=f"{port}:{n}", end_reason="stated", **more,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.engine
def test_lines_that_ended_together(world: World) -> None:
    day = at("2026-11-24T00:00")
    if not world.store.count("session", "nas = 'out-bras-1'"):
        world.send(
            "out-edge",
            day + DAY,
            session=[
                *lines("out-bras-1", "ge-0/0/1", 8, day + 9 * HOUR, terminate_cause=2),
                *lines("out-bras-1", "ge-0/0/2", 12, day + 12 * HOUR, terminate_cause=1),
                *lines("out-bras-2", "xe-1/0/0", 9, day + 15 * HOUR, terminate_cause=11),
                *lines("out-bras-2", "xe-1/0/1", 9, day + 15 * HOUR, terminate_cause=11),
                *lines("out-bras-2", "xe-1/0/2", 2, day + 15 * HOUR, terminate_cause=11),
                # One after another all day: nothing ended together.
                *(
                    session(
                        f"out-x-{n}", day + n * HOUR, day + n * HOUR + MINUTE, nas="out-bras-3",
                        line=f"ge-9/9/9:{n}", end_reason="stated",
                    )
                    for n in range(20)
                ),
            ],
        )  # fmt: skip
    found = asked(world).outages("2026-11-24", 5, 0.9)["outages"]
    shown = [(each["kind"], each["place"], each["lines"], each["of_lines"]) for each in found]
    assert shown == [
        ("port", "out-bras-1 ge-0/0/1", 8, 8),
        ("port", "out-bras-1 ge-0/0/2", 12, 12),
        ("nas", "out-bras-2", 20, 20),
    ]
    assert found[0]["causes"] == {"lost carrier": 8}
    assert found[0]["start"] == "2026-11-24T09:00:00.000Z"
    assert {part["place"] for part in found[2]["parts"]} == {
        "out-bras-2 xe-1/0/0", "out-bras-2 xe-1/0/1",
    }  # fmt: skip
    assert "out-out" not in str(found), "nobody is named"
    wide = asked(world).outages("2026-11-24", 5, 0.4)["outages"]
    assert ("area", "north", 20, 40) in [
        (each["kind"], each["place"], each["lines"], each["of_lines"]) for each in wide
    ]
    assert asked(world).outages("2026-11-25", 2, 0)["outages"] == []


def test_flaps_take_three_falls_within_an_hour() -> None:
    def row(start: int, end: int, cause: int = 2) -> dict[str, Any]:
        return {
            "start_us": start * MINUTE_US,
            "end_min_us": end * MINUTE_US,
            "open": False,
            "terminate_cause": cause,
        }

    steady = [row(0, 100), row(101, 200), row(201, 300), row(301, 400)]
    assert flaps(steady) == []
    falling = [row(0, 10), row(11, 30), row(31, 50), row(51, 400)]
    assert flaps(falling) == [{"from_us": 10 * MINUTE_US, "to_us": 50 * MINUTE_US, "drops": 3}]
    assert flaps([row(0, 10, 1), row(11, 30, 1), row(31, 50, 1), row(51, 400)]) == []


def minute(*numbers: int) -> Minute:
    return Minute(set(numbers), Counter({"lost carrier": len(numbers)}))


def test_an_outage_across_a_minutes_edge_is_one() -> None:
    ends = {10: minute(1, 2, 3), 11: minute(4, 5, 6), 12: minute(7), 20: minute(8, 9)}
    (found,) = bursts(("port", "p"), ends, 10, 5, 0.5)
    assert (found.start_us, found.end_us) == (10 * MINUTE_US, 12 * MINUTE_US)
    assert found.lines == {1, 2, 3, 4, 5, 6}
    assert bursts(("port", "p"), ends, 100, 5, 0.5) == []
    again = {10: minute(1, 2), 11: minute(1, 2)}  # two lines that flap are two lines
    assert bursts(("port", "p"), again, 2, 4, 0) == []


def test_a_part_of_a_wider_outage_is_named_in_it() -> None:
    port = bursts(("port", "n p"), {5: minute(1, 2, 3)}, 3, 2, 0)
    nas = bursts(("nas", "n"), {5: minute(1, 2, 3, 4)}, 4, 2, 0)
    later = bursts(("port", "n p"), {50: minute(1, 2, 3)}, 3, 2, 0)
    found = widest([*port, *nas, *later])
    assert [(each.place[0], len(parts)) for each, parts in found] == [("nas", 1), ("port", 0)]


def test_places_and_causes_in_words() -> None:
    assert places("n", "", {}) == [("nas", "n")]
    assert places("n", "p", {"n": "north"}) == [("port", "n p"), ("nas", "n"), ("area", "north")]
    assert [cause_text(n) for n in (-1, 2, 18, 0, 99)] == [
        "not stated", "lost carrier", "host request", "cause 0", "cause 99",
    ]  # fmt: skip
