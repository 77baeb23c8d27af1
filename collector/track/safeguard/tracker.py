"""Blocked events and the clock in; at each hour's and day's end, the rows of SafeGuard out.

    calendar   which hour it is, and whether it may be counted
    households who counts where, in memory
    release    rows and ledger entries of what has ended

An event counts in the hour that the clock has reached when it is taken, so its own time is not
used. It waits for the clock's next move, a second at most, in a buffer that is overwritten then: of
a hundred answers one is a block, and code that runs so seldom is out of the processor's caches each
time (ten times the cost was measured), so that many are counted at once.

Noise is drawn when a window ends and true counts are overwritten then, so that there is one noise
for a window. A crash before the rows are in the spool loses them, and the day stays silent.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from collector.track.ranges import Ranges
from collector.track.safeguard.calendar import Calendar, Ended
from collector.track.safeguard.domain import (
    Blocked,
    Marginal,
    SafeguardConfig,
    marginals,
    pool_size,
)
from collector.track.safeguard.households import FillRandom, Households, clear
from collector.track.safeguard.laplace import DiscreteLaplace, RandomBytes
from collector.track.safeguard.release import Rows, columns_of, released, silent
from collector.wire.columns import Columns
from collector.wire.releases import MAX_PENDING

MAX_WAITING: Final = 1024
"""Events that wait; the next one has them counted at once."""
_WAITING: Final = struct.Struct(">16sB")
"""Client and category, of which there are 256 at most."""


@dataclass(frozen=True, slots=True)
class Randomness:
    """Where randomness comes from: `os.urandom` and `collector.hygiene.fill_random`."""

    random_bytes: RandomBytes
    fill_random: FillRandom


class SafeGuard:
    """The tracker of one router. Inert until `advance`; silent until the next UTC midnight then.

    Raises ValueError where the configuration gives no mechanism. There are no counts to read: what
    is seen here is told with noise or not at all.
    """

    def __init__(
        self,
        config: SafeguardConfig,
        access: Sequence[tuple[bytes, int]],
        ipv6_prefix_len: int,
        randomness: Randomness,
    ) -> None:
        self._config = config
        self._ranges = Ranges(access)
        self._random_bytes = randomness.random_bytes
        self.marginals = marginals(config, pool_size(access, ipv6_prefix_len))
        self._hourly, self._daily, self._kept = self.marginals
        self._laws = {each.name: DiscreteLaplace(each.scale) for each in self.marginals}
        self._households = Households(
            len(config.categories),
            self._hourly.cap,
            self._daily.cap,
            ipv6_prefix_len,
            config.max_households,
            randomness.fill_random,
        )
        self._calendar = Calendar(config.hour_ns, config.hours)
        self._pending: list[Rows] = []
        self._waiting = bytearray(MAX_WAITING * _WAITING.size)
        self._waits = 0

    def blocked(self, event: Blocked) -> None:
        """Count a blocked look-up; those of addresses outside the access prefixes are ignored."""
        if not self._calendar.is_counting:
            return
        if self._waits == MAX_WAITING:
            self.settle()
        at = self._waits * _WAITING.size
        _WAITING.pack_into(self._waiting, at, event.client, event.category)
        self._waits += 1

    def settle(self) -> None:
        """Count what waits. `advance` does it before the clock moves, so in the hour it is of."""
        size, self._waits = self._waits * _WAITING.size, 0
        hour = self._calendar.hour_of_day
        try:
            for client, category in _WAITING.iter_unpack(memoryview(self._waiting)[:size]):
                if client in self._ranges:
                    self._households.count(client, hour, category)
        finally:
            self._waiting[:size] = bytes(size)

    def advance(self, now_ns: int) -> None:
        """Let the clock be `now_ns`, every second or so: windows end, keys are made and destroyed.

        What is in doubt is wiped at once.
        """
        self.settle()
        calendar = self._calendar
        ended = calendar.advance(now_ns)
        if ended:
            self._end(ended)
        if calendar.has_begun_day:
            calendar.has_begun_day = False
            self._households.begin()
        elif not calendar.is_counting and self._households.is_open:
            self._households.wipe()

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows of what has ended since the last call; none but at an hour's end.

        The bounds of the closing batch say nothing about hours; they are ignored.
        """
        self.advance(now_ns)
        pending, self._pending = self._pending, []
        return columns_of(pending)

    def snapshot(self) -> dict[str, object]:
        """Public facts about days; nothing of a household, not even how many there are."""
        return self._calendar.snapshot()

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Know which days were begun. Raises ValueError, KeyError or TypeError as it must."""
        self._calendar.restore(snapshot)

    def wipe(self) -> None:
        """Destroy key, records and counts, when the collector ends: the day stays silent."""
        self._calendar.is_counting = False
        self._waits = 0
        self._waiting[:] = bytes(len(self._waiting))
        self._households.wipe()

    def _end(self, ended: Ended) -> None:
        """Tell the hour, and the day where it was its last; what was told is overwritten, come what
        may, as a count that is is told again with the next hour's would count a household twice."""
        households = self._households
        day = (ended.end_ns - self._config.day_ns, ended.end_ns)
        # The hours of a day share its caps: the first one carries the charge of them all.
        charge = self._hourly.epsilon_micro if ended.is_first else 0
        try:
            hour = (ended.start_ns, ended.end_ns)
            self._tell(self._hourly, hour, ended, households.by_hour, charge)
            if ended.ends_day:
                daily, kept = self._daily, self._kept
                self._tell(daily, day, ended, households.by_day, daily.epsilon_micro)
                self._tell(kept, day, ended, households.kept, kept.epsilon_micro)
        finally:
            clear(households.by_hour)
            if ended.ends_day:
                households.wipe()

    def _tell(
        self,
        marginal: Marginal,
        window: tuple[int, int],
        ended: Ended,
        counts: Sequence[int],
        charge: int,
    ) -> None:
        if len(self._pending) >= MAX_PENDING:
            return
        collector = self._config.collector
        if ended.is_counted:
            law = self._laws[marginal.name]
            rows = released(
                collector, marginal, window, counts, law, self._random_bytes, epsilon_micro=charge
            )
        else:
            rows = silent(collector, marginal, window, ended.restarts)
        self._pending.append(rows)
