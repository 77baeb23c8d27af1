"""Usage rows in, anonymous demand rows out: bytes of an area in a window, and how many lines.

A line is one address or prefix that carried anything. Their number stands in a row only where at
least k lines did, so that a row never speaks of a household.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from collector.wire.addr import pack

WINDOW_US: Final = 300_000_000
DEFAULT_K: Final = 10
UNASSIGNED: Final = "unassigned"
_CACHED: Final = 262_144
"""Addresses whose area is remembered: a large collector's lines, at about 200 bytes each."""

Array = np.ndarray[Any, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Areas:
    """Which area an address is in: the longest configured prefix that holds it."""

    def __init__(self, areas: Mapping[str, Sequence[Network]]) -> None:
        self._by_length: dict[int, dict[int, str]] = {}
        for name, networks in areas.items():
            for network in networks:
                length = network.prefixlen + (96 if network.version == 4 else 0)
                base = int.from_bytes(pack(network.network_address), "big")
                self._by_length.setdefault(length, {})[base >> (128 - length)] = name
        self._lengths = sorted(self._by_length, reverse=True)
        self.of = functools.lru_cache(maxsize=_CACHED)(self._of)

    def _of(self, address: bytes) -> str:
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            name = self._by_length[length].get(number >> (128 - length))
            if name is not None:
                return name
        return UNASSIGNED


def demand(usage: Mapping[str, Array], areas: Areas, k: int = DEFAULT_K) -> dict[str, Array]:
    """Demand columns (without provenance) of the stored usage columns of one batch.

    Rows are placed by the five minutes in which they start, and come in a fixed order.
    """
    windows = usage["start_us"] // WINDOW_US * WINDOW_US
    addresses = usage["address"].tolist()
    places = [areas.of(address) for address in addresses]
    groups: dict[tuple[str, int], int] = {}
    of_row = np.array(
        [groups.setdefault(key, len(groups)) for key in zip(places, windows.tolist(), strict=True)],
        dtype=np.int64,
    )
    up = np.zeros(len(groups), np.uint64)
    down = np.zeros(len(groups), np.uint64)
    np.add.at(up, of_row, usage["up_bytes"].astype(np.uint64))
    np.add.at(down, of_row, usage["down_bytes"].astype(np.uint64))
    busy = (usage["up_bytes"] + usage["down_bytes"]) > 0
    lines = np.zeros(len(groups), np.uint32)
    seen = zip(of_row.tolist(), addresses, usage["prefix_len"].tolist(), busy.tolist(), strict=True)
    for group in [row[0] for row in {row for row in seen if row[3]}]:
        lines[group] += 1
    known = lines >= k
    keys = list(groups)
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    area = np.empty(len(keys), dtype=object)
    area[:] = [name.encode() for name, _ in keys]
    columns = {
        "area": area,
        "start_us": np.array([start for _, start in keys], np.int64),
        "window_us": np.full(len(keys), WINDOW_US, np.int64),
        "up_bytes": up,
        "down_bytes": down,
        "active_lines": np.where(known, lines, 0).astype(np.uint32),
        "lines_known": known.astype(np.uint8),
    }
    return {name: values[order] for name, values in columns.items()}
