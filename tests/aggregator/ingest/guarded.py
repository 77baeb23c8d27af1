"""A day of SafeGuard's releases as a collector makes them, as columns of a batch."""

from __future__ import annotations

from typing import Any

from tests.collector.track.safeguard.guarding import DAY as DAY
from tests.collector.track.safeguard.guarding import HOUR as HOUR
from tests.collector.track.safeguard.guarding import MIDNIGHT as MIDNIGHT
from tests.collector.track.safeguard.guarding import SECOND, guard, walk


def day_of_releases(
    start_ns: int = MIDNIGHT, *, is_counted: bool = True, seed: bytes = b"r", **changes: Any
) -> dict[str, dict[str, Any]]:
    """The releases of a whole day; silent ones where the collector began within it."""
    made = guard(seed=seed, **changes)
    made.advance(start_ns + (-60 if is_counted else 60) * SECOND)
    made.take(0, 1, start_ns + (1 if is_counted else 61) * SECOND)  # silence of the day before
    walk(made, start_ns + 61 * SECOND, start_ns + DAY)
    taken = made.take(0, 1, start_ns + DAY)
    return {
        name: {column: list(values) for column, values in columns.items()}
        for name, columns in taken.items()
    }
