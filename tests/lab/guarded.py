"""SafeGuard's part of the demo: the households that really met a block beside the noisy counts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.table import Table

from aggregator.config import load
from aggregator.reader import reader
from tests.lab.appliance import Appliance
from tests.lab.crowd import Cells, Crowd, CrowdTruth, released
from tests.lab.names import BLOCK_DOMAIN, BLOCKED

FAR: Final = 25
"""Units of scale that no count is off by: a chance of 3 in 10^11 for each."""
_TRACES: Final = "SELECT DISTINCT host FROM visit"


class Playing:
    """The crowd's day, played in a thread beside the lab's; a context manager."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._pool = ThreadPoolExecutor(1)
        self._truth: Future[CrowdTruth] | None = None

    def __enter__(self) -> Self:
        self._truth = self._pool.submit(self._crowd.play_day)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def truth(self) -> CrowdTruth:
        """Once the day is over; raises what went wrong in it."""
        assert self._truth is not None
        return self._truth.result()


def tell(console: Console, appliance: Appliance, crowd: Crowd, truth: CrowdTruth) -> dict[str, Any]:
    """Wait for the counts, print them beside the truth; the report's part "safeguard"."""
    client = reader(load(appliance.config))
    try:
        counts, entries = released(client, truth)
        hosts = [str(host) for host in client.query_columns(_TRACES)["host"]]
    finally:
        client.close()
    names = (BLOCK_DOMAIN, *(name for names in BLOCKED.values() for name in names))
    wanted = truth.cells(crowd.clock)
    scales = {entry["marginal"]: entry["scale"] for entry in entries}
    report = {
        "households": truth.households,
        "epsilon": sum(entry["epsilon_micro"] for entry in entries) / 1e6,
        "cells": [
            {
                "marginal": key[0], "start_us": key[1], "region": key[2], "category": key[3],
                "truth": wanted[key], "told": counts.get(key), "scale": scales.get(key[0]),
            }
            for key in sorted(wanted)
        ],
        "traces": [host for host in hosts if host.endswith(names)],
    }  # fmt: skip
    report["ok"] = (
        counts.keys() == wanted.keys()
        and not report["traces"]
        and all(abs(counts[key] - wanted[key]) <= FAR * scales[key[0]] for key in wanted)
    )
    _print(console, wanted, counts, scales)
    return report


def _print(console: Console, wanted: Cells, counts: Cells, scales: dict[str, float]) -> None:
    table = Table(title="SafeGuard: households beside noisy counts", title_justify="left")
    for name in ("Category", "Released", "In truth", "Told", "±95 %"):
        table.add_column(name, justify="left" if name in ("Category", "Released") else "right")
    hours = sorted({key[1] for key in wanted if key[0] == "category-hour"})
    for key in sorted(wanted, key=lambda key: (key[3], key[0], key[1])):
        what = f"hour {hours.index(key[1]) + 1}" if key[0] == "category-hour" else "day"
        # ln(20) scales hold 95 % of a two-sided geometric distribution.
        error = f"{3.0 * scales.get(key[0], 0):.0f}"
        table.add_row(key[3], what, str(wanted[key]), str(counts.get(key, "-")), error)
    console.print(table)
