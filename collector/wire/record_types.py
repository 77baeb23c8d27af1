"""What a record class is: its columns and their types, and the identity of a record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

SCHEMA_VERSION: Final = 4
"""Grows when a class gets columns. Batches of older versions wait in spools and are read for ever:
a column that is younger than its batch reads as 0 or empty."""

ColumnType = Literal["id", "addr", "u8", "u16", "u32", "u64", "i64", "str"]
"""`id` is 16 bytes of BLAKE2b; `addr` is 16 bytes, IPv4 mapped as ::ffff:a.b.c.d (RFC 4291
section 2.5.5.2); a time of 0 means "not yet" or "unknown" as its column says."""

MAX_STRING_BYTES: Final = 512
"""Longest string column value. A host name is at most 253 octets (RFC 1035 section 2.3.4) and a
RADIUS attribute at most 253 (RFC 2865 section 5); the rest is head room."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its type, what it says, and the schema version that brought it."""

    name: str
    type: ColumnType
    doc: str
    since: int = 1


@dataclass(frozen=True, slots=True)
class RecordClass:
    """One class of record: its name, its grain and its columns in order.

    `key` names the columns whose values make the record's identity, so that a replay or a second
    collector on the same traffic gives the same `record_id`. `time` is the column that places a
    row in a partition and in an interval.
    """

    name: str
    doc: str
    time: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def record_id(class_name: str, *parts: bytes | str | int) -> bytes:
    """Sixteen bytes that identify a record by what it describes, not by when it was written.

    Every part is length-prefixed, so ("ab", "c") and ("a", "bc") differ.
    """
    whole = b""
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        whole += len(data).to_bytes(4, "big") + data
    return hashlib.blake2b(whole, digest_size=16, person=class_name.encode()[:16]).digest()
