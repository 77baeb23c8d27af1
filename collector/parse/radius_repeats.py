"""Interim reports that repeat one before: turns a packet's bytes into the profile known of them.

A NAS reports each session every few minutes by the same attributes in the same order, of which only
times and counters are new. So a packet is cut as one before it was, and where all but those numbers
is equal to what was read then, nothing else has to be read again. The cuts stand where the types
and lengths of the attributes, which are compared too, have them: equal parts mean equal attributes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from collector.parse.radius_attributes import READ, Profile

HEADER_BYTES: Final = 20
MAX_PROFILES: Final = 32_768
"""Reports remembered of late, and as many of before that: 1.6 KB each."""
MAX_LAYOUTS: Final = 4_096
"""Lengths of packets by sender; a NAS has some twenty, as names of lines differ in length."""
MAX_CUTS: Final = 4
"""Layouts of one sender and length, each tried in turn."""
MAX_PARTS: Final = 128
"""Parts of a packet; a NAS sends some forty attributes."""

_NUMBERS: Final = (41, 55, 46, 42, 52, 43, 53)
"""Attributes that change from report to report, each once in a packet: delay, time of the event,
session time, then low and high words of the octets up and down."""

Again = tuple[Profile, int | None, int | None, int | None, bool, int | None, int | None, int]
"""Profile, session time, octets up and down, whether gigawords were sent, time of the event, delay,
and how many attributes were rejected."""


class _Layout(NamedTuple):
    """How to cut a packet, and of its parts and a None: those that stay the same, and the numbers
    in the order of `_NUMBERS`, None for each that is not there."""

    cut: Callable[..., tuple[Any, ...]]
    same: Callable[[Sequence[Any]], Any]
    numbers: Callable[[Sequence[Any]], tuple[Any, ...]]


class Repeats:
    """Reports by what is the same in the next one; those not seen for long are forgotten."""

    def __init__(self, max_profiles: int = MAX_PROFILES) -> None:
        self._max_profiles = max_profiles
        self._layouts: dict[tuple[bytes, int], tuple[_Layout, ...]] = {}
        self._young: dict[Any, tuple[Profile, int]] = {}
        self._old: dict[Any, tuple[Profile, int]] = {}

    def find(self, client: bytes, data: bytes) -> Again | None:
        """What an interim report says, where all of it but its numbers was seen before."""
        for layout in self._layouts.get((client, len(data)), ()):
            parts = layout.cut(data, HEADER_BYTES)
            known = self._young.get(same := layout.same(parts)) or self._revived(same)
            if known is not None:
                delay, at, session, up, up_high, down, down_high = layout.numbers((*parts, None))
                if up is not None and up_high:
                    up |= up_high << 32
                if down is not None and down_high:
                    down |= down_high << 32
                gigawords = up_high is not None or down_high is not None
                return known[0], session, up, down, gigawords, at, delay, known[1]
        return None

    def learn(
        self,
        client: bytes,
        data: bytes,
        attributes: Sequence[tuple[int, bytes]],
        profile: Profile,
        rejected: int,
    ) -> None:
        """Remembers what an interim report said: `attributes` are all of `data`'s."""
        layout = _layout_of(attributes)
        if layout is None:
            return
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        key = (client, len(data))
        same = layout.same(layout.cut(data, HEADER_BYTES))
        known = self._layouts.get(key, ())
        if not any(each.same(each.cut(data, HEADER_BYTES)) == same for each in known):
            self._layouts[key] = (layout, *known)[:MAX_CUTS]
        self._keep(same, (profile, rejected))

    def _revived(self, same: Any) -> tuple[Profile, int] | None:
        known = self._old.pop(same, None)
        if known is not None:
            self._keep(same, known)
        return known

    def _keep(self, same: Any, known: tuple[Profile, int]) -> None:
        if len(self._young) >= self._max_profiles:
            self._young, self._old = {}, self._young
        self._young[same] = known


def _layout_of(attributes: Sequence[tuple[int, bytes]]) -> _Layout | None:
    """The layout of a packet; None for one whose numbers cannot be told by their place."""
    shape, size = ">", 0
    kinds: list[int] = []
    for kind, value in attributes:
        size += 2
        if kind in READ and kind not in _NUMBERS:
            size += len(value)
            continue
        shape += f"{size}s"
        kinds.append(0)
        size = 0
        if kind not in _NUMBERS:
            shape += f"{len(value)}x"  # not read, so that it may change
        elif len(value) != 4 or kind in kinds:
            return None
        else:
            shape += "I"
            kinds.append(kind)
    if len(kinds) >= MAX_PARTS:
        return None
    shape += f"{size}s"
    kinds.append(0)
    same = [place for place, kind in enumerate(kinds) if not kind]
    places = [kinds.index(kind) if kind in kinds else len(kinds) for kind in _NUMBERS]
    return _Layout(struct.Struct(shape).unpack_from, itemgetter(*same), itemgetter(*places))
