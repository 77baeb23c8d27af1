"""What the fault tests share: one running appliance, days in seconds, bills beside the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from aggregator.config import load
from aggregator.queries import billing
from aggregator.queries.arithmetic import Period, parse_period
from aggregator.reader import reader
from tests.lab.appliance import COLLECTOR, Appliance, Unaudited, hosts, scrape
from tests.lab.day import HOURS, Day, Step, Subscriber
from tests.lab.lab import Lab
from tests.lab.truth import SubscriberTruth, Truth

LINES: Final = 7
WINDOW_S: Final = 3
CONNECTED_TOLERANCE_S: Final = 1.0
TALK_TOLERANCE_MS: Final = 60
WAIT_S: Final = 25.0

Row = dict[str, Any]


@dataclass
class World:
    """A lab and an appliance that meters it; `folder` has everybody's logs."""

    folder: Path
    lab: Lab
    appliance: Appliance
    days: list[Truth] = field(default_factory=list)

    def play(self, day: Day, chaos: list[tuple[float, Callable[[], None]]]) -> Truth:
        """Play a day with disturbances at given seconds; the truth, once its last window is in."""
        self.lab.day = day
        truth = self.lab.run_day(chaos=[(second / day.wall_s, action) for second, action in chaos])
        assert truth.errors == []
        assert truth.drops == 0
        self.appliance.wait_complete(truth.end_ns)
        self.days.append(truth)
        return truth

    def rows(self, sql: str, **params: Any) -> list[Row]:
        """Rows straight from a table."""
        with self.client() as client:
            return list(billing.rows_of(client, sql, params))

    @contextmanager
    def client(self) -> Iterator[billing.Reader]:
        """The store as those who answer questions see it."""
        opened = reader(load(self.appliance.config))
        try:
            yield opened
        finally:
            opened.close()

    def bill(self, subscriber: str, since_ns: int = 0) -> Bill:
        """Everything that the product says of a subscriber: volume of all days, the rest since."""
        whole = parse_period(self.appliance.period)
        span = Period("the day", max(whole.start_us, since_ns // 1000), whole.end_us)
        now_us = time.time_ns() // 1000
        with self.client() as client:
            used = billing.usage(client, subscriber, whole, now_us, Unaudited())
            line = billing.sessions(client, subscriber, span, now_us, Unaudited())
            called = billing.calls(client, subscriber, span, now_us, Unaudited())
            return Bill(used, line, called, hosts(client, subscriber, span))

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the aggregator, 0 where there is none; labels in alphabetic order."""
        return sample(self.appliance.metrics_port, f"tallyhold_aggregator_{name}", **labels)

    def collector_metric(self, name: str, **labels: str) -> float:
        """A sample of the main collector, 0 where there is none."""
        return sample(
            self.appliance.collector_metrics_port, f"tallyhold_collector_{name}", **labels
        )


@dataclass(frozen=True)
class Bill:
    """Answers about one subscriber."""

    usage: billing.Usage
    sessions: billing.Sessions
    calls: billing.Calls
    hosts: list[str]

    @property
    def octets(self) -> tuple[int, int]:
        return self.usage.totals["up_bytes"], self.usage.totals["down_bytes"]

    @property
    def connected_s(self) -> float:
        return self.sessions.connected_us / 1e6


class Clock:
    """Remembers when disturbances happened, UTC ns by name."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def mark(self, name: str) -> None:
        self.at[name] = time.time_ns()


def everybody() -> list[str]:
    """Ids of all lines."""
    return [f"sub-{line:04d}" for line in range(1, LINES + 1)]


def day_of(wall_s: float, lines: dict[int, tuple[Step, ...]]) -> Day:
    """A day of LINES lines whose steps are timed in seconds instead of hours; others stay idle."""
    day = Day(
        tuple(
            Subscriber(line, tuple(_hour(step, wall_s) for step in lines.get(line, ())))
            for line in range(1, LINES + 1)
        ),
        wall_s,
    )
    day.check()
    return day


def sample(port: int, name: str, **labels: str) -> float:
    """One Prometheus sample; 0 where nobody answers, or has no such labels yet."""
    inside = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    page = scrape(port)
    assert not page or any(key.partition("{")[0] == name for key in page), f"{name} is not served"
    return page.get(f"{name}{{{inside}}}" if inside else name, 0.0)


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float = WAIT_S) -> float:
    """Seconds until `ready`; AssertionError where it does not come."""
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < timeout_s, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def assert_bytes(world: World, people: list[SubscriberTruth], before: dict[str, Bill]) -> None:
    """Every bill has grown by the truth, to the byte, and nobody's bytes belong to nobody."""
    wrong = {}
    for person in people:
        bill = world.bill(person.id)
        was = before[person.id].octets if person.id in before else (0, 0)
        grown = (bill.octets[0] - was[0], bill.octets[1] - was[1])
        if grown != (person.up_bytes, person.down_bytes):
            wrong[person.id] = (grown, (person.up_bytes, person.down_bytes))
    assert wrong == {}, f"billed beside the truth, up and down: {wrong}"


def assert_each_row_once(world: World) -> None:
    """No record is stored twice, and every batch of the main collector came once and in order."""
    for table in ("usage", "visit", "mapping", "link"):
        # The tellings of a mapping are versions of one record, apart by when they were written.
        found = world.rows(
            f"SELECT count() AS n, uniqExact(collector, record_id, observed_us) AS ids FROM {table}"
        )
        assert found[0]["n"] == found[0]["ids"], table
    ledger = world.rows(
        "SELECT sequence, verdict FROM ingest_ledger WHERE collector = %(name)s ORDER BY sequence",
        name=COLLECTOR,
    )
    assert [row["sequence"] for row in ledger] == list(range(1, len(ledger) + 1))
    assert {row["verdict"] for row in ledger} == {"accept"}


def gaps(world: World, since_ns: int, collector: str = COLLECTOR) -> list[Row]:
    """Gap records of a collector that reach past a time."""
    return world.rows(
        "SELECT DISTINCT stage, reason, start_us, end_us, amount, unit, classes FROM gap"
        " WHERE collector = %(name)s AND end_us > %(since)s ORDER BY start_us",
        name=collector,
        since=since_ns // 1000,
    )


def covered(found: list[Row], record_class: str, start_ns: int, end_ns: int) -> bool:
    """Whether one gap of that class spans the whole interval."""
    return any(
        record_class in row["classes"].split(",")
        and row["start_us"] * 1000 <= start_ns
        and row["end_us"] * 1000 >= end_ns
        for row in found
    )


def _hour(step: Step, wall_s: float) -> Step:
    return replace(step, at=step.at / wall_s * HOURS)
