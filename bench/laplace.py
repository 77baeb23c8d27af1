"""Discrete Laplace noise: how fast one value is drawn from the table and by rejection.

    python -m bench.laplace [--draws 20000] [--rounds 5]

The other way is algorithm 2 of Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for
Differential Privacy") in pure Python over integers, with `secrets.randbelow` as its source: exact
as well, without a table, and what one writes when a library is too large for a router. OpenDP is
shown where it is installed. Figures are CPU time of this process, best of the rounds, each round
with all ways in turn; ratios within a run say more than the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from collector.track.safeguard.laplace import DiscreteLaplace

SCALES: Final = (Fraction(1), Fraction(10), Fraction(16), Fraction(200))
WANTED: Final = 5.0
"""Times as fast as rejection that one draw from the table must be."""
MAX_DRAWS: Final = 1_000_000

Way = Callable[[int], object]
"""Draws that many values."""


def bernoulli_exp(num: int, den: int) -> bool:
    """True with probability exp(-num / den), for num <= den (algorithm 1)."""
    k = 1
    while secrets.randbelow(den * k) < num:
        k += 1
    return k % 2 == 1


def rejection(scale: Fraction) -> int:
    """One value by algorithm 2, with t / s = scale."""
    t, s = scale.numerator, scale.denominator
    while True:
        u = secrets.randbelow(t)
        if not bernoulli_exp(u, t):
            continue
        v = 0
        while bernoulli_exp(1, 1):
            v += 1
        y = (u + t * v) // s
        if not secrets.randbelow(2):
            return y
        if y:
            return -y


def ways(scale: Fraction) -> dict[str, Way]:
    law = DiscreteLaplace(scale)
    found: dict[str, Way] = {
        "table, one by one": lambda n: [law.draw(os.urandom) for _ in range(n)],
        "table, 64 at once": lambda n: [law.draws(64, os.urandom) for _ in range(n // 64)],
        "rejection (CKS20)": lambda n: [rejection(scale) for _ in range(n)],
    }
    if find_spec("opendp"):
        import opendp.prelude as dp

        dp.enable_features("contrib")
        inputs = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
        theirs: Any = dp.m.make_laplace(*inputs, scale=float(scale))
        found["OpenDP, 64 at once"] = lambda n: [theirs([0] * 64) for _ in range(n // 64)]
    return found


def measure(scale: Fraction, draws: int, rounds: int) -> dict[str, float]:
    """Microseconds a draw of each way."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways(scale).items():
            began = time.process_time_ns()
            way(draws)
            took = (time.process_time_ns() - began) / 1000 / draws
            best[name] = min(best.get(name, took), took)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    options = parser.parse_args()
    if not 64 <= options.draws <= MAX_DRAWS or not 1 <= options.rounds <= 100:
        parser.error(f"draws are 64 to {MAX_DRAWS}, rounds 1 to 100")
    results = {str(s): measure(s, options.draws, options.rounds) for s in SCALES}
    ratios = {
        scale: found["rejection (CKS20)"] / found["table, one by one"]
        for scale, found in results.items()
    }
    if options.json:
        json.dump({"python": platform.python_version(), "us": results, "ratio": ratios}, sys.stdout)
        sys.stdout.write("\n")
    else:
        table = Table("scale", *next(iter(results.values())), "ratio")
        for scale, found in results.items():
            table.add_row(scale, *(f"{us:.2f} µs" for us in found.values()), f"{ratios[scale]:.1f}")
        Console().print(table)
    return 0 if min(ratios.values()) >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
