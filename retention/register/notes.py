"""Small facts by key: which rows change when notes are written, and what they all are.

A note that is deleted leaves its row for the next new one: no statement removes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from retention.register.lock import RegisterError
from retention.register.rows import Note

MAX_NOTES: Final = 100_000
"""Notes at once, all of them in memory: a dozen for each partition of six years."""
MAX_NOTE: Final = 2**20
"""Characters of a note: a partition's books with four hundred holds take a fiftieth."""
MAX_KEY: Final = 200
"""Characters of a key."""


class Notes:
    """The notes as the register has them at one time; never changed, but replaced."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._slots = {note.slot: note for note in notes}
        self._by_key = {note.key: note for note in self._slots.values() if note.key is not None}

    def get(self, key: str) -> str | None:
        """The value of a note."""
        note = self._by_key.get(key)
        return note.value if note else None

    def all(self, prefix: str) -> dict[str, str]:
        """Notes whose key begins so, by key."""
        found = [note for key, note in self._by_key.items() if key.startswith(prefix)]
        return {str(note.key): str(note.value) for note in sorted(found, key=lambda n: n.key or "")}

    def rows(self, changes: Mapping[str, str | None]) -> list[Note]:
        """The rows that write these changes; None deletes."""
        rows, end = list[Note](), len(self._slots)
        free = [note.slot for note in self._slots.values() if note.key is None]
        for key, value in changes.items():
            old = self._by_key.get(key)
            if value is None:
                rows += [Note(old.slot, None, None)] if old else []
                continue
            if len(key) > MAX_KEY or len(value) > MAX_NOTE:
                raise RegisterError("a note that is too long")
            if old:
                slot = old.slot
            elif free:
                slot = free.pop()
            else:
                slot, end = end, end + 1
            rows.append(Note(slot, key, value))
        if end > MAX_NOTES:
            raise RegisterError("too many notes")
        return rows

    def after(self, rows: Iterable[Note]) -> Notes:
        """The notes once these rows are written."""
        changed = {note.slot: note for note in rows}
        return Notes((self._slots | changed).values()) if changed else self
