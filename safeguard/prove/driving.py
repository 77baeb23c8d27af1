"""A SafeGuard as routers run it in, its rows of days out: with restarts, and chosen households.

Noise is drawn from random bytes that repeat, so that two runs that differ in one household differ
in true counts alone. Keys come from the kernel.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from collector.track.safeguard.calendar import DAY_NS, HOUR_NS
from collector.track.safeguard.domain import Blocked, SafeguardConfig
from collector.track.safeguard.tracker import Randomness, SafeGuard
from collector.wire.addr import pack
from collector.wire.columns import Columns

Stream = Sequence[tuple[int, int, int]]
"""(time, household, category), in the order of time."""
Row = dict[str, Any]

ACCESS: Final = ((pack("198.18.0.0"), 96 + 15),)
"""Addresses for benchmarks (RFC 2544): of no household."""
MIDNIGHT: Final = 20_000 * DAY_NS
STEP_NS: Final = 240 * 1_000_000_000
"""Less than what the collector's calendar takes for a clock that was set."""
HOUSEHOLDS: Final = 24
CATEGORIES: Final = ("one", "two", "three")


def config(like: SafeguardConfig | None = None) -> SafeguardConfig:
    """A small public domain; caps, charges and routers as the operator has them, where known."""
    plain = SafeguardConfig("prove", "north", ("north", "south"), CATEGORIES)
    if like is None:
        return plain
    same = ("l0", "epsilon_micro", "budget_micro", "routers", "max_households")
    return replace(plain, **{name: getattr(like, name) for name in same})


def days(
    made: SafeguardConfig, stream: Stream, restarts: Sequence[int] = (), count: int = 1
) -> dict[str, list[Row]]:
    """The rows of whole days; at each restart the collector dies and knows its state only.

    The clock goes in steps that do not depend on the stream: nor may anything else of the rows.
    """
    taken: dict[str, list[Row]] = defaultdict(list)
    guard, left, events = started(made), sorted(restarts), deque(stream)
    for now in range(MIDNIGHT + STEP_NS, MIDNIGHT + count * DAY_NS + 2 * STEP_NS, STEP_NS):
        while events and events[0][0] < now:
            _, household, category = events.popleft()
            guard.blocked(event(household, category))
        if left and left[0] <= now:
            state = guard.snapshot()
            guard.wipe()
            guard = SafeGuard(made, ACCESS, 64, repeating(bytes([len(left)])))
            guard.restore(state, now)
            left.pop(0)
        for name, columns in guard.take(0, 1, now).items():
            taken[name] += rows(columns)
    return taken


def started(made: SafeguardConfig) -> SafeGuard:
    """A tracker that has seen a midnight pass, so that the day counts."""
    guard = SafeGuard(made, ACCESS, 64, repeating())
    guard.advance(MIDNIGHT - STEP_NS)
    guard.take(0, 1, MIDNIGHT + 1)  # the day before, of which the last minutes were seen
    return guard


def repeating(seed: bytes = b"") -> Randomness:
    """Random bytes for noise that are the same in every run; keys from the kernel."""
    drawn = 0

    def random_bytes(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_128(seed + drawn.to_bytes(8, "big")).digest(count)

    return Randomness(random_bytes, fill)


def fill(buffer: bytearray) -> None:
    """Overwrite a buffer with the kernel's random bytes."""
    buffer[:] = os.urandom(len(buffer))


def every_hour(count: int, households: int = 1) -> Iterator[tuple[int, int, int]]:
    """Households that meet every category in every hour of so many days."""
    for hour in range(24 * count):
        for household in range(households):
            for category in range(len(CATEGORIES)):
                yield MIDNIGHT + hour * HOUR_NS + HOUR_NS // 2, household, category


def some(source: random.Random, household: int | None = None) -> list[tuple[int, int, int]]:
    """Events at random of two days: of one household, or of all but the first."""
    who: Callable[[], int] = (
        (lambda: household) if household is not None else (lambda: source.randrange(1, HOUSEHOLDS))
    )
    return [
        (MIDNIGHT + 1 + source.randrange(2 * DAY_NS), who(), source.randrange(len(CATEGORIES)))
        for _ in range(source.randrange(1, 60))
    ]


def event(household: int, category: int) -> Blocked:
    """Household number so-and-so met a block."""
    return Blocked(0, ACCESS[0][0][:14] + household.to_bytes(2, "big"), category)


def rows(columns: Columns) -> list[Row]:
    """Columns as rows."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def shape(found: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Everything of rows but the counts."""
    return [tuple(value for name, value in row.items() if name != "count") for row in found]
