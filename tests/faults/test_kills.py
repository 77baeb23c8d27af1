"""SIGKILL of each part with traffic flowing: bytes stay exact, and what nobody saw is told.

One day has all of it, in seconds: the collector is dead from 6 on and started again at 12, only to
be killed once more before it has closed a window; the aggregator is killed at 18 and started again
at 20, and two seconds after it is back its engine is killed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import pytest

from collector.wire.addr import pack
from collector.wire.records import CALL_INTERRUPTED, SESSION_OPEN_ACROSS_RESTART
from tests.faults.support import (
    CONNECTED_TOLERANCE_S,
    TALK_TOLERANCE_MS,
    WINDOW_S,
    Bill,
    Clock,
    Row,
    World,
    assert_bytes,
    assert_each_row_once,
    covered,
    day_of,
    everybody,
    gaps,
)
from tests.lab import sip
from tests.lab.day import Call, Connect, Disconnect, Fetch, Interim, Stream, nat_v4, public_v4
from tests.lab.truth import Truth

pytestmark = [pytest.mark.lab, pytest.mark.engine]

WALL_S: Final = 37.0
KILL_S: Final = 6.0
BACK_S: Final = 12.0
ALIVE_S: Final = 5.0
"""How often a collector notes that it runs: a gap begins that much before the kill at most."""
DUMP_S: Final = 2.0
"""How often the lab's collector reads the kernel's table."""
A: Final = "+442079460106"
SEEN: Final = "02079460201"
THROUGH: Final = "02079460202"
UNENDED: Final = "02079460203"
UNSEEN: Final = "02079460204"
HANDED_ON: Final = public_v4(4)
STEADY, VISITOR, STARTER, STOPPER, HEIR, CALLER, SILENT = (f"sub-{n:04d}" for n in range(1, 8))

DAY: Final = day_of(
    WALL_S,
    {
        # carries bytes at the very moment of each kill
        1: (
            Connect(0.3, v4=public_v4(1)),
            Fetch(1.5, "tls", ("video.example",), 1_000_000, times=3),
            Stream(4, "up", "games.test", 16_000, 800, 1000),
            Fetch(21, "http", ("upload.photos.test",), up=4_000_000),
            Stream(23.5, "down", "games.test", 8_000, 1000, 1000),
            Disconnect(34),
        ),
        # one host before, one only within the collector's absence, one after; behind the NAT
        2: (
            Connect(0.3, v4=nat_v4(2)),
            Fetch(0.8, "tls", ("news.example",), 20_000, times=3),  # its window ends before 6
            Fetch(6.7, "http", ("bank.example",), 30_000, times=5),
            Fetch(22, "tls", ("mail.example",), 20_000, times=3),
            Disconnect(29),
        ),
        # begins while no collector runs; an Interim tells of it later
        3: (
            Connect(6.5, v4=public_v4(3)),
            Fetch(8.5, "http", ("shop.example",), 400_000),
            Fetch(21, "tls", ("weather.test",), 50_000),
            Interim(22.5),
            Fetch(23, "http", ("static.shop.example",), 100_000),
            Disconnect(30),
        ),
        # ends while no collector runs; the address is another's later
        4: (
            Connect(0.3, v4=HANDED_ON),
            Fetch(2, "http", ("news.example",), 60_000),
            Fetch(6.3, "http", ("phone.example",), 70_000),
            Disconnect(6.8),
        ),
        5: (
            Connect(21, v4=HANDED_ON),
            Fetch(23, "tls", ("bank.example",), 80_000),
            Disconnect(30),
        ),
        6: (
            Connect(0.3, v4=public_v4(6)),
            Call(3, sip.ANSWERED, A, THROUGH, 18_000),
            Call(22, sip.ANSWERED, A, SEEN, 1500),
            Disconnect(28),
        ),
        7: (
            Connect(0.3, v4=public_v4(7)),
            Call(3, sip.ANSWERED, A, UNENDED, 4000),
            Call(8.5, sip.ANSWERED, A, UNSEEN, 300),
            Fetch(22, "tls", ("phone.example",), 10_000),
            Disconnect(28),
        ),
    },
)


@dataclass(frozen=True)
class Disturbed:
    """The day, what its subscribers are told, and when what was done to it."""

    truth: Truth
    bills: dict[str, Bill]
    gaps: list[Row]
    at: dict[str, int]
    open_flows: str
    stored: int


def octets(world: World) -> int:
    """Bytes of all usage rows, whoever they belong to."""
    (row,) = world.rows("SELECT sum(u.up_bytes + u.down_bytes) AS octets FROM usage AS u")
    return int(row["octets"])


@pytest.fixture(scope="module")
def disturbed(world: World) -> Disturbed:
    clock = Clock()
    left = [""]
    appliance = world.appliance
    before = {name: world.bill(name) for name in everybody()}
    stored = octets(world)

    def kill_collector() -> None:
        appliance.kill_collector()
        clock.mark("collector killed")

    def collector_back() -> None:
        families = [["-f", "ipv4", "--orig-src", nat_v4(2), "-p", "tcp"]]
        left[0] = "".join(
            world.lab.edge.run("conntrack", "-L", *f, accept=(0, 1)) for f in families
        )
        clock.mark("collector started")
        appliance.start_collector()
        clock.mark("collector back")
        time.sleep(0.5)
        appliance.kill_collector()
        clock.mark("collector killed again")
        appliance.start_collector()
        clock.mark("collector back again")

    def kill_aggregator() -> None:
        appliance.kill_aggregator()
        clock.mark("aggregator killed")
        time.sleep(2.0)
        appliance.start_aggregator()
        clock.mark("aggregator back")
        time.sleep(2.0)
        clock.mark("engine killed")
        appliance.kill_engine()

    began_ns = time.time_ns()
    truth = world.play(
        DAY,
        [
            (KILL_S, kill_collector),
            (BACK_S, collector_back),
            (18, kill_aggregator),
        ],
    )
    assert_bytes(world, truth.subscribers, before)
    bills = {name: world.bill(name, began_ns) for name in everybody()}
    stored = octets(world) - stored
    return Disturbed(truth, bills, gaps(world, began_ns), clock.at, left[0], stored)


def test_bytes_are_exact_and_nothing_is_doubled(world: World, disturbed: Disturbed) -> None:
    assert_each_row_once(world)
    assert world.metric("engine_restarts") == 1.0
    assert "aggregator back" in disturbed.at
    assert disturbed.at["engine killed"] > disturbed.at["aggregator back"]


def test_every_usage_row_has_its_subscriber(world: World, disturbed: Disturbed) -> None:
    """Rows of a session whose Start nobody saw find it later; none is left to nobody."""
    total = sum(person.up_bytes + person.down_bytes for person in disturbed.truth.subscribers)
    assert disturbed.stored == total
    early = world.rows(
        "SELECT sum(u.down_bytes) AS octets FROM usage AS u WHERE subscriber = ''"
        " AND hex(address) = %(address)s",
        address=pack(public_v4(3)).hex().upper(),
    )
    assert early[0]["octets"] > 400_000, "written before the binding was known"


def test_connection_time(disturbed: Disturbed) -> None:
    for person in disturbed.truth.subscribers:
        if person.id != STOPPER:
            billed = disturbed.bills[person.id].connected_s
            assert abs(billed - person.connected_s) <= CONNECTED_TOLERANCE_S, person.id


def test_a_start_that_nobody_saw_is_derived_and_says_so(disturbed: Disturbed) -> None:
    (session,) = disturbed.bills[STARTER].sessions.sessions
    assert session["start_source"] == "derived"
    assert session["end_reason"] == "stated"
    started_ns = disturbed.truth.subscriber(STARTER).sessions[0].start_ns
    assert abs(session["start_us"] * 1000 - started_ns) <= 1_000_000_000


def test_a_stop_that_nobody_saw_is_bounded_and_says_so(disturbed: Disturbed) -> None:
    (session,) = disturbed.bills[STOPPER].sessions.sessions
    truth = disturbed.truth.subscriber(STOPPER).sessions[0]
    heir = disturbed.truth.subscriber(HEIR).sessions[0]
    assert session["end_reason"] == "inferred:address-reused"
    assert session["flags"] & SESSION_OPEN_ACROSS_RESTART
    assert session["end_min_us"] * 1000 <= truth.stop_ns <= session["end_max_us"] * 1000
    assert session["end_max_us"] * 1000 <= heir.start_ns + 1_000_000_000
    assert disturbed.bills[STOPPER].connected_s <= truth.connected_s + CONNECTED_TOLERANCE_S
    assert disturbed.bills[STOPPER].sessions.coverage.completeness < 1.0


def test_flows_and_visits_of_the_absence_are_told_as_missing(disturbed: Disturbed) -> None:
    at, truth = disturbed.at, disturbed.truth.subscriber(VISITOR)
    assert truth.hosts["bank.example"] == 5
    done = [
        e for e in disturbed.truth.events if e["subscriber"] == VISITOR and "http" in str(e["text"])
    ]
    ended_ns = disturbed.truth.start_ns + int(float(str(done[0]["wall_s"])) * 1e9)
    assert at["collector killed"] < ended_ns < at["collector started"]
    assert disturbed.open_flows == "", "they ended and nobody was there to be told"
    assert disturbed.bills[VISITOR].hosts == ["mail.example", "news.example"]
    unseen = [row for row in disturbed.gaps if row["reason"] == "ended-unseen"]
    assert sum(row["amount"] for row in unseen) > 0, "flows that were known and are gone"
    assert min(row["start_us"] for row in unseen) * 1000 <= at["collector killed"]
    assert not any("usage" in row["classes"] for row in disturbed.gaps), "the kernel counted on"


def test_nothing_else_is_told_as_missing(disturbed: Disturbed) -> None:
    """Losses of the aggregator and its engine cost nothing, so they are no gaps."""
    at = disturbed.at
    assert {row["reason"] for row in disturbed.gaps} <= {
        "restart",
        "ended-unseen",
        "no-baseline",
    }
    for row in disturbed.gaps:
        assert row["start_us"] * 1000 >= at["collector killed"] - (ALIVE_S + WINDOW_S) * 1e9
        # Two dumps of the kernel's table say that a flow is gone.
        late_ns = 0 if row["reason"] == "restart" else 3 * DUMP_S * 1e9
        assert row["end_us"] * 1000 <= at["collector back again"] + late_ns


def test_a_kill_before_the_first_window_takes_no_gap_with_it(disturbed: Disturbed) -> None:
    at = disturbed.at
    assert at["collector killed again"] - at["collector back"] < WINDOW_S * 1_000_000_000
    for name in ("visit", "mapping", "call", "session", "binding"):
        for dead, back in (("killed", "started"), ("killed again", "killed again")):
            away = (at[f"collector {dead}"], at[f"collector {back}"])
            assert covered(disturbed.gaps, name, *away), (name, dead)


def test_a_call_through_the_absence_is_timed_and_marked(disturbed: Disturbed) -> None:
    calls = {row["b_raw"]: row for row in disturbed.bills[CALLER].calls.calls}
    truths = {call.b: call for call in disturbed.truth.calls if call.subscriber == CALLER}
    assert calls.keys() == truths.keys()
    for number, truth in truths.items():
        assert calls[number]["disposition"] == truth.disposition
        assert abs(calls[number]["talk_ms"] - truth.talk_ms) <= TALK_TOLERANCE_MS
    through = truths[THROUGH]
    assert through.answer_ns < disturbed.at["collector killed"]
    assert disturbed.at["collector back again"] < through.end_ns
    assert calls[THROUGH]["flags"] & CALL_INTERRUPTED
    assert not calls[SEEN]["flags"] & CALL_INTERRUPTED


def test_calls_of_the_absence_are_told_as_missing(disturbed: Disturbed) -> None:
    """One that began and ended in it, and one whose BYE fell into it, which stays open."""
    calls = [call for call in disturbed.truth.calls if call.subscriber == SILENT]
    assert [call.b for call in calls] == [UNENDED, UNSEEN]
    assert all(call.end_ns < disturbed.at["collector started"] for call in calls)
    assert covered(disturbed.gaps, "call", calls[1].start_ns, calls[1].end_ns)
    assert covered(disturbed.gaps, "call", calls[0].end_ns, calls[0].end_ns)
    assert disturbed.bills[SILENT].calls.answered == 0


def test_completeness_is_that_of_the_absence(disturbed: Disturbed) -> None:
    away_s = (disturbed.at["collector started"] - disturbed.at["collector killed"]) / 1e9
    most_s = (disturbed.at["collector back again"] - disturbed.at["collector killed"]) / 1e9
    for name in (STEADY, VISITOR, CALLER, SILENT):
        bill = disturbed.bills[name]
        assert bill.usage.coverage.completeness == 1.0, name
        missing_s = (1.0 - bill.calls.coverage.completeness) * bill.connected_s
        assert away_s <= missing_s <= most_s + ALIVE_S + WINDOW_S, name
    assert disturbed.bills[HEIR].calls.coverage.completeness == 1.0
