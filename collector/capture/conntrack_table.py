"""The conntrack table as a whole: set-up, size, statistics; single questions.

Sysctls are those of the network namespace of the thread that calls.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collector.capture import rawnl
from collector.capture.netlink_socket import NetlinkUnavailable, unavailable

SYSCTLS: Final = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")
"""Set to 1. Counters and times are attached to a flow when it begins, so flows that are older than
this never have them. Events of 2 (the kernel's default) would spare flows that begin while nobody
listens, and those would then end without a DESTROY."""

_GET_STATS_CPU: Final = 0x104
_GET_STATS: Final = 0x105
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS_CPU and _GET_STATS."""
_NFGENMSG: Final = bytes(4)
"""struct nfgenmsg: any family, NFNETLINK_V0."""
_GLOBAL_ENTRIES, _GLOBAL_MAX_ENTRIES = 1, 2
_CPU_STATS: Final = {4: "invalid", 9: "insert_failed", 10: "drop", 11: "early_drop"}
"""CTA_STATS_GLOBAL_* and CTA_STATS_* of linux/netfilter/nfnetlink_conntrack.h."""
_SYSCTL_FOLDER: Final = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True)
class TableSize:
    """How full the conntrack table is."""

    entries: int
    max_entries: int


def table_size() -> TableSize:
    """Entries of the table and its limit; raises NetlinkUnavailable."""
    with _asking() as opened:
        found = _numbers(opened.get(_GET_STATS, _NFGENMSG))
    return TableSize(found[_GLOBAL_ENTRIES], found[_GLOBAL_MAX_ENTRIES])


def statistics() -> dict[str, int]:
    """Counters of conntrack over all processors, e.g. `insert_failed`, `drop`, `early_drop`.

    `drop` and `early_drop` that grow mean a full table: flows are refused, or end before their
    time. Raises NetlinkUnavailable.
    """
    total: Counter[str] = Counter()
    with _asking() as opened:
        for processor in opened.dump(_GET_STATS_CPU, _NFGENMSG).payloads:
            found = _numbers(processor)
            total.update({_CPU_STATS[kind]: found[kind] for kind in found.keys() & _CPU_STATS})
    return total


@contextmanager
def _asking() -> Iterator[rawnl.Netlink]:
    """A socket for one question, whose refusals name what an operator must do."""
    try:
        with rawnl.Netlink(rawnl.NETLINK_NETFILTER) as opened:
            yield opened
    except OSError as error:
        raise unavailable(error, "asking conntrack") from error


def _numbers(payload: bytes) -> dict[int, int]:
    """Numbers by attribute, after struct nfgenmsg."""
    found = rawnl.attributes(payload[len(_NFGENMSG) :])
    return {kind: int.from_bytes(number, "big") for kind, number in found.items()}


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `prepare` found: sysctls it changed, and whether conntrack is seen at work.

    active: the table has entries. If not, either no packet has passed, or no rule of this network
    namespace uses `ct` or NAT, without which the kernel tracks nothing.
    """

    changed: tuple[str, ...]
    table: TableSize
    active: bool


def prepare() -> Readiness:
    """Makes conntrack count, time and announce flows in this network namespace.

    Raises NetlinkUnavailable, which names the sysctl and the command, where that is not permitted.
    """
    changed = []
    for name in SYSCTLS:
        path = _SYSCTL_FOLDER / name
        command = f"sysctl -w net.netfilter.{name}=1"
        try:
            if path.read_text().strip() != "1":
                path.write_text("1\n")
                changed.append(name)
        except FileNotFoundError as error:
            raise NetlinkUnavailable(
                errno.ENOENT,
                f"no sysctl net.netfilter.{name}: modprobe nf_conntrack, then {command}",
            ) from error
        except OSError as error:
            raise NetlinkUnavailable(
                error.errno, f"net.netfilter.{name} cannot be set: run {command} as root"
            ) from error
    table = table_size()
    return Readiness(tuple(changed), table, table.entries > 0)
