"""How long the loop may sleep: pure, by the monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SECOND_NS: Final = 1_000_000_000
POLL_S: Final = 0.1
"""Between two looks at what no descriptor tells of: files that grow, and the watchdog's sign of
life."""
GATHER_NS: Final = 50_000_000
"""From one reading of ended flows to the next, where no more waited: a reading costs 0.9 ms however
few there are. They have times of their own and are in no journal, so nobody waits for them."""
GATHER_BYTES: Final = 2**26
"""A receive buffer (as the kernel counts it, of 50,000 events) that has room for that; a smaller
one is read as much more often."""


def wait_s(monotonic_ns: int, timers_ns: Sequence[int], polled: bool) -> float:
    """Seconds until the first timer is due, 0 where one is.

    That the time of day was set while the loop slept is found at the tick, which is among the
    timers.
    """
    seconds = max(min(timers_ns) - monotonic_ns, 0) / SECOND_NS
    return min(seconds, POLL_S) if polled else seconds


def gather_ns(buffer_bytes: int) -> int:
    """How long ended flows may gather in a buffer."""
    return GATHER_NS * min(buffer_bytes, GATHER_BYTES) // GATHER_BYTES
