"""Releases in, the report out: figures with error bars, what is too small left out, and charges.

A figure is what the releases of one marginal, one window and one public domain say together: of
several routers of a region their noisy counts add up, and so does their noise. Every cell of the
domain is there. One below the threshold is null: the threshold stands beside the noise and not in
its place, and keeps a reader from taking noise for households.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final

from collector.wire.releases import KEPT, KEPT_DAY, MICRO
from safeguard.document import REPORT, VERSION, Document
from safeguard.laws import half_width, threshold
from safeguard.ledger import DAY_US, days
from safeguard.model import Cell, Release

ALPHA_MICRO: Final = 50_000
"""The true count is outside of the error bars one time in twenty."""
SHOWN_MICRO: Final = 10_000
"""A zero is shown as more than the threshold one time in a hundred."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a report is made: see the fields of the same names in it."""

    made_us: int
    start_us: int
    end_us: int
    budget_micro: int
    day_us: int = DAY_US
    alpha_micro: int = ALPHA_MICRO
    shown_micro: int = SHOWN_MICRO


def report(releases: Sequence[Release], terms: Terms) -> Document:
    """The report of a period as it is signed."""
    figures = _figures(releases, terms)
    return {
        "kind": REPORT,
        "v": VERSION,
        "made": terms.made_us,
        "start": terms.start_us,
        "end": terms.end_us,
        "day": terms.day_us,
        "budget_micro": terms.budget_micro,
        "alpha_micro": terms.alpha_micro,
        "shown_micro": terms.shown_micro,
        "mechanisms": _mechanisms(releases),
        "ledger": [_entry(each) for each in releases],
        "days": [
            {name: day[name] for name in ("collector", "start", "epsilon_micro")}
            for day in days(releases, terms.day_us)
        ],
        "figures": figures,
        "kept": [_kept(each, terms) for each in _grouped(releases) if each[0].marginal == KEPT_DAY],
    }


def cells_of(release: Release) -> list[Cell]:
    """The public domain of a release, in the order of a report."""
    return sorted(release.counts)


def kept_ratio(whole: int, clipped: int, scales: Sequence[Fraction], alpha: float) -> Any:
    """Share of households that the caps took nothing from, with its error, in millionths.

    Both counts are within half a width that together fails with `alpha`, so the share is within
    that over their sum: households that leave one side are on the other. None where the sum itself
    is mostly noise.
    """
    total, width = whole + clipped, half_width(scales, alpha / 2)
    if total < max(threshold(scales, alpha), 2 * width):
        return None, None
    ratio = min(max(Fraction(whole, total), Fraction(0)), Fraction(1))
    return int(ratio * MICRO), min(ceil(Fraction(width * MICRO, total)), MICRO)


def _grouped(releases: Iterable[Release]) -> list[list[Release]]:
    """Releases that make up one figure together."""
    found: dict[Any, list[Release]] = defaultdict(list)
    for each in releases:
        if each.is_released:
            key = (each.start_us, each.end_us, each.marginal, tuple(cells_of(each)))
            found[key].append(each)
    return [found[key] for key in sorted(found)]


def _figures(releases: Sequence[Release], terms: Terms) -> list[Document]:
    figures = []
    for group in _grouped(releases):
        first, scales = group[0], [each.scale for each in group]
        least = threshold(scales, terms.shown_micro / MICRO)
        sums = [sum(each.counts[cell] for each in group) for cell in cells_of(first)]
        figures.append(
            {
                "marginal": first.marginal,
                "start": first.start_us,
                "end": first.end_us,
                "releases": [each.release.hex() for each in group],
                "half_width": half_width(scales, terms.alpha_micro / MICRO),
                "threshold": least,
                "counts": [count if count >= least else None for count in sums],
            }
        )
    return figures


def _kept(group: list[Release], terms: Terms) -> Document:
    whole, clipped = (sum(each.counts["", name] for each in group) for name in KEPT)
    scales = [each.scale for each in group]
    ratio, error = kept_ratio(whole, clipped, scales, terms.alpha_micro / MICRO)
    return {
        "start": group[0].start_us,
        "end": group[0].end_us,
        "releases": [each.release.hex() for each in group],
        "ratio_micro": ratio,
        "error_micro": error,
    }


def _mechanisms(releases: Iterable[Release]) -> dict[str, Document]:
    """Parameters by id; of one that was only ever silent no cells are known."""
    found: dict[str, Document] = {}
    for each in releases:
        known = found.get(each.mechanism.hex())
        if known is None or (known["cells"] is None and each.is_released):
            found[each.mechanism.hex()] = {
                "marginal": each.marginal,
                "l0": each.l0,
                "routers": each.routers,
                "scale": [each.scale.numerator, each.scale.denominator],
                "cells": [list(cell) for cell in cells_of(each)] if each.is_released else None,
            }
    return found


def _entry(each: Release) -> Document:
    return {
        "release": each.release.hex(),
        "mechanism": each.mechanism.hex(),
        "collector": each.collector,
        "start": each.start_us,
        "end": each.end_us,
        "epsilon_micro": each.epsilon_micro,
        "restarts": each.restarts,
        "rows": each.rows,
        "outcome": each.outcome,
    }
