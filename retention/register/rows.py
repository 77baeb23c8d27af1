"""Turns model objects into rows of the register and back, and seals each row with a digest.

A row has the columns that are searched by, `body` (every field of the object, as JSON) and
`digest`. SQLite finds damage to its trees but not to the values in them; the digest does. The sum
of all digests, kept beside, finds a row that is gone or an old one.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from retention.audit.canonical import Leaf
from retention.model import Hold, Place, Purge
from retention.register.lock import RegisterError
from retention.register.shapes import from_json, to_json

T = TypeVar("T")
Value = str | int | bytes | None

SUM_BITS: Final = 256


@dataclass(frozen=True)
class Table(Generic[T]):
    """One table of objects. columns: name to SQLite type and to what stands in it, key first."""

    name: str
    keys: tuple[str, ...]
    columns: Mapping[str, tuple[str, Callable[[T], Value]]]
    encode: Callable[[T], Any]
    decode: Callable[[Any], T]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, in order."""
        return (*self.columns, "body", "digest")

    @property
    def sql(self) -> str:
        """The statement that creates it."""
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in self.columns.items())
        key = ", ".join(self.keys)
        return (
            f"CREATE TABLE {self.name} ({columns}, body TEXT NOT NULL, digest BLOB NOT NULL, "
            f"PRIMARY KEY ({key})) WITHOUT ROWID"
        )

    @property
    def upsert(self) -> str:
        """The statement that writes a row over the one of the same key."""
        marks = ", ".join("?" * len(self.names))
        sets = ", ".join(f"{name} = excluded.{name}" for name in self.names)
        return (
            f"INSERT INTO {self.name} ({', '.join(self.names)}) VALUES ({marks}) "
            f"ON CONFLICT ({', '.join(self.keys)}) DO UPDATE SET {sets}"
        )

    @property
    def where_key(self) -> str:
        """The condition that picks the row of one key."""
        return " AND ".join(f"{key} = ?" for key in self.keys)

    def key(self, item: T) -> tuple[Value, ...]:
        """Values of the key's columns."""
        return tuple(self.columns[name][1](item) for name in self.keys)

    def row(self, item: T) -> tuple[Value, ...]:
        """The object's row, sealed."""
        values = [give(item) for _, give in self.columns.values()]
        values.append(json.dumps(self.encode(item), separators=(",", ":"), sort_keys=True))
        return (*values, seal(self.name, *values))

    def item(self, row: tuple[Any, ...], known: MutableMapping[bytes, T] | None = None) -> T:
        """The object of a row; raises RegisterError if it is not as it was written.

        known: objects by the digests of their rows, which are not made again.
        """
        if seal(self.name, *row[:-1]) != row[-1]:
            raise damaged(f"a row of {self.name} is not as it was written")
        if known is None:
            return self._made(row)
        if row[-1] not in known:
            known[row[-1]] = self._made(row)
        return known[row[-1]]

    def _made(self, row: tuple[Any, ...]) -> T:
        try:
            return self.decode(json.loads(row[-2]))
        except (ValueError, TypeError, KeyError) as error:
            # No chaining: the error could quote a value.
            kind = type(error).__name__
        raise RegisterError(f"a row of {self.name} is of another version of this program ({kind})")


def seal(*values: Value) -> bytes:
    """SHA-256 over values, each behind its type and length."""
    hashed = hashlib.sha256()
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        hashed.update(b"%c%d:" % (type(value).__name__.encode()[0], len(data)))
        hashed.update(data)
    return hashed.digest()


def added(total: str, new: bytes, old: bytes | None = None) -> str:
    """The sum of digests with `new` in the place of `old`; 64 hex digits."""
    value = int(total, 16) + int.from_bytes(new) - int.from_bytes(old or b"")
    return f"{value % (1 << SUM_BITS):064x}"


def damaged(what: str) -> RegisterError:
    """What to say, and what to do, where the register on disk cannot be trusted."""
    return RegisterError(
        f"the register is damaged: {what}. Nothing was changed and nothing will be destroyed. "
        "Keep a copy of its folder, restore the folder from a backup, and replay what the audit "
        "log says happened since"
    )


HOLDS: Final = Table[Hold](
    "holds",
    ("id",),
    {
        "id": ("TEXT NOT NULL", lambda hold: hold.id),
        "state": ("TEXT NOT NULL", lambda hold: hold.state.value),
        "requested_us": ("INTEGER NOT NULL", lambda hold: hold.requested.at_us),
        "expires_us": ("INTEGER", lambda hold: hold.expires_us),
        "review_by_us": ("INTEGER", lambda hold: hold.review_by_us),
        "ended_us": ("INTEGER", lambda hold: hold.ended_us),
    },
    to_json,
    lambda body: typing.cast(Hold, from_json(Hold, body)),
)

PURGES: Final = Table[Purge](
    "purges",
    ("id",),
    {
        "id": ("TEXT NOT NULL", lambda purge: purge.id),
        "class": ("TEXT NOT NULL", lambda purge: purge.partition.place.record_class),
        "number": ("INTEGER NOT NULL", lambda purge: purge.partition.place.number),
        "store": ("TEXT NOT NULL", lambda purge: purge.store),
        "step": ("TEXT NOT NULL", lambda purge: purge.step.value),
        "generation": ("INTEGER NOT NULL", lambda purge: purge.generation),
        "intent_us": ("INTEGER NOT NULL", lambda purge: purge.intent_us),
        "dropped_us": ("INTEGER NOT NULL", lambda purge: purge.dropped_us),
        "final_us": ("INTEGER NOT NULL", lambda purge: purge.final_us),
    },
    to_json,
    lambda body: typing.cast(Purge, from_json(Purge, body)),
)

SEEN: Final = Table[Leaf](
    "seen",
    ("class", "number"),
    {
        "class": ("TEXT NOT NULL", lambda leaf: place_of(leaf).record_class),
        "number": ("INTEGER NOT NULL", lambda leaf: place_of(leaf).number),
        "retain_until_us": ("INTEGER NOT NULL", lambda leaf: int(leaf["retain_until"])),
    },
    lambda leaf: {name: leaf[name] for name in leaf if name not in ("v", "kind", "at")},
    dict,
)


class Note(NamedTuple):
    """A small fact under a key; without a key its row is free for another."""

    slot: int
    key: str | None
    value: str | None


NOTES: Final = Table[Note](
    "notes",
    ("slot",),
    {
        "slot": ("INTEGER NOT NULL", lambda note: note.slot),
        "key": ("TEXT UNIQUE", lambda note: note.key),
    },
    to_json,
    lambda body: typing.cast(Note, from_json(Note, body)),
)


@dataclass(frozen=True, slots=True)
class State:
    """What the register knows of itself and of its log, in one row.

    origin: name of the log. size, root: leaves that the log had before `queue`, and their root.
    queue: leaves of the last write, which have the indexes from `size` on; the next write puts its
    own in their place, once the log has them. total: sum of the digests of all other rows.
    secret: SHA-256 of the secret file. counters: last number given by prefix and year.
    """

    origin: str
    size: int
    root: str
    secret: str
    generation: int = 0
    total: str = "0" * 64
    counters: tuple[tuple[str, int], ...] = ()
    queue: tuple[str, ...] = ()


STATE: Final = Table[State](
    "state",
    ("one",),
    {
        "one": ("INTEGER NOT NULL CHECK (one = 1)", lambda _: 1),
        "generation": ("INTEGER NOT NULL", lambda state: state.generation),
        "size": ("INTEGER NOT NULL", lambda state: state.size),
    },
    to_json,
    lambda body: typing.cast(State, from_json(State, body)),
)

TABLES: Final[tuple[Table[Any], ...]] = (HOLDS, PURGES, SEEN, NOTES, STATE)
INDEXES: Final = (
    "CREATE INDEX holds_state ON holds (state)",
    "CREATE INDEX holds_expires ON holds (expires_us)",
    "CREATE INDEX purges_step ON purges (step)",
    "CREATE INDEX purges_place ON purges (class, number)",
)


def place_of(leaf: Leaf) -> Place:
    """The place that a leaf of a partition is about."""
    return Place(leaf["class"], int(leaf["partition"]))
