"""Bindings in, an index that answers who held an address or prefix over an interval out.

A binding is an interval, not a column: the same address belongs to different subscribers at
different times, so every question carries a time. Times are integer microseconds UTC, intervals
half-open; an open end is `OPEN`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

OPEN: Final = 2**62
"""End of a binding that is still open, in microseconds: later than any time in the system."""

MAX_INTERVALS_PER_PREFIX: Final = 4096
"""Newest intervals kept for one prefix: eleven new leases a day for a year."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One interval of one prefix. `address` is 16 bytes, `prefix_len` counts in 128 bits.

    A later `observed_us` of the same `record_id` replaces an earlier one (an open interval is
    written again when it closes).
    """

    record_id: bytes
    observed_us: int
    subscriber: str
    address: bytes
    prefix_len: int
    valid_from_us: int
    valid_to_us: int


class BindingIndex:
    """Bindings by collector and prefix, newest version of each, searchable by containment."""

    def __init__(self) -> None:
        self._by_prefix: dict[tuple[str, int, int], dict[bytes, Binding]] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return sum(len(found) for found in self._by_prefix.values())

    def apply(self, collector: str, bindings: Iterable[Binding]) -> None:
        """Take new bindings or newer versions of known ones; the order does not matter."""
        for binding in bindings:
            base = _mask(int.from_bytes(binding.address, "big"), binding.prefix_len)
            key = (collector, binding.prefix_len, base)
            known = self._by_prefix.setdefault(key, {})
            older = known.get(binding.record_id)
            if older is None or older.observed_us <= binding.observed_us:
                known[binding.record_id] = binding
            if len(known) > MAX_INTERVALS_PER_PREFIX:
                oldest = min(known.values(), key=lambda each: each.valid_from_us)
                del known[oldest.record_id]
                self.evicted += 1
            lengths = self._lengths.get(collector, ())
            if binding.prefix_len not in lengths:
                self._lengths[collector] = tuple(sorted({*lengths, binding.prefix_len}))

    def forget_before(self, horizon_us: int) -> int:
        """Drop bindings that ended before `horizon_us`; gives how many went."""
        gone = 0
        for key, known in list(self._by_prefix.items()):
            for record, binding in list(known.items()):
                if binding.valid_to_us < horizon_us:
                    del known[record]
                    gone += 1
            if not known:
                del self._by_prefix[key]
        return gone

    def holders(
        self, collector: str, address: bytes, prefix_len: int, from_us: int, to_us: int
    ) -> list[Binding]:
        """Every binding whose prefix holds the given one and whose interval meets [from, to)."""
        number = int.from_bytes(address, "big")
        found = []
        for length in self._lengths.get(collector, ()):
            if length > prefix_len:
                break
            known = self._by_prefix.get((collector, length, _mask(number, length)))
            if known:
                found += [
                    each
                    for each in known.values()
                    if each.valid_from_us < to_us and from_us < each.valid_to_us
                ]
        return found


def _mask(number: int, prefix_len: int) -> int:
    shift = 128 - prefix_len
    return number >> shift << shift
