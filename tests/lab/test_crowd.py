"""SafeGuard on a real router: hundreds of households counted, none of them recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from aggregator.config import load
from aggregator.reader import reader
from collector.wire.addr import MAPPED, network, pack
from safeguard.search import find
from tests.lab.appliance import Appliance, scrape
from tests.lab.crowd import (
    OPEN_NAMES,
    VISITORS,
    Clock,
    Crowd,
    CrowdTruth,
    address_of,
    plan,
    released,
)
from tests.lab.lab import Lab
from tests.lab.names import BLOCK_DOMAIN, BLOCKED
from tests.lab.topology import PAGES_V4, PAGES_V6

CLOCK: Final = Clock(hour_s=4, hours=3)
EPSILON: Final = 26.0
"""Scales near half a household: a count is off by more than FAR once in 10^7 draws."""
FAR: Final = 10
WINDOW_S: Final = 2


@dataclass(frozen=True)
class Counted:
    """A day of the crowd, what the product says of it, and everything it left behind."""

    truth: CrowdTruth
    counts: dict[tuple[str, int, str, str], int]
    entries: list[dict[str, Any]]
    visits: list[dict[str, Any]]
    metrics: dict[str, float]
    appliance: Appliance


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("crowd")
    with (
        Lab(folder / "lab", subscribers=1) as lab,
        Crowd(lab.network, CLOCK) as crowd,
        Appliance(folder, lab, WINDOW_S, clock=CLOCK, epsilon=EPSILON) as appliance,
    ):
        client = reader(load(appliance.config))
        truth = crowd.play_day()
        counts, entries = released(client, truth)
        appliance.stop_collector()
        found = client.query_columns("SELECT host, server, address FROM visit")
        rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
        metrics = scrape(appliance.metrics_port)
        client.close()
        yield Counted(truth, counts, entries, rows, metrics, appliance)


def test_the_plan_has_households_of_every_kind() -> None:
    made = plan(300, 3, 1)
    met = [homes for hour in made.met for homes in hour.values()]
    assert 150 < len(set().union(*met)) < 280
    assert all(not hour["weapons"] for hour in made.met)
    assert all(hour[name] for hour in made.met for name, names in BLOCKED.items() if names)


@pytest.mark.lab
@pytest.mark.engine
def test_the_whole_domain_is_released_with_zeros_and_is_true(counted: Counted) -> None:
    wanted = counted.truth.cells(CLOCK)
    assert counted.counts.keys() == wanted.keys()
    assert len(wanted) == CLOCK.hours * len(BLOCKED) + len(BLOCKED) + 2
    assert [entry["outcome"] for entry in counted.entries] == ["released"] * (CLOCK.hours + 2)
    assert sum(entry["epsilon_micro"] for entry in counted.entries) <= EPSILON * 1e6
    off = {key: counted.counts[key] - count for key, count in wanted.items()}
    assert max(map(abs, off.values())) <= FAR, off
    zeros = [key for key, count in wanted.items() if count == 0]
    assert len(zeros) >= CLOCK.hours + 2
    assert any(wanted[key] > 3 * FAR for key in wanted)


@pytest.mark.lab
@pytest.mark.engine
def test_nobody_visited_a_block_page_or_a_blocked_name(counted: Counted) -> None:
    hosts = {str(row["host"]) for row in counted.visits}
    blocked = {name for names in BLOCKED.values() for name in names}
    assert not {host for host in hosts if any(host.endswith(name) for name in blocked)}
    assert not {host for host in hosts if host.endswith(BLOCK_DOMAIN)}
    pages = {pack(each) for each in (*PAGES_V4, *PAGES_V6)}
    assert not pages & {row["server"] for row in counted.visits}


@pytest.mark.lab
@pytest.mark.engine
def test_other_visits_of_the_same_households_are_there(counted: Counted) -> None:
    found = {row["address"] for row in counted.visits if row["host"] == OPEN_NAMES[0]}
    homes = [pack(address_of(number)) for number in range(VISITORS)]
    assert {home if home[:12] == MAPPED else network(home, 64) for home in homes} <= found


@pytest.mark.lab
@pytest.mark.engine
def test_no_file_or_page_names_a_blocked_site(counted: Counted) -> None:
    """Spool, journal, database, logs; what the lab's resolver and servers write is theirs."""
    folder = counted.appliance.folder
    places = [folder / "appliance", folder / "spool"]
    places += [folder / f"{name}.log" for name in ("appliance", "collector")]
    names = [name for names in BLOCKED.values() for name in names]
    needles = [text.encode() for text in (*names, BLOCK_DOMAIN)]
    needles += [pack(each) for each in (*PAGES_V4, *PAGES_V6)]
    control = OPEN_NAMES[0].encode()
    found = find(places, [*needles, control])
    assert found[control], "the search finds nothing at all"
    assert {needle: found[needle] for needle in needles if found[needle]} == {}


@pytest.mark.lab
@pytest.mark.engine
def test_the_aggregator_counts_the_rows_and_nothing_else(counted: Counted) -> None:
    """As many in each hour as the domain has cells; no label says what was blocked."""
    rows = counted.metrics['tallyhold_aggregator_rows_received_total{record_class="block_count"}']
    days, rest = divmod(rows, CLOCK.hours * len(BLOCKED) + len(BLOCKED) + 2)
    assert days >= 1 and rest % len(BLOCKED) == 0
    categories = re.compile("|".join([*BLOCKED, "casino", "lewd"]))
    assert not [name for name in counted.metrics if categories.search(name)]
