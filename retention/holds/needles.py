"""Scope items in, what to look for in the columns of one record class out. Pure.

Items of one hold that differ only in time become one needle with merged intervals, so that a hold
of thousands of resolved items costs no more than its distinct identifiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from retention.holds.columns import ADDRESSES, ALL_PORTS, NUMBERS, TEXTS
from retention.holds.scope import prefix
from retention.model import Kind, ScopeItem

Array: TypeAlias = np.ndarray[Any, Any]
Prefix: TypeAlias = tuple[bytes, int]
"""Base (16 bytes) and length in 128 bits."""

SEPARATORS: Final = {ord(each): None for each in " ().-/\t\u00a0"}
"""What people and switches put between digits (RFC 3966 section 5.1.1, and spaces)."""


@dataclass(frozen=True, slots=True)
class Needle:
    """What one hold looks for under one key: disjoint intervals in ascending order.

    realm: in lower case; "" for any. ports: a range that the row's public ports must meet.
    """

    hold: str
    realm: str
    ports: tuple[int, int]
    starts: Array
    ends: Array

    def overlaps(self, start: Array, end: Array) -> Array:
        """For rows over [start, end), whether any of the intervals meets them."""
        begun = np.searchsorted(self.starts, end, side="left")
        over = np.searchsorted(self.ends, start, side="right")
        found: Array = begun > over
        return found


TextIndex: TypeAlias = dict[str, list[Needle]]
PrefixIndex: TypeAlias = dict[Prefix, list[Needle]]


@dataclass
class Needles:
    """Column to what is looked for in it. numbers: text as sent, without separators."""

    texts: dict[str, TextIndex] = field(default_factory=dict)
    numbers: dict[str, TextIndex] = field(default_factory=dict)
    prefixes: dict[str, PrefixIndex] = field(default_factory=dict)


def spellings(number: str) -> tuple[str, str, str]:
    """The texts of digits that mean an E.164 number without knowing where it was dialled."""
    digits = number.removeprefix("+")
    return number, digits, f"00{digits}"


def user_keys(value: str) -> tuple[tuple[str, str], ...]:
    """(user name, realm in lower case or "" for any) that a user identifier matches."""
    name, _, realm = value.rpartition("@")
    return ((value, ""), (name, realm)) if name else ((value, ""),)


def merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same instants as disjoint intervals in ascending order; those that touch become one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


_Key = tuple[str, str, str | Prefix, str, str, tuple[int, int]]
"""Table of `Needles`, column, key in it, hold, realm, ports."""


def compiled(record_class: str, scopes: Mapping[str, Sequence[ScopeItem]]) -> Needles:
    """What the holds (id to scope) look for in the columns of a class."""
    intervals: dict[_Key, list[tuple[int, int]]] = {}
    for hold, items in scopes.items():
        for item in items:
            if record_class in item.classes:
                for key in _keys(record_class, hold, item):
                    intervals.setdefault(key, []).append((item.from_us, item.to_us))
    needles = Needles()
    for (table, column, text, hold, realm, ports), found in intervals.items():
        index = getattr(needles, table).setdefault(column, {})
        times = np.array(merged(found), dtype=np.int64).reshape(-1, 2)
        index.setdefault(text, []).append(Needle(hold, realm, ports, times[:, 0], times[:, 1]))
    return needles


def _keys(record_class: str, hold: str, item: ScopeItem) -> Iterable[_Key]:
    if item.kind is Kind.ADDRESS:
        key = prefix(item.value)
        for column in ADDRESSES[record_class]:
            # A port says nothing of the inside address; without ports either side is enough.
            if column.public or item.ports == ALL_PORTS:
                yield "prefixes", column.name, key, hold, "", item.ports
    elif item.kind is Kind.NUMBER:
        for e164, raw in NUMBERS.get(record_class, ()):
            yield "texts", e164, item.value, hold, "", ALL_PORTS
            for text in spellings(item.value):
                yield "numbers", raw, text, hold, "", ALL_PORTS
    elif item.kind in TEXTS[record_class]:
        column_name = TEXTS[record_class][item.kind]
        keys = user_keys(item.value) if item.kind is Kind.USER else ((item.value, ""),)
        for text, realm in keys:
            yield "texts", column_name, text, hold, realm, ALL_PORTS
