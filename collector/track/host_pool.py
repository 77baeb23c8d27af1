"""Host names by number: a popular host is in memory once, and rows hold four bytes for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_HOST = 0
"""The number of the empty name."""


class HostPool:
    """Names and their numbers; about 200 bytes for each name.

    Whoever holds numbers looks at `is_full` after new ones, and makes room with `keep`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {"": NO_HOST}
        self._names: list[str] = [""]

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, host: str) -> bool:
        return host in self._numbers

    @property
    def is_full(self) -> bool:
        """Whether names have reached the limit."""
        return len(self._names) > self._limit

    def number(self, host: str) -> int:
        """The number of a name, which is new where it was not there."""
        number = self._numbers.setdefault(host, len(self._names))
        if number == len(self._names):
            self._names.append(host)
        return number

    def name(self, number: int) -> str:
        """The name of a number."""
        return self._names[number]

    def names(self, numbers: NDArray[np.uint32]) -> list[str]:
        """The name of each number."""
        return list(map(self._names.__getitem__, numbers.tolist()))

    def keep(self, holders: list[NDArray[np.uint32]]) -> None:
        """Forgets every name whose number is in none of the arrays, which get the new numbers."""
        used = np.zeros(len(self._names), np.bool_)
        used[NO_HOST] = True
        for numbers in holders:
            used[numbers] = True
        kept: list[Any] = np.flatnonzero(used).tolist()
        self._names = [self._names[number] for number in kept]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        again = np.cumsum(used, dtype=np.uint32) - np.uint32(1)
        for numbers in holders:
            numbers[...] = again[numbers]
