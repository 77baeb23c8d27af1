"""Figures of the benches: one JSON file each in build/bench, and one table of all of them.

    python -m bench.report            # the table of what build/bench holds
    python -m bench.report --json     # the same for programs

A figure compares ours with a named peer, measured in turns within one run, so that a busy or slow
machine burdens both; `ratio` says how many times as good ours is: 2 is half the cost, or twice the
rate. The figures themselves mean little on another machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

FOLDER: Final = Path("build/bench")
MAX_ROUNDS: Final = 1000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")

Way = Callable[[], int]
"""Does its work once; says how many items (messages, rows, draws) it was."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One comparison.

    name: words joined by '-', after the bench and a dot ("decode.conntrack-pyroute2"); also the
    file's name. ours, peer: in `unit`. peer_is: who the peer is, with its version where it has
    one, or the budget. wanted: the ratio to reach, None where none is. rate: more is better.
    includes, leaves_out: what is and what is not in both figures, in words.
    """

    name: str
    ours: float
    peer: float
    unit: str
    peer_is: str
    includes: str
    leaves_out: str
    wanted: float | None = None
    rate: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"no name of a figure: {self.name}")
        if not all(math.isfinite(each) and each > 0 for each in (self.ours, self.peer)):
            raise ValueError(f"{self.name}: {self.ours} and {self.peer} are to be above 0")
        if not (self.includes and self.leaves_out):
            raise ValueError(f"{self.name} does not say what it includes and leaves out")

    @property
    def ratio(self) -> float:
        """How many times as good ours is."""
        return self.ours / self.peer if self.rate else self.peer / self.ours

    @property
    def met(self) -> bool:
        return self.wanted is None or self.ratio >= self.wanted


def cpu_of(way: Way) -> tuple[float, int]:
    """Seconds of CPU of this process, kernel part included, and items of one go."""
    began = time.process_time()
    done = way()
    return time.process_time() - began, done


def in_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Microseconds of CPU an item of each way: the best of `rounds`, in which they take turns."""
    found = dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, done = cpu_of(way)
            found[name] = min(found[name], seconds / max(done, 1) * 1e6)
    return found


def save(figures: Iterable[Figure], folder: Path = FOLDER) -> list[Figure]:
    """Write each to its own file; gives those that do not reach what is wanted of them."""
    folder.mkdir(parents=True, exist_ok=True)
    missed = []
    for figure in figures:
        whole = {**asdict(figure), "ratio": figure.ratio, "met": figure.met, "machine": machine()}
        path = folder / f"{figure.name}.json"
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        if not figure.met:
            missed.append(figure)
    return missed


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All figures that were written, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def machine() -> dict[str, Any]:
    """What one needs to know of where and when it was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
    }


def table(figures: Iterable[Mapping[str, Any]]) -> Table:
    """All figures for people."""
    made = Table(title="Ours beside the peer, in turns in one run; ratio: times as good")
    for column in ("figure", "ours", "peer", "unit", "ratio", "wanted", "is", "peer is"):
        numeric = column in ("ours", "peer", "ratio", "wanted")
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for each in figures:
        wanted = each["wanted"]
        made.add_row(
            each["name"],
            f"{each['ours']:,.4g}" if each["ours"] < 1e6 else f"{each['ours']:,.0f}",
            f"{each['peer']:,.4g}" if each["peer"] < 1e6 else f"{each['peer']:,.0f}",
            each["unit"],
            f"{each['ratio']:,.3g}" if each["ratio"] < 1000 else f"{each['ratio']:,.0f}",
            "" if wanted is None else f"{wanted:g}",
            "" if wanted is None else "met" if each["met"] else "missed",
            each["peer_is"],
        )
    return made


def finish(figures: Iterable[Figure]) -> int:
    """What a bench ends with: saves, prints its own table, gives the exit code (1: one missed)."""
    made = list(figures)
    missed = save(made)
    console().print(table({**asdict(f), "ratio": f.ratio, "met": f.met} for f in made))
    return 1 if missed else 0


def console() -> Console:
    """Wide enough for the table where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one array instead of a table")
    options = parser.parse_args()
    figures = load()
    if options.json:
        json.dump(figures, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        console().print(table(figures))
    return 0 if all(each["met"] for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
