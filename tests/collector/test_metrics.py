"""What Prometheus scrapes, over real HTTP."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.metrics import GAUGES, Metrics, MetricsUnavailable, Snapshot

STAGE = {"seen": 9, "recorded": 5, "ignored": 2, "lost": 1, "open": 1, "malformed": 1}
SNAPSHOT = Snapshot(
    stages={"dns": STAGE},
    rows={"usage": 7},
    gaps={("capture", "kernel-drop"): 2},
    batches={"committed": 3},
    spool_rows={"committed": 40},
    reconciled={"interfaces": 30, "sets": 29, "flows": 20},
    requests={"accepted": 2},
    gauges=dict.fromkeys(GAUGES, 0.5),
)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    served = Metrics("127.0.0.1", 0)
    served.start()
    yield served
    served.stop()


def scrape(metrics: Metrics) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        lines = page.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_a_scrape_gives_the_newest_snapshot(metrics: Metrics) -> None:
    assert scrape(metrics) == {}
    metrics.publish(SNAPSHOT)
    found = scrape(metrics)
    prefix = "tallyhold_collector_"
    assert found[prefix + 'units_total{outcome="seen",stage="dns"}'] == 9
    assert found[prefix + 'units_open{stage="dns"}'] == 1
    assert found[prefix + 'gaps_total{reason="kernel-drop",stage="capture"}'] == 2
    assert found[prefix + 'rows_total{record_class="usage"}'] == 7
    assert found[prefix + 'reconciled_bytes_total{stage="sets"}'] == 29
    assert {prefix + name for name in GAUGES} <= found.keys()


def test_what_can_fall_is_no_counter(metrics: Metrics) -> None:
    metrics.publish(SNAPSHOT)
    found = scrape(metrics)
    assert not [name for name in found if "_total" in name and re.search("open|pending", name)]


def test_every_metric_says_what_it_is(metrics: Metrics) -> None:
    metrics.publish(SNAPSHOT)
    for family in metrics.collect():
        assert len(family.documentation) > 10, family.name
    with pytest.raises(KeyError):
        metrics.publish(Snapshot(gauges={"made_up": 1.0}))
        list(metrics.collect())


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetricsUnavailable, match=rf"127\.0\.0\.1:{port}.*set metrics\.listen"):
            Metrics("127.0.0.1", port).start()


def test_it_can_stop_twice_and_frees_its_port() -> None:
    served = Metrics("127.0.0.1", 0)
    served.stop()
    served.start()
    port = served.port
    served.stop()
    served.stop()
    again = Metrics("127.0.0.1", port)
    again.start()
    again.stop()


def test_every_gauge_that_is_published_is_documented() -> None:
    """By the code that publishes, so that a name with a slip is found here and not by a scrape."""
    text = (Path(__file__).parents[2] / "collector" / "report.py").read_text()
    published = set(re.findall(r'^\s+"([a-z_]+)": ', text, re.M)) & (set(GAUGES) | {"x"})
    assert published == set(GAUGES)
