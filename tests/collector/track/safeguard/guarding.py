"""A SafeGuard for tests: a small public domain, random bytes that repeat, and a clock to move."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from collector.track.safeguard.domain import Blocked, SafeguardConfig
from collector.track.safeguard.tracker import Randomness, SafeGuard
from collector.wire.addr import pack
from collector.wire.releases import CATEGORY_HOUR, KEPT_DAY, REGION_CATEGORY_DAY

SECOND = 1_000_000_000
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
MIDNIGHT = 20_000 * DAY
CATEGORIES = ("adult", "gambling", "malware")
ACCESS = ((pack("10.0.0.0"), 96 + 16), (pack("2001:db8::"), 48))
EPSILON = {CATEGORY_HOUR: 500_000, REGION_CATEGORY_DAY: 400_000, KEPT_DAY: 100_000}


def caps(hour: int, day: int) -> dict[str, int]:
    return {CATEGORY_HOUR: hour, REGION_CATEGORY_DAY: day, KEPT_DAY: 1}


def config(**changes: Any) -> SafeguardConfig:
    fields: dict[str, Any] = {
        "collector": "edge-1", "region": "north", "regions": ("north", "south"),
        "categories": CATEGORIES, "l0": caps(3, 2), "epsilon_micro": EPSILON,
    }  # fmt: skip
    return SafeguardConfig(**(fields | changes))


def stream(seed: bytes = b"s") -> Callable[[int], bytes]:
    """Random bytes that are the same in every run: SHAKE-128 of a counter."""
    drawn = 0

    def random_bytes(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_128(seed + drawn.to_bytes(8, "big")).digest(count)

    return random_bytes


def filler(seed: bytes = b"k") -> Callable[[bytearray], None]:
    source = stream(seed)

    def fill(buffer: bytearray) -> None:
        buffer[:] = source(len(buffer))

    return fill


def randomness(seed: bytes = b"r") -> Randomness:
    return Randomness(stream(seed), filler(seed))


class Silence:
    """Noise of zero, which shows the true counts; for tests of what is counted only."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def draws(self, count: int, random_bytes: Any) -> list[int]:
        return [0] * count


def guard(*, noise: bool = True, seed: bytes = b"r", **changes: Any) -> SafeGuard:
    made = SafeGuard(config(**changes), ACCESS, 64, randomness(seed))
    if not noise:
        made._laws = {each.name: Silence(each.scale) for each in made.marginals}  # type: ignore[misc]
    return made


def started(**options: Any) -> SafeGuard:
    """A tracker that has just seen midnight pass, so the day counts."""
    made = guard(**options)
    made.advance(MIDNIGHT - 60 * SECOND)
    made.advance(MIDNIGHT + SECOND)
    return made


def walk(made: SafeGuard, start: int, end: int, step: int = 240 * SECOND) -> None:
    """Let time pass without a step that is in doubt."""
    for now in range(start, end, step):
        made.advance(now)
    made.advance(end)


def block(made: SafeGuard, household: int, category: int) -> None:
    """Household `household` met a block: even ones over IPv4, odd ones over IPv6."""
    if household % 2:
        client = pack(f"2001:db8:0:{household:x}::7")
    else:
        client = pack(f"10.0.{household >> 8}.{household & 255}")
    made.blocked(Blocked(0, client, category))


def rows(taken: Any, class_name: str) -> list[dict[str, Any]]:
    columns = taken.get(class_name, {})
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def cells(taken: Any) -> dict[tuple[str, int, str, str], int]:
    """count by (marginal, start, region, category)."""
    found = rows(taken, "block_count")
    keys = [(row["marginal"], row["start_ns"], row["region"], row["category"]) for row in found]
    assert len(set(keys)) == len(keys)
    return {key: row["count"] for key, row in zip(keys, found, strict=True)}
