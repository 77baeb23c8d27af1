"""Columns of key values into the record ids of a whole table at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LENGTH_BYTES: Final = 4
_LENGTHS: Final = tuple(size.to_bytes(LENGTH_BYTES, "big") for size in range(64))
"""Of short values: numbers, addresses and most names."""
_PIECE: Final = 1024
"""Rows at once: beyond that each takes new memory from the kernel, which costs a third more."""


def id_column(class_name: str, columns: Sequence[NDArray[Any] | list[str]]) -> NDArray[np.void]:
    """As `record_ids`, of columns in memory: V16[rows]."""
    ids = bytearray()
    for at in range(0, len(columns[0]), _PIECE):
        part = (each[at : at + _PIECE] for each in columns)
        lists = (each if isinstance(each, list) else each.tolist() for each in part)
        ids += b"".join(record_ids(class_name, *lists))
    return np.frombuffer(ids, "V16")


def record_ids(class_name: str, *columns: Iterable[bytes | str | int]) -> list[bytes]:
    """For each row what `collector.wire.records.record_id` gives for its key values.

    The columns are those of the class's key, in order and of one length, each of one type; raises
    ValueError for different lengths. In a window most values come again and again, so this takes a
    quarter of the time.
    """
    start = hashlib.blake2b(digest_size=16, person=class_name.encode()[:16])
    copy, join = start.copy, b"".join
    ids = []
    for row in zip(*map(_parts, columns), strict=True):
        digest = copy()
        digest.update(join(row))
        ids.append(digest.digest())
    return ids


def _parts(column: Iterable[bytes | str | int]) -> Iterable[bytes]:
    """Each value as `record_id` hashes it; those that come again are made once."""
    values = list(column)
    distinct = set(values)
    if 2 * len(distinct) > len(values):  # a table would cost more than it saves
        return _encoded(values)
    each = list(distinct)
    return map(dict(zip(each, _encoded(each), strict=True)).__getitem__, values)


def _encoded(values: list[bytes | str | int]) -> list[bytes]:
    """Length and bytes of each value."""
    if values and isinstance(values[0], int):
        data = str(values)[1:-1].encode().split(b", ")  # all at once: a third of one by one
    else:
        data = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    short = len(_LENGTHS)
    return [
        (_LENGTHS[size] if (size := len(each)) < short else size.to_bytes(LENGTH_BYTES, "big"))
        + each
        for each in data
    ]
