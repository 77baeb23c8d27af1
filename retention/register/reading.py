"""What the register answers from its rows: holds, purges, partitions seen, notes. Nothing changes.

Any thread may ask; it waits for the call of another thread that is under way, but not for the
exclusive lock.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from retention.model import Hold, Place, Purge, Step
from retention.register.database import Database
from retention.register.notes import Notes
from retention.register.rows import HOLDS, PURGES, SEEN, State, Table, place_of

T = TypeVar("T")


class Reading(ABC):
    """The half of the register that reads."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._state = State("", 0, "", "")
        self._notes = Notes()

    @abstractmethod
    def _ready(self) -> Database:
        """The open file, whose state and notes are in memory; RegisterError without one."""

    @property
    def generation(self) -> int:
        """How often what is held has changed."""
        with self._mutex:
            self._ready()
            return self._state.generation

    def holds(self) -> list[Hold]:
        """All holds, by id."""
        return self._items(HOLDS)

    def hold(self, id: str) -> Hold | None:
        """One hold."""
        return next(iter(self._items(HOLDS, "id = ?", (id,))), None)

    def protecting(self) -> list[Hold]:
        """The holds that protect rows, by id. From all rows and not by an index: none is missed."""
        return [hold for hold in self.holds() if hold.protects]

    def purges(self, *, step: Step | None = None) -> list[Purge]:
        """All purges, or those at a step, by id."""
        if step is None:
            return self._items(PURGES)
        return self._items(PURGES, "step = ?", (step.value,))

    def purge(self, id: str) -> Purge | None:
        """One purge."""
        return next(iter(self._items(PURGES, "id = ?", (id,))), None)

    def seen(self) -> dict[Place, dict[str, Any]]:
        """The last `partition.seen` of each place: its fields but `v`, `kind` and `at`."""
        return {place_of(leaf): leaf for leaf in self._items(SEEN)}

    def note(self, key: str) -> str | None:
        """The value of a note."""
        with self._mutex:
            self._ready()
            return self._notes.get(key)

    def notes(self, prefix: str = "") -> dict[str, str]:
        """Notes whose key begins so, by key."""
        with self._mutex:
            self._ready()
            return self._notes.all(prefix)

    def _items(self, table: Table[T], where: str = "TRUE", values: tuple[Any, ...] = ()) -> list[T]:
        with self._mutex:
            return self._ready().items(table, where, values)
