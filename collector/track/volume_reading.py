"""What is read of the kernel's counters: all of them at one time, or those of one address."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Fill:
    """How full one set is: elements of at most `size`."""

    name: str
    elements: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """All counters at one time.

    began_ns, ts_ns: before the first and after the last byte was read. generation: names the
    counters. addresses: V16, each once. prefix_len: uint8, in 128 bits. counters: uint64 of shape
    (n, 4): up bytes, down bytes, up packets, down packets. uncounted: totals of the packets that
    found a set full. outside: totals of access traffic from or to none of the prefixes.
    """

    began_ns: int
    ts_ns: int
    generation: str
    addresses: NDArray[np.void]
    prefix_len: NDArray[np.uint8]
    counters: NDArray[np.uint64]
    fill: tuple[Fill, ...] = ()
    uncounted_bytes: int = 0
    uncounted_packets: int = 0
    outside_bytes: int = 0
    outside_packets: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of one address (base of its metered prefix) at one time; zeros for none."""

    ts_ns: int
    generation: str
    address: bytes
    prefix_len: int
    up_bytes: int
    down_bytes: int
    up_packets: int
    down_packets: int
