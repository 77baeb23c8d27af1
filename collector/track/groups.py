"""Equal rows of columns into groups: exact, at the price of sorting one number a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collector.track.narrow import as_numbers
from collector.track.visit_flows import folded

Columns: TypeAlias = Callable[[], Iterable[NDArray[Any]]]
"""Gives the columns; asked again rather than having them all in memory at once."""


def grouped(columns: Columns) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order that puts equal rows together, those of one group as they came; and where in that
    order each group begins."""
    folds = folded(columns())
    order = np.argsort(folds, kind="stable")
    folds = folds[order]
    differs = _differs(columns(), order)
    if (differs & (folds[1:] == folds[:-1])).any():  # two rows with one number
        order = np.lexsort([part for column in columns() for part in as_numbers(column)])
        differs = _differs(columns(), order)
    return order, np.flatnonzero(np.concatenate(([True], differs))[: len(order)])


def reduced(how: np.ufunc, column: NDArray[Any], begins: NDArray[np.intp]) -> NDArray[Any]:
    """One value for each group of a column that is in order of groups."""
    return how.reduceat(column, begins) if len(begins) else column[:0]


def _differs(columns: Iterable[NDArray[Any]], order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which rows differ from the one before, in that order; bool[n - 1]."""
    differs = np.zeros(max(len(order) - 1, 0), np.bool_)
    for column in columns:
        for part in as_numbers(column):
            ordered = part[order]
            differs |= ordered[1:] != ordered[:-1]
    return differs
