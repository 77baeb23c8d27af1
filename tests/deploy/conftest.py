"""One short day in the lab for all tests of this folder that need figures of a running pair."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.deploy.support import Prometheus, Watched, WatchedLab, wait_for
from tests.lab.appliance import Appliance

WALL_S = 9.0
WINDOW_S = 3
OUTAGE = (0.3, 0.7)
"""The uplink is cut between these parts of the day: a window or more waits in the spool."""
SETTLE_S = 40.0


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("deploy")
    with (
        WatchedLab(folder / "lab", wall_s=WALL_S, scale=0.1) as lab,
        Appliance(folder, lab, WINDOW_S) as appliance,
        Prometheus(
            folder / "prometheus", appliance.collector_metrics_port, appliance.metrics_port
        ) as prometheus,
    ):
        uplink = lab.relays[0]
        truth = lab.run_day(chaos=[(OUTAGE[0], uplink.pause), (OUTAGE[1], uplink.resume)])
        assert truth.errors == []
        appliance.wait_complete(truth.end_ns)
        wait_for("the last scrapes", lambda: settled(prometheus), SETTLE_S)
        yield Watched(lab, appliance, prometheus, truth)


def settled(prometheus: Prometheus) -> bool:
    """Nothing waits, and both sides were scraped since the last batch went over.

    Windows go on being closed, so all questions are asked as of the moment at which this is so.
    """
    prometheus.at = time.time()
    waiting = prometheus.query("tallyhold_collector_spool_pending_batches")
    sent = prometheus.query('tallyhold_collector_spool_batches_total{fate="acknowledged"}')
    taken = prometheus.query('sum(tallyhold_aggregator_batches_total{verdict="accept"})')
    return (
        [value for _, value in waiting] == [0.0]
        and len(sent) == len(taken) == 1
        and sent[0][1] == taken[0][1]
    )
