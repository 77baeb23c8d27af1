"""A connection and a period in, the releases that the tables have of it out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, Protocol

from safeguard.model import Cell, Release

MAX_ENTRIES: Final = 300_000
"""Two hundred routers for 57 days."""
MAX_COUNTS: Final = 4_000_000
"""A month of two hundred routers with fifty categories has eight million hours with category; a
report of more than that is to be made by the week."""

_ENTRIES: Final = """
SELECT release, mechanism, collector, marginal, start_us, end_us, l0, routers, scale_num, scale_den,
    epsilon_micro, restarts, rows, outcome
FROM safeguard_ledger
WHERE start_us >= %(start)s AND start_us < %(end)s
ORDER BY end_us, start_us, collector, marginal LIMIT %(most)s"""
_COUNTS: Final = """
SELECT release, region, category, count AS households FROM block_count
WHERE start_us >= %(start)s AND start_us < %(end)s
LIMIT %(most)s"""


class Reader(Protocol):
    """What answers; `aggregator.store.client.Client` does."""

    def query_columns(self, sql: str, params: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Columns of an answer by name."""


class StoredError(RuntimeError):
    """The tables say what cannot be told on: see the text."""


def entries(client: Reader, start_us: int, end_us: int) -> list[Release]:
    """The ledger of windows that start in a period, without their counts."""
    found = client.query_columns(_ENTRIES, _span(start_us, end_us, MAX_ENTRIES))
    made = [_release(row) for row in _rows(found)]
    if len(made) > MAX_ENTRIES:
        raise StoredError(f"more than {MAX_ENTRIES:,} releases; choose a shorter period")
    return made


def releases(client: Reader, start_us: int, end_us: int) -> list[Release]:
    """The same with their counts; raises StoredError where a count is not of one of them, or where
    two are of one cell."""
    found = client.query_columns(_COUNTS, _span(start_us, end_us, MAX_COUNTS))
    counts: dict[bytes, dict[Cell, int]] = defaultdict(dict)
    if len(found["release"]) > MAX_COUNTS:
        raise StoredError(f"more than {MAX_COUNTS:,} counts; choose a shorter period")
    for release, region, category, count in zip(*found.values(), strict=True):
        cells = counts[release]
        if (region, category) in cells:
            raise StoredError(f"release {release.hex()}: two counts of one cell")
        cells[region, category] = count
    made = []
    for entry in entries(client, start_us, end_us):
        fields = {name: getattr(entry, name) for name in Release.__dataclass_fields__}
        made.append(Release(**fields | {"counts": counts.pop(entry.release, {})}))
    if counts:
        raise StoredError(f"{len(counts)} releases have counts and no entry in the ledger")
    return made


def _release(row: Mapping[str, Any]) -> Release:
    if not row["scale_num"] or not row["scale_den"]:
        raise StoredError(f"release {row['release'].hex()}: an entry without a scale")
    fields = {name: value for name, value in row.items() if not name.startswith("scale_")}
    return Release(scale=Fraction(row["scale_num"], row["scale_den"]), **fields)


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _span(start_us: int, end_us: int, most: int) -> dict[str, int]:
    return {"start": start_us, "end": end_us, "most": most + 1}
