"""Bytes of the access interfaces beside those of the sets, between two readings of both."""

from __future__ import annotations

import time
from dataclasses import dataclass

from collector import build
from collector.capture.links import LinkReader, LinksConfig
from collector.capture.nftsets import NftUnavailable, SetReader
from collector.config import Config
from collector.doctor.facts import Passed
from collector.track.links import LinkReading
from collector.track.volume import Reading


@dataclass(frozen=True, slots=True)
class Totals:
    """Both at nearly one time: read in this order, the second at `metered_ns`."""

    ts_ns: int
    interface_bytes: int
    metered_ns: int
    metered_bytes: int


def totals(config: Config) -> Totals | None:
    """What both have counted so far; None where either cannot be read."""
    try:
        links = LinkReader(LinksConfig(build.link_patterns(config)), time.time_ns).read()
        sets = read_sets(config)
        carried = _layer3_bytes(links)
    except OSError:
        return None
    if sets is None:
        return None
    metered = int(sets.counters[:, 0].sum()) + int(sets.counters[:, 1].sum())
    return Totals(links.ts_ns, carried, sets.ts_ns, metered)


def passed(before: Totals | None, after: Totals | None) -> Passed | None:
    """What passed between two readings; None without both."""
    if before is None or after is None or after.ts_ns <= before.ts_ns:
        return None
    apart_ns = (before.metered_ns - before.ts_ns) + (after.metered_ns - after.ts_ns)
    return Passed(
        (after.ts_ns - before.ts_ns) / 1e9,
        after.interface_bytes - before.interface_bytes,
        after.metered_bytes - before.metered_bytes,
        apart_ns / 1e9,
    )


def read_sets(config: Config) -> Reading | None:
    """The counters of table `inet tally`; None where it is not there or not ours to read."""
    try:
        return SetReader(config.access.ipv6_prefix_len, time.time_ns).read_sets()
    except NftUnavailable:
        return None


def _layer3_bytes(reading: LinkReading) -> int:
    """Both ways of the access interfaces, less link headers."""
    total = 0
    for link in reading.links:
        if link.role == "access":
            rx, tx, rx_packets, tx_packets = link.counters[:4]
            total += rx + tx - link.header_bytes * (rx_packets + tx_packets)
    return total
