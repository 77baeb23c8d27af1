"""Ordinary ends and starts within a day change no figure, and a part that is away costs only time.

One day, in seconds: at 4 the collector is stopped and started, twice in a row; the aggregator is
away from 18 on, and once it is back its engine is kept down until a collector was told to come
again: on a machine with nothing else to do that takes 4 seconds, on a busy one it may take longer.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.faults.support import (
    CONNECTED_TOLERANCE_S,
    TALK_TOLERANCE_MS,
    Bill,
    Clock,
    Row,
    World,
    assert_bytes,
    assert_each_row_once,
    day_of,
    everybody,
    gaps,
    wait_for,
)
from tests.lab import sip
from tests.lab.appliance import COLLECTOR, scrape
from tests.lab.day import Call, Connect, Disconnect, Fetch, Interim, Stream, own_v6, public_v4
from tests.lab.netns import LabError
from tests.lab.truth import Truth

pytestmark = [pytest.mark.lab, pytest.mark.engine]

WALL_S: Final = 36.0
A: Final = "+442079460106"
THROUGH: Final = "02079460205"
LATER: Final = "02079460206"
LEAST_DOWN_S: Final = 4.0
MOST_DOWN_S: Final = 60.0
SECOND_NS: Final = 1_000_000_000
DUMP_NS: Final = 2 * SECOND_NS
"""How often the lab's collector reads the kernel's table."""

DAY: Final = day_of(
    WALL_S,
    {
        1: (
            Connect(0.3, v4=public_v4(1)),
            Stream(2.5, "up", "games.test", 12_000, 700, 1000),
            Stream(18.5, "down", "games.test", 12_000, 700, 1000),
            Disconnect(33),
        ),
        2: (
            Connect(0.3, v4=public_v4(2), v6=own_v6(2)),
            Fetch(2, "tls", ("shop.example",), 50_000, times=4),
            Fetch(19, "http", ("www.shop.example",), 50_000, times=4, family=6),
            Interim(20),
            Fetch(29, "tls", ("news.example",), 50_000, times=4),
            Disconnect(32),
        ),
        # begins and ends while the aggregator is away
        3: (
            Connect(18.5, v6=own_v6(3)),
            Fetch(19.5, "tls", ("bank.example",), 90_000, times=2, family=6),
            Disconnect(20.5),
        ),
        6: (
            Connect(0.3, v4=public_v4(6)),
            Call(2.5, sip.ANSWERED, A, THROUGH, 14_000),
            Call(24, sip.ANSWERED, A, LATER, 1000),
            Disconnect(31),
        ),
    },
)


@dataclass(frozen=True)
class Restarted:
    """The day, the bills, the gaps, when what was done, and what the parts said meanwhile."""

    truth: Truth
    bills: dict[str, Bill]
    gaps: list[Row]
    at: dict[str, int]
    seen: dict[str, float] = field(default_factory=dict)
    health: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture(scope="module")
def restarted(world: World) -> Restarted:
    clock, appliance = Clock(), world.appliance
    seen: dict[str, float] = {}
    health: list[tuple[int, dict[str, Any]]] = []
    before = {name: world.bill(name) for name in everybody()}

    def restart_collector(name: str) -> None:
        clock.mark(f"stop {name}")
        appliance.stop_collector()
        assert appliance.collector is not None
        seen[f"exit {name}"] = appliance.collector.returncode
        appliance.start_collector()
        clock.mark(f"start {name}")

    def restart_twice() -> None:
        restart_collector("first")
        restart_collector("second")

    def aggregator_away() -> None:
        began = time.monotonic()
        appliance.stop_aggregator()
        seen["aggregator stopped after"] = time.monotonic() - began
        clock.mark("aggregator stopped")
        time.sleep(6.0)
        seen["batches kept"] = world.collector_metric("spool_pending_batches")
        seen["uplink down"] = world.collector_metric("uplink_up")
        appliance.start_aggregator()
        clock.mark("aggregator started")
        time.sleep(2.0)
        keep_engine_down()

    def told() -> float:
        """Batches sent back; of an aggregator that has just started there may be none to serve."""
        labels = f'collector="{COLLECTOR}",reason="store-unavailable",verdict="retry"'
        name = f"tallyhold_aggregator_batches_total{{{labels}}}"
        return scrape(appliance.metrics_port).get(name, 0.0)

    def keep_engine_down() -> None:
        began = time.monotonic()
        enough = False
        while not enough and time.monotonic() < began + MOST_DOWN_S:
            enough = (
                time.monotonic() > began + LEAST_DOWN_S
                and told() >= 1
                and any(code == 503 for code, _ in health)
                and world.metric("engine_restarts") >= 2
            )
            try:
                appliance.kill_engine()
            except (LabError, OSError):  # the supervisor has not started it again yet
                health.append(ask_health(appliance.metrics_port))
            time.sleep(0.3)
        clock.mark("engine left alone")

    began_ns = time.time_ns()
    truth = world.play(
        DAY,
        [
            (4, restart_twice),
            (18, aggregator_away),
        ],
    )
    wait_for("an empty spool", lambda: world.collector_metric("spool_pending_batches") == 0.0)
    assert_bytes(world, truth.subscribers, before)
    seen["engine restarts"] = world.metric("engine_restarts")
    seen["retried"] = told()
    bills = {name: world.bill(name, began_ns) for name in everybody()}
    return Restarted(truth, bills, gaps(world, began_ns), clock.at, seen, health)


def test_a_clean_end_is_clean(restarted: Restarted) -> None:
    assert [restarted.seen[f"exit {name}"] for name in ("first", "second")] == [0, 0]


def test_no_figure_changes(world: World, restarted: Restarted) -> None:
    assert_each_row_once(world)
    for person in restarted.truth.subscribers:
        bill = restarted.bills[person.id]
        assert abs(bill.connected_s - person.connected_s) <= CONNECTED_TOLERANCE_S, person.id
        assert bill.hosts == sorted({*person.hosts, *person.reached}), person.id
        assert bill.usage.coverage.completeness == 1.0
        for session in bill.sessions.sessions:
            assert (session["start_source"], session["end_reason"]) == ("stated", "stated")


def test_calls_through_restarts_are_timed(restarted: Restarted) -> None:
    (caller,) = {call.subscriber for call in restarted.truth.calls}
    recorded = {row["b_raw"]: row for row in restarted.bills[caller].calls.calls}
    assert recorded.keys() == {THROUGH, LATER}
    for call in restarted.truth.calls:
        assert abs(recorded[call.b]["talk_ms"] - call.talk_ms) <= TALK_TOLERANCE_MS
    assert recorded[THROUGH]["flags"] == 1
    assert recorded[LATER]["flags"] == 0


def test_a_gap_is_as_long_as_the_absence(restarted: Restarted) -> None:
    """A collector that is told to stop writes down when, so nothing before it is in doubt."""
    at = restarted.at
    away = [(at[f"stop {name}"], at[f"start {name}"]) for name in ("first", "second")]
    spans = [(row["start_us"] * 1000, row["end_us"] * 1000, row) for row in restarted.gaps]
    for start_ns, end_ns, row in spans:
        if row["reason"] == "restart":
            assert any(a - SECOND_NS // 2 <= start_ns and end_ns <= b for a, b in away), row
        else:  # flows, whose end is certain two dumps later
            assert row["reason"] in ("ended-unseen", "no-baseline")
            assert away[0][0] - DUMP_NS <= start_ns
            assert end_ns <= away[-1][1] + 3 * DUMP_NS
    for a, b in away:
        told = {
            name
            for start_ns, end_ns, row in spans
            if row["reason"] == "restart" and a - SECOND_NS // 2 <= start_ns and end_ns <= b
            for name in row["classes"].split(",")
        }
        assert told == {"binding", "session", "call", "visit", "mapping"}


def test_a_spool_grows_while_the_aggregator_is_away_and_drains(
    world: World, restarted: Restarted
) -> None:
    assert restarted.seen["aggregator stopped after"] < 10.0
    assert restarted.seen["batches kept"] >= 1.0
    assert restarted.seen["uplink down"] == 0.0
    assert world.collector_metric("uplink_up") == 1.0


def test_an_engine_that_is_down_means_come_again(restarted: Restarted) -> None:
    assert restarted.seen["engine restarts"] >= 2.0
    assert restarted.seen["retried"] >= 1.0
    codes = {code for code, _ in restarted.health}
    assert 503 in codes
    assert all(not state["ready"] for code, state in restarted.health if code == 503)
    assert restarted.at["aggregator started"] < restarted.truth.end_ns


def ask_health(port: int) -> tuple[int, dict[str, Any]]:
    """Code and body of /v1/health."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=5) as page:
            return page.status, json.load(page)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
