"""Blocked look-ups of one UTC day in, true counts out: capped for each household, in memory only.

A household is known by eight bytes of BLAKE2b under a key that exists for one day. Its record says
in which cells it counts, and is overwritten with the key when the day ends. Which cells a household
counts in depends on its own look-ups and the clock, on no other household's: that is what bounds
the change that one of them can make. Two households with the same tag would share a record; with a
million of them that has a chance of 3 in 10^8 a day.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from typing import Final

from collector.wire.addr import MAPPED, network

FillRandom = Callable[[bytearray], None]
"""Overwrites a buffer with random bytes, with no copy of them elsewhere."""
KEY_BYTES: Final = 32
TAG_BYTES: Final = 8
_CHUNK: Final = 4096
"""Records that are made at once. A buffer that grew would leave its old bytes in freed memory."""
_CLIPPED, _HOURS, _DAYS, _CELLS = 0, 1, 2, 3
"""A record: whether a cap took something, cells of each kind, then the cells themselves: two
bytes (hour, category) for each of category-hour, then one byte for each category of the day."""


class Households:
    """Tags, caps and counts of one day.

    by_hour: households of the open hour, by category. by_day: of the day, by category. kept: whole
    and clipped. All are true counts, to be read by whoever adds the noise and by nobody else.
    """

    def __init__(
        self,
        categories: int,
        hour_cap: int,
        day_cap: int,
        ipv6_prefix_len: int,
        max_households: int,
        fill_random: FillRandom,
    ) -> None:
        if not 1 <= categories <= 256 or not 1 <= hour_cap <= 255 or not 1 <= day_cap <= 255:
            raise ValueError("categories and caps must fit a record")
        self._hour_cap, self._day_cap = hour_cap, day_cap
        self._prefix_len, self._max = ipv6_prefix_len, max_households
        self._fill_random = fill_random
        self._size = _CELLS + 2 * hour_cap + day_cap
        self._key = bytearray(KEY_BYTES)
        self._tags: dict[bytes, int] = {}
        self._chunks: list[bytearray] = []
        self.by_hour = array("Q", bytes(8 * categories))
        self.by_day = array("Q", bytes(8 * categories))
        self.kept = array("Q", bytes(16))
        self.is_open = False

    def begin(self) -> None:
        """A new day: a new key, and nothing of the day before."""
        self.wipe()
        self._fill_random(self._key)
        self.is_open = True

    def wipe(self) -> None:
        """Overwrite key, records and counts; nothing is counted until `begin`."""
        self.is_open = False
        self._key[:] = bytes(KEY_BYTES)
        self._tags.clear()
        for chunk in self._chunks:
            chunk[:] = bytes(len(chunk))
        for counts in (self.by_hour, self.by_day, self.kept):
            clear(counts)

    def count(self, client: bytes, hour: int, category: int) -> None:
        """A look-up of an address was blocked in an hour (0 to 23) of the day.

        Beyond `max_households` further households are not counted, in the order of arrival.
        """
        if not self.is_open:
            return
        if not 0 <= hour < 24 or not 0 <= category < len(self.by_hour):
            raise ValueError("a blocked look-up outside the public domain")
        tag = self._tag(client)
        slot = self._tags.get(tag)
        if slot is None:
            slot = len(self._tags)
            if slot >= self._max:
                return
            self._tags[tag] = slot
            self.kept[0] += 1
            if slot // _CHUNK == len(self._chunks):
                self._chunks.append(bytearray(_CHUNK * self._size))
        chunk, base = self._chunks[slot // _CHUNK], slot % _CHUNK * self._size
        first = base + _CELLS
        for at in range(first, first + 2 * chunk[base + _HOURS], 2):
            # A device repeats what is refused: both caps were looked at the first time.
            if chunk[at] == hour and chunk[at + 1] == category:
                return
        # Both caps are looked at whatever the other says: neither cuts the other's counts.
        fits_hour = self._hour(chunk, base, hour, category)
        fits_day = self._day(chunk, base, category)
        if not (fits_hour and fits_day) and not chunk[base + _CLIPPED]:
            chunk[base + _CLIPPED] = 1
            self.kept[0] -= 1
            self.kept[1] += 1

    def _tag(self, client: bytes) -> bytes:
        if client[:12] != MAPPED:
            client = network(client, self._prefix_len)
        return hashlib.blake2b(client, digest_size=TAG_BYTES, key=self._key).digest()

    def _hour(self, chunk: bytearray, base: int, hour: int, category: int) -> bool:
        """Count the household in one more cell of category-hour; false where its cap forbids it."""
        known, first = chunk[base + _HOURS], base + _CELLS
        if known >= self._hour_cap:
            return False
        chunk[first + 2 * known], chunk[first + 2 * known + 1] = hour, category
        chunk[base + _HOURS] = known + 1
        self.by_hour[category] += 1
        return True

    def _day(self, chunk: bytearray, base: int, category: int) -> bool:
        """The same for a category of the day."""
        known, first = chunk[base + _DAYS], base + _CELLS + 2 * self._hour_cap
        if chunk.find(category, first, first + known) >= 0:
            return True
        if known >= self._day_cap:
            return False
        chunk[first + known] = category
        chunk[base + _DAYS] = known + 1
        self.by_day[category] += 1
        return True


def clear(counts: array[int]) -> None:
    """Overwrite counts in place."""
    for at in range(len(counts)):
        counts[at] = 0
