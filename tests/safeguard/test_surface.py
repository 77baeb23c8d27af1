"""What can be seen from outside: pages, lines, state. Each planted fault fails its own check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily

from aggregator.metrics import Metrics as OfAggregator
from collector.journal import Journal
from collector.metrics import GAUGES, Snapshot
from collector.metrics import Metrics as OfCollector
from collector.track.sessions import EVENTS
from collector.track.trackers import Trackers, TrackersConfig
from retention.metrics import Metrics as OfRetention
from safeguard.prove import site, surface
from safeguard.prove.run import Site, prove
from tests.collector.track.safeguard.guarding import (
    ACCESS,
    MIDNIGHT,
    SECOND,
    block,
    config,
    randomness,
)

WORDS = ("gambling", "adult", "north", "gambling.block.safeguard.example", "203.0.113.7")


def failed(site: Site, name: str) -> list[str]:
    (check,) = prove(site, 1, "0", [name])["checks"]
    assert check["outcome"] in ("passed", "failed"), check
    return list(check["found"])


@contextmanager
def served(*more: CounterMetricFamily, stages: Mapping[str, Any] | None = None) -> Iterator[int]:
    """A page of a collector that has worked, and the port it is served at."""
    counts = {"seen": 9, "recorded": 5, "ignored": 4, "lost": 0, "open": 0, "malformed": 0}
    made = OfCollector("127.0.0.1", 0)
    collect = made.collect
    made.collect = lambda: iter([*collect(), *more])  # type: ignore[method-assign]
    snapshot = Snapshot(
        stages={"dns": counts, **(stages or {})},
        rows={"visit": 5, "block_count": 77, "safeguard_ledger": 26},
        gaps={("capture", "restart"): 1},
        batches={"committed": 1},
        spool_rows={"committed": 5},
        reconciled={"interfaces": 30, "sets": 29, "flows": 20},
        delivery={"deferred": 2, "switched_off": 1},
        requests={"accepted": 1},
        gauges=dict.fromkeys(GAUGES, 1.0),
    )
    silent = [each.name for each in fields(snapshot) if not getattr(snapshot, each.name)]
    assert not silent, "a series without a sample is not looked at"
    made.publish(snapshot)
    made.start()
    try:
        yield made.port
    finally:
        made.stop()


def page(*more: CounterMetricFamily, stages: Mapping[str, Any] | None = None) -> str:
    """The same as text."""
    with served(*more, stages=stages) as port:
        return site.page(f"127.0.0.1:{port}")


def test_the_pages_of_the_product_tell_nothing() -> None:
    pages = {
        "collector": page(),
        "aggregator": generate_latest(OfAggregator().registry).decode(),
        "retention": OfRetention().render().decode(),
    }
    assert failed(Site(pages=pages, words=WORDS), "metrics") == []


def counter(name: str, **labels: str) -> CounterMetricFamily:
    made = CounterMetricFamily(f"tallyhold_collector_{name}", "planted", labels=list(labels))
    made.add_metric(list(labels.values()), 3.0)
    return made


@pytest.mark.parametrize(
    "planted",
    [
        counter("blocks", category="gambling"),
        counter("blocks"),
        counter("answers", kind="3"),
        counter("answers"),
        counter("rows", record_class="gambling"),
        counter("units", stage="dns", outcome="blocked"),
        counter("units", stage="dns", outcome="seen", household="1"),
    ],
)
def test_an_unnoised_metric_is_found(planted: CounterMetricFamily) -> None:
    assert failed(Site(pages={"collector": page(planted)}, words=WORDS), "metrics")


def test_a_stage_of_its_own_is_found() -> None:
    counts = dict.fromkeys(("seen", "recorded", "ignored", "lost", "open", "malformed"), 1)
    text = page(stages={"block-answers": counts})
    assert failed(Site(pages={"collector": text}, words=WORDS), "metrics")


def test_a_debug_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "collector.log"
    handler = logging.FileHandler(path)
    logger = logging.getLogger("test.planted")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.info("collector edge-1 in the northern hall is up; 3 categories")
    assert failed(Site(logs=(path,), words=WORDS), "logs") == []
    logger.debug("answer of %s is a block: %s", "10.0.0.1", "gambling")
    handler.close()
    logger.removeHandler(handler)
    assert failed(Site(logs=(path,), words=WORDS), "logs")


def spooled(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda state: None) -> Path:
    """A journal as a collector that counts leaves it."""
    trackers = Trackers(
        TrackersConfig(ACCESS, 300 * SECOND, safeguard=config()),
        MIDNIGHT - 60 * SECOND,
        randomness(),
    )
    for now in (MIDNIGHT - 60 * SECOND, MIDNIGHT + SECOND):
        trackers.tick(now)
    assert trackers.safeguard is not None
    block(trackers.safeguard, 4711, 1)
    state: dict[str, Any] = {"trackers": trackers.snapshot(), "now_ns": MIDNIGHT}
    change(state)
    journal = Journal(folder / "journal")
    journal.load(0)
    journal.append("alive", {"ts_ns": 1})
    journal.rotate(1, state)
    for kind in sorted(EVENTS):
        journal.append(kind, {"ts_ns": 1})
    journal.sync()
    journal.close()
    return folder


def test_the_state_and_journal_of_a_collector_are_public(tmp_path: Path) -> None:
    assert failed(Site(spool=spooled(tmp_path)), "spool") == []
    assert len(list(tmp_path.rglob("state-*.json"))) == 1


def tag(state: dict[str, Any]) -> None:
    state["trackers"]["safeguard"]["tags"] = ["0011223344556677"]


def tag_among_days(state: dict[str, Any]) -> None:
    state["trackers"]["safeguard"]["days"].append(["0011223344556677", 1, 1])


def tag_elsewhere(state: dict[str, Any]) -> None:
    state["trackers"]["hosts"]["households"] = {"0011223344556677": [1, 2]}


@pytest.mark.parametrize("change", [tag, tag_among_days, tag_elsewhere])
def test_a_tag_in_the_state_is_found(tmp_path: Path, change: Any) -> None:
    assert failed(Site(spool=spooled(tmp_path, change)), "spool")


def test_a_journalled_tag_is_found(tmp_path: Path) -> None:
    spooled(tmp_path)
    journal = Journal(tmp_path / "journal")
    journal.load(0)
    journal.append("seen", {"t": "0011223344556677", "c": 1})
    journal.sync()
    journal.close()
    assert failed(Site(spool=tmp_path), "spool")


def test_what_is_no_state_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "state-1.json").write_bytes(b"\xff\n{")
    (tmp_path / "events-1.log").write_bytes(b"no frames")
    assert surface.spool(tmp_path) == []
