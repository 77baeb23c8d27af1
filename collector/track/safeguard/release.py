"""True counts of a window that has ended in, the rows that are published of it out.

A release has a row for each cell of its marginal, zeros included, each with its own noise, and one
entry of the privacy ledger. It is made once: what is sent again is the spool's file, as fresh noise
on the same counts would average out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from collector.track.safeguard.domain import Marginal
from collector.track.safeguard.laplace import DiscreteLaplace, RandomBytes
from collector.wire.columns import Columns
from collector.wire.records import BLOCK_COUNT, CLASSES, SAFEGUARD_LEDGER, record_id
from collector.wire.releases import RELEASED, SILENT, release_id

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Rows by record class."""


def released(
    collector: str,
    marginal: Marginal,
    window: tuple[int, int],
    counts: Sequence[int],
    law: DiscreteLaplace,
    random_bytes: RandomBytes,
    *,
    epsilon_micro: int,
) -> Rows:
    """The release of one window (start and end in ns): `counts` by cell of the marginal.

    Raises ValueError where counts and cells, or law and marginal, are not of one size or scale.
    """
    if len(counts) != len(marginal.cells) or law.scale != marginal.scale:
        raise ValueError("the counts or the noise are not those of the marginal")
    release = release_id(collector, marginal.mechanism, marginal.name, window[0], RELEASED)
    rows = []
    noise = law.draws(len(counts), random_bytes)
    for (region, category), count, error in zip(marginal.cells, counts, noise, strict=True):
        rows.append(
            {
                "record_id": record_id(BLOCK_COUNT.name, release, region, category),
                **_window(window),
                "marginal": marginal.name,
                "region": region,
                "category": category,
                "count": count + error,
                "mechanism": marginal.mechanism,
                "release": release,
            }
        )
    entry = _entry(release, marginal, window, RELEASED)
    entry |= {"epsilon_micro": epsilon_micro, "restarts": 0, "rows": len(rows)}
    return {BLOCK_COUNT.name: rows, SAFEGUARD_LEDGER.name: [entry]}


def silent(collector: str, marginal: Marginal, window: tuple[int, int], restarts: int) -> Rows:
    """The entry that says that nothing is released of a window, which costs nothing."""
    release = release_id(collector, marginal.mechanism, marginal.name, window[0], SILENT)
    entry = _entry(release, marginal, window, SILENT)
    return {SAFEGUARD_LEDGER.name: [entry | {"restarts": restarts}]}


def columns_of(pending: Iterable[Rows]) -> dict[str, Columns]:
    """Rows as the columns of a batch, in order; classes without rows are left out."""
    found: dict[str, Columns] = {}
    parts = list(pending)
    for name in (BLOCK_COUNT.name, SAFEGUARD_LEDGER.name):
        rows = [row for part in parts for row in part.get(name, [])]
        if rows:
            found[name] = {column: [row[column] for row in rows] for column in CLASSES[name].names}
    return found


def _entry(release: bytes, marginal: Marginal, window: tuple[int, int], outcome: str) -> Row:
    return {
        "record_id": record_id(SAFEGUARD_LEDGER.name, release),
        **_window(window),
        "release": release,
        "mechanism": marginal.mechanism,
        "marginal": marginal.name,
        "scale_num": marginal.scale.numerator,
        "scale_den": marginal.scale.denominator,
        "l0": marginal.l0,
        "epsilon_micro": 0,
        "routers": marginal.routers,
        "restarts": 0,
        "rows": 0,
        "outcome": outcome,
    }


def _window(window: tuple[int, int]) -> Row:
    """The end of the window is public; when the release was made would tell of the load."""
    start, end = window
    return {"observed_ns": end, "start_ns": start, "end_ns": end}
