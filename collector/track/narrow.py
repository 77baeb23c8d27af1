"""Rows that wait, in the fewest bytes: each column as its difference from the least value in it.

What a column holds lies close together (times of one batch, addresses of one provider, ports), so
a flow delta of 71 bytes takes about 25: each number the bytes that the largest needs, none where
all are equal. Lossless for every value: a column that spans too much stays as wide as it is.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]
"""A structured array with fields of integers, flags and 16 bytes (V16)."""

_HALF: Final = np.dtype(">u8")
"""Half an address as a number: addresses of one network are close together so."""
_NUMBER: Final = np.dtype("<u8")


class Narrow:
    """Rows put away, at least one; `rows` gives them back, `column` one column of them."""

    __slots__ = ("_columns", "_dtype", "_size")

    def __init__(self, rows: Rows) -> None:
        self._dtype, self._size = rows.dtype, len(rows)
        self._columns = {
            name: [_narrowed(part) for part in as_numbers(rows[name])]
            for name in rows.dtype.names or ()
        }

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return sum(part.nbytes for parts in self._columns.values() for _, part in parts)

    def rows(self) -> Rows:
        """What was put away."""
        rows = np.empty(self._size, self._dtype)
        for name in self._columns:
            self._restore(name, rows[name])
        return rows

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of what was put away."""
        column = np.empty(self._size, self._dtype[name])
        self._restore(name, column)
        return column

    def _restore(self, name: str, column: npt.NDArray[Any]) -> None:
        for into, (least, part) in zip(as_numbers(column), self._columns[name], strict=True):
            whole = np.zeros((self._size, _NUMBER.itemsize), np.uint8)
            whole[:, : part.shape[1]] = part
            into[...] = (whole.view(_NUMBER)[:, 0] + least).astype(into.dtype)


def as_numbers(column: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """A view of the column as numbers; of addresses two, the halves."""
    if column.dtype.kind != "V":
        return [column]
    halves = column.view(np.dtype({"names": ["high", "low"], "formats": [_HALF, _HALF]}))
    return [halves["high"], halves["low"]]


def _narrowed(column: npt.NDArray[Any]) -> tuple[np.uint64, npt.NDArray[np.uint8]]:
    """The least value, and what each is more than that in as few bytes, uint8[n, bytes].

    Arithmetic is modulo 2**64, so that what is below zero comes back too."""
    wide = column.astype(np.int64 if column.dtype.kind == "i" else np.uint64)
    least = wide.min().astype(np.uint64)
    above = (wide.astype(np.uint64) - least).astype(_NUMBER)
    width = (int(above.max()).bit_length() + 7) // 8
    return least, above.view(np.uint8).reshape(-1, _NUMBER.itemsize)[:, :width].copy()
