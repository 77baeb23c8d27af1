"""Which addresses are the subscribers': prefix membership for whole columns at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.wire.addr import MAPPED, network

MAX_PREFIXES: Final = 4096
"""Most access prefixes. An edge router serves some tens of pools; each length costs a pass."""

Addresses = npt.NDArray[Any]
"""Array of void16: sixteen bytes an address, IPv4 mapped."""


def halves(addresses: Addresses) -> npt.NDArray[np.uint64]:
    """uint64[n, 2] over the same bytes: fit for masks and comparison, not for order."""
    packed = np.ascontiguousarray(addresses)
    return packed.view(np.uint64).reshape(len(packed), 2)


def mask_of(prefix_len: int) -> tuple[np.uint64, np.uint64]:
    """The mask of a prefix of 0 to 128 bits in the form of `halves`."""
    high, low = np.frombuffer(network(b"\xff" * 16, prefix_len), np.uint64)
    return high, low


def is_mapped(addresses: Addresses) -> npt.NDArray[np.bool_]:
    """Which of the addresses are IPv4; bool[n]."""
    parts = halves(addresses)
    mapped: npt.NDArray[np.bool_] = parts[:, 0] == _MAPPED_HIGH
    mapped &= parts[:, 1] & _MAPPED_MASK == _MAPPED_LOW
    return mapped


def bases(addresses: Addresses, ipv6_prefix_len: int) -> Addresses:
    """The base of each subscriber's prefix: of IPv4 the address itself."""
    parts = halves(addresses).copy()
    mapped = is_mapped(addresses)
    for at, mask in enumerate(mask_of(ipv6_prefix_len)):
        parts[:, at] &= np.where(mapped, _ALL, mask)
    return parts.view("V16").ravel()


_ALL: Final = np.uint64(2**64 - 1)
_MAPPED_HIGH, _MAPPED_LOW = np.frombuffer(MAPPED + bytes(4), np.uint64)
_MAPPED_MASK: Final = np.frombuffer(b"\xff" * 4 + bytes(4), np.uint64)[0]
"""How an IPv4 address looks in `halves`."""


class Prefixes:
    """A set of prefixes, each (network of 16 bytes, length in 128 bits: an IPv4 /24 is 120).

    Raises ValueError for a network with host bits, a bad length, or more than MAX_PREFIXES.
    """

    def __init__(self, prefixes: Iterable[tuple[bytes, int]]) -> None:
        # By length; then all upper halves at once up to /64, else lower halves by upper half.
        self._short: dict[int, list[int]] = {}
        self._long: dict[tuple[int, int], list[int]] = {}
        known = set(prefixes)
        if len(known) > MAX_PREFIXES:
            raise ValueError(f"more than {MAX_PREFIXES} access prefixes")
        for base, prefix_len in known:
            if len(base) != 16 or network(base, prefix_len) != base:
                raise ValueError("an access prefix is 16 bytes without host bits")
            high, low = (int(half) for half in np.frombuffer(base, np.uint64))
            if prefix_len <= 64:
                self._short.setdefault(prefix_len, []).append(high)
            else:
                self._long.setdefault((prefix_len, high), []).append(low)

    def contains(self, addresses: Addresses) -> npt.NDArray[np.bool_]:
        """Which of the addresses lie in one of the prefixes; bool[n]."""
        found = np.zeros(len(addresses), np.bool_)
        parts = halves(addresses)
        high, low = parts[:, 0], parts[:, 1]
        for prefix_len, highs in self._short.items():
            found |= np.isin(high & mask_of(prefix_len)[0], np.array(highs, np.uint64))
        for (prefix_len, upper), lows in self._long.items():
            inside = np.isin(low & mask_of(prefix_len)[1], np.array(lows, np.uint64))
            found |= inside & (high == np.uint64(upper))
        return found
