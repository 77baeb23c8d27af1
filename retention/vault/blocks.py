"""Rows that were read in, the same as columns to be written out. Pure.

A selection of few rows carries them, so that a copy need not look for them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from aggregator.store.schema import Table

MAX_ROWS: Final = 100_000
"""Rows that a selection carries, about 60 MB; of more it has the keys alone."""

Block: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


def block(table: Table, columns: Mapping[str, Sequence[Any]], positions: Sequence[int]) -> Block:
    """All stored columns of the rows at these positions, as `Client.insert` takes them."""
    return {
        name: _column(kind, [columns[name][position] for position in positions])
        for name, kind in table.columns
    }


def _column(kind: str, values: list[Any]) -> np.ndarray[Any, Any]:
    if kind == "String":
        texts = {text: text.encode() for text in set(values)}  # one object for each distinct text
        column = np.empty(len(values), dtype=object)
        column[:] = [texts[text] for text in values]
        return column
    if kind.startswith("FixedString"):
        size = int(kind.removeprefix("FixedString(").removesuffix(")"))
        return np.frombuffer(b"".join(values), dtype=f"V{size}")
    return np.array(values, dtype=kind.lower())
