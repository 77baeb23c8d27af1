"""Scope items as sets of instants: what is new in some, and the same set in fewer items. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from retention.holds.columns import CLASSES
from retention.holds.needles import merged
from retention.model import Kind, ScopeItem

Interval: TypeAlias = tuple[int, int]
_Key: TypeAlias = tuple[Kind, str, tuple[int, int], str]
"""Kind, value, ports, record class."""


class Covered:
    """The instants that scope items cover, by identifier and record class."""

    def __init__(self, items: Iterable[ScopeItem]) -> None:
        found: dict[_Key, list[Interval]] = {}
        for item in items:
            for name in item.classes:
                key = (item.kind, item.value, item.ports, name)
                found.setdefault(key, []).append((item.from_us, item.to_us))
        self._intervals = {key: merged(each) for key, each in found.items()}

    def touches(self, item: ScopeItem) -> bool:
        """Whether any instant of the item is covered, in one of its classes."""
        return any(
            start < item.to_us and item.from_us < end
            for name in item.classes
            for start, end in self._intervals.get((item.kind, item.value, item.ports, name), ())
        )

    def missing(self, items: Iterable[ScopeItem]) -> tuple[ScopeItem, ...]:
        """What of the items is not covered, as resolved items, ordered and without overlaps."""
        pieces: dict[tuple[Kind, str, tuple[int, int], int, int], set[str]] = {}
        wanted = Covered(items)
        for key, intervals in wanted._intervals.items():
            kind, value, ports, name = key
            for start, end in _without(intervals, self._intervals.get(key, ())):
                pieces.setdefault((kind, value, ports, start, end), set()).add(name)
        return tuple(
            ScopeItem(kind, value, start, end, _ordered(names), ports, resolved=True)
            for (kind, value, ports, start, end), names in sorted(pieces.items())
        )


def compact(items: Sequence[ScopeItem]) -> tuple[ScopeItem, ...]:
    """The same coverage: items of the order as they are, resolved ones merged where they touch."""
    joined: dict[tuple[Kind, str, tuple[int, int], tuple[str, ...]], list[Interval]] = {}
    for item in items:
        if item.resolved:
            key = (item.kind, item.value, item.ports, item.classes)
            joined.setdefault(key, []).append((item.from_us, item.to_us))
    resolved = (
        ScopeItem(kind, value, start, end, classes, ports, resolved=True)
        for (kind, value, ports, classes), intervals in sorted(joined.items())
        for start, end in merged(intervals)
    )
    return (*(item for item in items if not item.resolved), *resolved)


def _without(intervals: Sequence[Interval], taken: Sequence[Interval]) -> list[Interval]:
    """Disjoint ordered intervals without the instants of others."""
    found = []
    for interval in intervals:
        start, end = interval
        for begins, ends in taken:
            if ends <= start:
                continue
            if begins >= end:
                break
            if start < begins:
                found.append((start, begins))
            start = max(start, ends)
        if start < end:
            found.append((start, end))
    return found


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in CLASSES if name in names)
