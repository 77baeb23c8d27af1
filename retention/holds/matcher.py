"""Columns of one record class and the scopes of holds in, one bool mask for each hold out. Pure.

The one place that decides what a hold protects; ingest, purge, dry run and the verifier ask it. A
row matches an item if the item names its class, their intervals overlap to the microsecond, and
an identifier inside the row is the item's. Who holds an identifier now is never asked.

Texts and addresses are looked up in a dictionary of what all holds look for, once per column, so
that a million rows against many holds cost about what they cost against one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np

from collector.wire.addr import network
from retention.holds.columns import (
    ADDRESSES,
    ALL_PORTS,
    CANDIDATE_COLUMNS,
    PORTS,
    REALM,
    SPANS,
    AddressColumn,
)
from retention.holds.narrowing import Narrowing, keys
from retention.holds.needles import SEPARATORS, Array, Needle, PrefixIndex, TextIndex, compiled
from retention.model import DAY_US, ScopeItem

__all__ = ["CANDIDATE_COLUMNS", "Columns", "Narrowing", "keys", "match", "spans"]

Columns: TypeAlias = Mapping[str, Sequence[Any] | Array]
"""Column name to values, all of one length, as the store's client reads them: texts as str,
FixedString(16) as bytes, integers; lists or numpy arrays."""


def match(
    record_class: str, columns: Columns, scopes: Mapping[str, Sequence[ScopeItem]]
) -> dict[str, Array]:
    """For each hold (id to scope) which rows it protects, as a bool array; every hold is in it.

    columns: at least `CANDIDATE_COLUMNS[record_class]`.
    """
    count = len(columns[SPANS[record_class].start])
    masks = {hold: np.zeros(count, dtype=np.bool_) for hold in scopes}
    needles = compiled(record_class, scopes)
    for name, index in needles.texts.items():
        for rows, found in _groups(_list(columns[name]), index, count):
            _mark(record_class, columns, rows, found, masks)
    for name, index in needles.numbers.items():
        texts = map(str.translate, _list(columns[name]), repeat(SEPARATORS))
        for rows, found in _groups(texts, index, count):
            _mark(record_class, columns, rows, found, masks)
    for column in ADDRESSES[record_class]:
        if column.name in needles.prefixes:
            index_of_prefixes = needles.prefixes[column.name]
            for rows, found in _prefix_groups(columns, column, index_of_prefixes):
                _mark(record_class, columns, rows, found, masks)
    return masks


def spans(record_class: str, columns: Columns, rows: Array | None = None) -> tuple[Array, Array]:
    """(start, end) in microseconds of what each row covers, or of the rows at some positions.

    An end is later than its start: a record is of one instant at least. An end that is not known
    yet (0) of a class sliced by day is the end of that UTC day.
    """
    span = SPANS[record_class]
    start = _integers(columns[span.start], rows)
    ends = [_integers(columns[name], rows) for name in span.ends]
    if span.open_day:
        ends = [np.where(end == 0, (start // DAY_US + 1) * DAY_US, end) for end in ends]
    end = start + 1
    for each in ends:
        end = np.maximum(end, each)
    return start, end


def _mark(
    record_class: str,
    columns: Columns,
    rows: Array,
    needles: Sequence[Needle],
    masks: Mapping[str, Array],
) -> None:
    """Set the masks at those of `rows`, which have the needles' key, that match in all else."""
    start, end = spans(record_class, columns, rows)
    for needle in needles:
        good = needle.overlaps(start, end)
        if needle.realm:
            realms = columns[REALM]
            good &= np.fromiter(
                (str(realms[row]).lower() == needle.realm for row in rows.tolist()),
                dtype=np.bool_,
                count=len(rows),
            )
        if needle.ports != ALL_PORTS:
            first, last = (_integers(columns[name], rows) for name in PORTS)
            good &= (first <= needle.ports[1]) & (needle.ports[0] <= last)
        masks[needle.hold][rows[good]] = True


def _groups(
    values: Iterable[Any], index: Mapping[Any, list[Needle]], count: int
) -> Iterator[tuple[Array, list[Needle]]]:
    """Positions of the values that are a key of the index, by key, with what the index has."""
    numbers = {key: number for number, key in enumerate(index)}
    found = list(index.values())
    codes = np.fromiter(map(numbers.get, values, repeat(-1)), dtype=np.int64, count=count)
    hits = np.flatnonzero(codes >= 0)
    if not len(hits):
        return
    rows = hits[np.argsort(codes[hits], kind="stable")]
    for part in np.split(rows, np.flatnonzero(np.diff(codes[rows])) + 1):
        yield part, found[codes[part[0]]]


def _prefix_groups(
    columns: Columns, column: AddressColumn, index: PrefixIndex
) -> Iterator[tuple[Array, list[Needle]]]:
    """Positions of the rows whose prefix holds one of the index's or is held by it.

    Two prefixes overlap if they agree in the bits of the shorter one; so rows are taken by length,
    and each compared in as many bits as it and some prefix of the index have in common.
    """
    values = _addresses(columns[column.name])
    everything = np.arange(len(values))
    if column.length:
        lengths = np.minimum(_integers(columns[column.length], None), 128)
        present = np.flatnonzero(np.bincount(lengths, minlength=129)).tolist()
    else:
        lengths, present = np.full(len(values), 128), [128]
    for length in present:
        rows, chosen = everything, values
        if len(present) > 1:
            rows = np.flatnonzero(lengths == length)
            chosen = [values[row] for row in rows.tolist()]
        by_bits: dict[int, TextIndex | dict[bytes, list[Needle]]] = {}
        for (base, own), needles in index.items():
            bits = min(own, length)
            found: Any = by_bits.setdefault(bits, {})
            found.setdefault(network(base, bits), []).extend(needles)
        for bits, part_index in by_bits.items():
            masked = _masked(chosen, bits)
            for part, needles in _groups(masked, part_index, len(chosen)):
                yield rows[part], needles


def _masked(values: list[bytes], bits: int) -> list[bytes]:
    """Addresses with all bits after the first `bits` cleared."""
    if bits == 128:
        return values
    mask = np.frombuffer(network(b"\xff" * 16, bits), dtype=np.uint8)
    octets = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, 16) & mask
    kept: list[bytes] = octets.view("V16").ravel().tolist()
    return kept


def _addresses(values: Sequence[Any] | Array) -> list[bytes]:
    """A column of addresses as 16 bytes each; numpy's S16 loses zeros at the end."""
    found: list[bytes] = _list(values)
    if sum(map(len, found)) != 16 * len(found):
        return [each.ljust(16, b"\0") for each in found]
    return found


def _list(values: Sequence[Any] | Array) -> list[Any]:
    if isinstance(values, np.ndarray):
        listed: list[Any] = values.tolist()
        return listed
    return values if isinstance(values, list) else list(values)


def _integers(values: Sequence[Any] | Array, rows: Array | None) -> Array:
    """A column of integers as int64, at some positions or all."""
    if isinstance(values, np.ndarray):
        return (values if rows is None else values[rows]).astype(np.int64)
    if rows is None:
        return np.fromiter(values, dtype=np.int64, count=len(values))
    chosen = (values[row] for row in rows.tolist())
    return np.fromiter(chosen, dtype=np.int64, count=len(rows))
