"""The configuration in, `Facts` of this machine and network namespace out. Changes nothing.

What cannot be read is left out (None, empty), so that one refusal does not hide the rest.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path
from typing import Final

from collector import build
from collector.capture import ethtool, nft_scan
from collector.capture.conntrack_table import SYSCTLS, statistics, table_size
from collector.capture.interface import is_up, mtu_of
from collector.capture.links import LinkReader, LinksConfig
from collector.capture.netlink_socket import NetlinkUnavailable
from collector.capture.nft import NftConfig
from collector.capture.nft_scan import Flowtable
from collector.capture.nftsets import NftUnavailable
from collector.config import Config
from collector.doctor.facts import (
    Clock,
    Conntrack,
    Disk,
    Facts,
    Interface,
    Sets,
)
from collector.doctor.kernel import CAPABILITIES
from collector.doctor.passing import passed, read_sets, totals
from collector.doctor.scrape import scrape
from collector.track.volume import Reading

_CAPABILITY_BITS: Final = {"cap_net_admin": 12, "cap_net_raw": 13}
"""linux/capability.h."""
_TIMEX_BYTES: Final = 208
_TIME_ERROR: Final = 5
_MAX_SPOOL_FILES: Final = 100_000


def gather(config: Config, measure_s: float = 0.0) -> Facts:
    """All facts. `measure_s`: time between two readings of counters, from which comes how much of
    the interfaces' bytes is metered; 0 leaves that out."""
    before = totals(config) if measure_s else None
    time.sleep(measure_s)
    sets = read_sets(config)
    try:
        expressions, flowtables = nft_scan.expressions(), nft_scan.flowtables()
    except NftUnavailable:
        expressions, flowtables = None, ()
    return Facts(
        capabilities=_capabilities(),
        interfaces=_interfaces(config),
        conntrack=_conntrack(),
        expressions=expressions,
        flowtables=_in_use(flowtables),
        sets=_sets(sets, build.nft_config(config)),
        clock=_clock(),
        rmem_max=_number(Path("/proc/sys/net/core/rmem_max")),
        disk=_disk(config.spool.folder),
        running=scrape(config.metrics.listen),
        passed=passed(before, totals(config)) if before else None,
    )


def _capabilities() -> frozenset[str]:
    """Effective ones of this process (proc(5), CapEff)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for name in CAPABILITIES if mask >> _CAPABILITY_BITS[name] & 1)
    return frozenset()


def _interfaces(config: Config) -> tuple[Interface, ...]:
    """Those that are up or named by the configuration, without loopback."""
    reader = LinkReader(LinksConfig(build.link_patterns(config)), time.time_ns)
    try:
        reading = reader.read()
    except OSError:
        return ()
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for link in reading.links:
            try:
                up = is_up(asker, link.name)
                if link.name == "lo" or not (up or link.role):
                    continue
                features = ethtool.features(asker, link.name)
                mtu = mtu_of(asker, link.name)
            except OSError:  # gone since the dump
                continue
            packets, drops = sum(link.counters[2:4]), sum(link.counters[4:8])
            driver = ethtool.driver(asker, link.name)
            found.append(Interface(link.name, link.role, mtu, driver, features, up, packets, drops))
    return tuple(found)


def _conntrack() -> Conntrack | None:
    folder = Path("/proc/sys/net/netfilter")
    try:
        table, counts = table_size(), statistics()
    except NetlinkUnavailable:
        return None
    values = {name.removeprefix("nf_conntrack_"): _number(folder / name) for name in SYSCTLS}
    refused = counts.get("drop", 0) + counts.get("insert_failed", 0)
    ended = counts.get("early_drop", 0)
    return Conntrack(values, table.entries, table.max_entries, refused, ended)


def _in_use(tables: tuple[Flowtable, ...]) -> tuple[Flowtable, ...]:
    return tuple(table for table in tables if table.devices)


def _sets(reading: Reading | None, nft: NftConfig) -> Sets | None:
    if reading is None:
        return None
    return Sets(
        {fill.name: (fill.elements, fill.size) for fill in reading.fill},
        reading.uncounted_bytes,
        frozenset(fill.name for fill in reading.fill if nft.is_whole(fill)),
    )


def _clock() -> Clock | None:
    """What adjtimex(2) says; it asks for nothing and so needs no right."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # struct timex with modes 0
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        return None
    max_error_us = ctypes.c_long.from_buffer(buffer, 3 * ctypes.sizeof(ctypes.c_long)).value
    return Clock(state != _TIME_ERROR, max_error_us / 1e6)


def _disk(folder: Path) -> Disk:
    """Of the folder, or of the nearest one above it that is there."""
    exists = folder.is_dir()
    try:
        used = 0
        for number, entry in enumerate(os.scandir(folder)) if exists else ():
            if number >= _MAX_SPOOL_FILES:
                break
            used += entry.stat(follow_symlinks=False).st_size
        above = folder
        while not above.is_dir():
            above = above.parent
        stat = os.statvfs(above)
    except OSError:
        return Disk(exists, False, 0, 0)
    return Disk(exists, os.access(above, os.W_OK), used, stat.f_bavail * stat.f_frsize)


def _number(path: Path) -> int:
    """A sysctl's value, 0 where there is none."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
