"""Discrete Laplace noise: how fast one value is drawn from the table and by rejection.

    python -m bench.laplace [--draws 20000] [--rounds 5]

The other way is algorithm 2 of Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for
Differential Privacy") in pure Python over integers, with `secrets.randbelow` as its source: exact
as well, without a table, and what one writes when a library is too large for a router. OpenDP is
shown where it is installed. Figures are CPU time of this process, best of the rounds, each round
with all ways in turn.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Final

from bench import report
from collector.track.safeguard.laplace import DiscreteLaplace

SCALES: Final = (Fraction(1), Fraction(10), Fraction(16), Fraction(200))
WANTED: Final = 5.0
"""Times as fast as rejection that one draw from the table must be."""
MAX_DRAWS: Final = 1_000_000
PEERS: Final = (("rejection", "rejection (CKS20)"), ("opendp", "OpenDP, 64 at once"))

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


def _figure(scale: Fraction, name: str, peer: str, found: dict[str, float]) -> report.Figure:
    one = peer == "rejection (CKS20)"
    return report.Figure(
        name=f"laplace.{name}-scale-{scale}",
        ours=found["table, one by one" if one else "table, 64 at once"],
        peer=found[peer],
        unit="us CPU a draw",
        peer_is=peer,
        includes="one draw" if one else "64 draws in one call",
        leaves_out="building the table once, and OpenDP's measurement once",
        wanted=WANTED if one else None,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not 64 <= options.draws <= MAX_DRAWS or not 1 <= options.rounds <= 100:
        parser.error(f"draws are 64 to {MAX_DRAWS}, rounds 1 to 100")
    figures = []
    for scale in SCALES:
        found = measure(scale, options.draws, options.rounds)
        figures += [_figure(scale, name, peer, found) for name, peer in PEERS if peer in found]
    return report.finish(figures)


if __name__ == "__main__":
    raise SystemExit(main())
