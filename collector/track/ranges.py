"""Whether one address is a subscriber's; for whole columns see `collector.track.inside`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from collector.wire.addr import network


class Ranges:
    """The addresses of some prefixes, each (base of 16 bytes, length in 128 bits): `address in`."""

    def __init__(self, prefixes: Iterable[tuple[bytes, int]]) -> None:
        # First and last addresses, in order and without overlaps.
        self._firsts: list[bytes] = []
        self._lasts: list[bytes] = []
        for base, length in sorted((network(base, length), length) for base, length in prefixes):
            last = (int.from_bytes(base, "big") | (1 << 128 - length) - 1).to_bytes(16, "big")
            if self._lasts and base <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(base)
                self._lasts.append(last)

    def __contains__(self, address: bytes) -> bool:
        at = bisect_right(self._firsts, address) - 1
        return at >= 0 and address <= self._lasts[at]
