"""SafeGuard's counts of a synthetic ISP: how far off by size, clipping and noise apart.

    python -m bench.utility [--write docs/safeguard-utility.md] [--seed 1]

100,000 subscribers in 200 regions, a router for each; 50 categories; one day. Who meets what is
drawn (see `Isp`), clipped as `collector.track.safeguard.households` clips (tests compare the two),
and noise is drawn from `DiscreteLaplace` of the scale that the product derives from caps and ε.
Figures of an ISP that is made up: an operator's own are in its kept-ratio.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collector.track.safeguard.domain import (
    DEFAULT_EPSILON_MICRO,
    DEFAULT_L0,
    SafeguardConfig,
    marginals,
)
from collector.track.safeguard.laplace import DiscreteLaplace
from collector.wire.releases import CATEGORY_HOUR, KEPT_DAY, REGION_CATEGORY_DAY
from safeguard.laws import half_width, threshold

HOURS: Final = 24
SIZES: Final = (0, 1, 10, 30, 100, 300, 1000, 3000)
CAPS: Final[dict[str, tuple[int, ...]]] = {
    CATEGORY_HOUR: (1, 2, 4, 6, 8, 12, 16, 24),
    REGION_CATEGORY_DAY: (1, 2, 3, 4, 5, 6, 8),
}
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Isp:
    """What is assumed. meets: share of households that meet a block in a day. more: mean of the
    further categories of one of them (Poisson). hours: mean hours in which it meets each of them
    (geometric: a device repeats a refused look-up). skew: of the categories' popularity (Zipf)."""

    subscribers: int = 100_000
    regions: int = 200
    categories: int = 50
    meets: float = 0.35
    more: float = 0.7
    hours: float = 2.2
    skew: float = 1.1


@dataclass(frozen=True, slots=True)
class Day:
    """Blocked look-ups in the order of time, one for each cell of category and hour that a
    household is in: its number, its region, category and hour."""

    household: Ints
    region: Ints
    category: Ints
    hour: Ints


def day_of(isp: Isp, rng: np.random.Generator) -> Day:
    """Draw a day."""
    size = rng.lognormal(0.0, 0.6, isp.regions)
    region_of = rng.choice(isp.regions, isp.subscribers, p=size / size.sum())
    popularity = 1.0 / np.arange(1, isp.categories + 1) ** isp.skew
    met = np.flatnonzero(rng.random(isp.subscribers) < isp.meets)
    visits = np.repeat(met, 1 + rng.poisson(isp.more, len(met)))
    category = rng.choice(isp.categories, len(visits), p=popularity / popularity.sum())
    many = rng.geometric(1 / isp.hours, len(visits))
    household, category = np.repeat(visits, many), np.repeat(category, many)
    busy = 1.0 + np.cos((np.arange(HOURS) - 20) * 2 * np.pi / HOURS) * 0.8  # evenings
    hour = rng.choice(HOURS, len(household), p=busy / busy.sum())
    key = np.unique((household * HOURS + hour) * isp.categories + category)
    household, rest = np.divmod(key, HOURS * isp.categories)
    hour, category = np.divmod(rest, isp.categories)
    order = np.lexsort((rng.random(len(key)), hour))
    household, category, hour = household[order], category[order], hour[order]
    return Day(household, region_of[household], category, hour)


def clipped(day: Day, cap: int, marginal: str) -> NDArray[np.bool_]:
    """Which look-ups still count: of each household's cells, in the order of time, the first
    `cap`."""
    cell = day.category if marginal == REGION_CATEGORY_DAY else np.arange(len(day.category))
    first = np.zeros(len(cell), bool)
    if marginal == REGION_CATEGORY_DAY:  # a category counts where it is met first
        _, at = np.unique(day.household * 1000 + cell, return_index=True)
        first[at] = True
    else:
        first[:] = True
    order = np.argsort(day.household[first], kind="stable")
    household = day.household[first][order]
    starts = np.flatnonzero(np.r_[True, household[1:] != household[:-1]])
    rank = np.arange(len(household)) - np.repeat(starts, np.diff(np.r_[starts, len(household)]))
    kept = np.zeros(len(cell), bool)
    where = np.flatnonzero(first)[order]
    kept[where] = rank < cap
    return kept


def counts(day: Day, isp: Isp, marginal: str, kept: NDArray[np.bool_]) -> Ints:
    """Households by cell: (category, hour) of the whole country, or (region, category)."""
    if marginal == CATEGORY_HOUR:
        key = day.category[kept] * HOURS + day.hour[kept]
        return np.bincount(key, minlength=isp.categories * HOURS)
    key = day.region[kept] * isp.categories + day.category[kept]
    return np.bincount(key, minlength=isp.regions * isp.categories)


def scale_of(marginal: str, cap: int) -> Fraction:
    """The scale that the product derives from a cap, by the default share of ε."""
    names = tuple(f"c{n}" for n in range(50))
    base = SafeguardConfig("bench", "north", ("north",), names)
    made = replace(base, l0=dict(DEFAULT_L0) | {marginal: cap})
    return next(each.scale for each in marginals(made, 1) if each.name == marginal)


def noise(scale: Fraction, cells: int, routers: int) -> Ints:
    """The sum of the noise of so many routers, for each cell."""
    law = DiscreteLaplace(scale)
    drawn = np.array(law.draws(cells * routers, os.urandom), np.int64)
    found: Ints = drawn.reshape(cells, routers).sum(axis=1)
    return found


def by_size(true: Ints, kept: Ints, error: Ints, least: int) -> Iterator[list[str]]:
    """A row of the table for each size of cells."""
    for low, high in zip(SIZES, (*SIZES[1:], 10**9), strict=True):
        at = (true >= low) & (true < high)
        if not at.any():
            continue
        mean = float(true[at].mean())
        clip = float((true - kept)[at].mean())
        spread = float(np.sqrt((error[at] ** 2).mean()))
        both = float(np.sqrt(((kept + error - true)[at] ** 2).mean()))
        shown = float(((kept + error)[at] >= least).mean())
        size = (
            f"{low}" if high == low + 1 else f"{low} to {high - 1}" if high < 10**9 else f"{low}+"
        )
        yield [
            size, f"{int(at.sum()):,}", f"{mean:,.0f}", f"{clip:,.1f}", f"{spread:,.1f}",
            f"{both:,.1f}", f"{both / mean:.0%}" if mean else "-", f"{shown:.0%}",
        ]  # fmt: skip


def compare(day: Day, isp: Isp, marginal: str, routers: int) -> Iterator[list[str]]:
    """A row for each cap: what it clips, its noise, and both together."""
    everything = np.ones(len(day.household), bool)
    if marginal == REGION_CATEGORY_DAY:
        everything = clipped(day, 10**6, marginal)
    true = counts(day, isp, marginal, everything)
    large = true >= np.quantile(true[true > 0], 0.5)
    for cap in CAPS[marginal]:
        kept = counts(day, isp, marginal, clipped(day, cap, marginal))
        scale = scale_of(marginal, cap)
        deviation = float(np.sqrt(2.0 * routers)) * float(scale)
        clip = (true - kept)[large]
        both = float(np.sqrt((clip**2).mean() + deviation**2))
        default = " (default)" if cap == DEFAULT_L0[marginal] else ""
        yield [
            f"{cap}{default}", f"{float(scale):g}", f"{1 - kept.sum() / true.sum():.1%}",
            f"{float(np.sqrt((clip**2).mean())):,.1f}", f"{deviation:,.1f}", f"{both:,.1f}",
        ]  # fmt: skip


def households(day: Day, isp: Isp) -> list[str]:
    """Quantiles of what households do, against the caps."""
    cells = np.unique(day.household, return_counts=True)[1]
    pairs = np.unique(day.household * 1000 + day.category)
    distinct = np.unique(pairs // 1000, return_counts=True)[1]
    lines = []
    for name, found, cap in (
        ("hours with a category", cells, DEFAULT_L0[CATEGORY_HOUR]),
        ("categories", distinct, DEFAULT_L0[REGION_CATEGORY_DAY]),
    ):
        half, most, nearly = (int(np.quantile(found, q)) for q in (0.5, 0.9, 0.99))
        whole = float((found <= cap).mean())
        lines.append(
            f"- {name} of a household that meets a block: median {half}, 90th percentile {most},\n"
            f"  99th {nearly}; the cap of {cap} takes nothing from {whole:.1%}"
        )
    return lines


def table(heads: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def report(isp: Isp, seed: int) -> str:
    """The whole report."""
    day = day_of(isp, np.random.default_rng(seed))
    parts = [HEAD.format(isp=isp), *households(day, isp), ""]
    sizes = ("true count", "cells", "mean", "clipped away", "noise (rms)", "both (rms)",
             "of the mean", "shown")  # fmt: skip
    caps = ("cap", "scale", "lost to clipping", "clipping (rms)", "noise (sd)", "both")
    for marginal, routers, title in (
        (REGION_CATEGORY_DAY, 1, "A region's day, by category"),
        (CATEGORY_HOUR, 1, "An hour, by category, all on one router"),
        (CATEGORY_HOUR, 10, "An hour, by category, summed over 10 routers"),
        (CATEGORY_HOUR, isp.regions, f"An hour, by category, summed over {isp.regions} routers"),
    ):
        cap = DEFAULT_L0[marginal]
        every = clipped(day, 10**6, marginal)
        true, kept = (counts(day, isp, marginal, k) for k in (every, clipped(day, cap, marginal)))
        scales = [scale_of(marginal, cap)] * routers
        least, width = threshold(scales, 0.01), half_width(scales, 0.05)
        error = noise(scales[0], len(true), routers)
        parts += [f"## {title}", "", f"Scale {float(scales[0]):g}; error bars ± {width};"
                  f" shown from {least}.", ""]  # fmt: skip
        parts += table(sizes, by_size(true, kept, error, least))
        parts += ["Other caps, over the larger half of the cells:", ""]
        parts += table(caps, compare(day, isp, marginal, routers))
    scale = scale_of(KEPT_DAY, 1)
    parts += [TAIL.format(kept=float(scale), epsilon=_epsilon())]
    return "\n".join(parts)


def _epsilon() -> str:
    shares = " : ".join(f"{e / 1e6:g}" for e in DEFAULT_EPSILON_MICRO.values())
    return f"{shares} (hours, regions, kept-ratio)"


HEAD: Final = """# What SafeGuard's counts are worth

Made by `python -m bench.utility --write docs/safeguard-utility.md`; do not edit. A made-up day of
{isp.subscribers:,} subscribers in {isp.regions} regions with {isp.categories} categories:
{isp.meets:.0%} of households meet a block, 1 + Poisson({isp.more}) categories each, every one of
them in a geometric number of hours with mean {isp.hours}; categories by Zipf({isp.skew}), regions
lognormal. Clipping takes away (its error has one direction), noise is two-sided and without bias.
"""
TAIL: Final = """## Why these defaults

- The caps are at or just above the 90th percentile of what households do. By the rms alone a region
  would do with a cap of 2: but what it clips away (9 %) is in one direction, in every region and on
  every day alike, so it neither shows in the error bars nor averages out over a month, as noise
  does. At 3 it is 1.5 %, below what can be read of any cell; at 4 the cells pay in noise for one
  household in three hundred. For hours 8 has the least error of both.
- ε is split {epsilon}.
  Regions are where counts are smallest, and decide what can be shown at all; hours are of many
  regions together, and there are 24 of them for one charge.
- Noise is added on each router, as identities never leave one. A national hour that is summed over
  many routers has the noise of all of them: with 200 only the largest categories can be read by the
  hour, and the day by region is the table to use. Few large routers are worth more than many small.
- The kept-ratio has scale {kept:g}: of a router with 500 households that meet a block it is known
  to within some percent, of the whole country to a fraction of one.

What this leaves out: households that look nothing up, devices that ask another resolver, days that
a restart silences, and how an operator's own households differ from these.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--subscribers", type=int, default=Isp().subscribers)
    parser.add_argument("--write", type=Path, help="a file in place of the terminal")
    options = parser.parse_args()
    if not 1000 <= options.subscribers <= 10_000_000:
        parser.error("subscribers are 1,000 to 10,000,000")
    text = report(replace(Isp(), subscribers=options.subscribers), options.seed)
    if options.write:
        options.write.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
