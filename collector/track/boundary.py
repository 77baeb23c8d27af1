"""Where an interval of kernel counters ends: the moment of a reading, put on the window's edge.

A window is read just after it ends. Left as they are, its rows would end some milliseconds into
the next window, and no two windows would tile; so a reading that comes within `settle_ns` after an
edge counts as taken on it. The error is the traffic of that time, which moves between neighbouring
windows and is never lost.
"""

from __future__ import annotations

from typing import Final

SETTLE_NS: Final = 2_000_000_000
"""Default for how late a reading may be. A dump of 50,000 addresses takes 0.3 s, and a busy
router delays a timer by tens of milliseconds; a later reading keeps its own time."""


def settle(ts_ns: int, window_ns: int, settle_ns: int) -> int:
    """The window edge just before `ts_ns` where that is at most `settle_ns` ago, else `ts_ns`."""
    late_ns = ts_ns % window_ns
    return ts_ns - late_ns if late_ns <= settle_ns else ts_ns
