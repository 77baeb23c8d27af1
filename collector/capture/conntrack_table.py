"""The conntrack table as a whole: set-up, size, statistics. Single queries, by pyroute2.

Sysctls are those of the network namespace of the thread that calls.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError as PyrouteError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from collector.capture.netlink_socket import NetlinkUnavailable, unavailable

SYSCTLS: Final = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")
"""Set to 1. Counters and times are attached to a flow when it begins, so flows that are older than
this never have them. Events of 2 (the kernel's default) would spare flows that begin while nobody
listens, and those would then end without a DESTROY."""

_SYSCTL_FOLDER: Final = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True)
class TableSize:
    """How full the conntrack table is."""

    entries: int
    max_entries: int


def table_size() -> TableSize:
    """Entries of the table and its limit; raises NetlinkUnavailable."""
    attributes = _query("count")[0]
    return TableSize(
        attributes["CTA_STATS_GLOBAL_ENTRIES"], attributes["CTA_STATS_GLOBAL_MAX_ENTRIES"]
    )


def statistics() -> dict[str, int]:
    """Counters of conntrack over all processors, e.g. `insert_failed`, `drop`, `early_drop`.

    `drop` and `early_drop` that grow mean a full table: flows are refused, or end before their
    time. Raises NetlinkUnavailable.
    """
    total: dict[str, int] = {}
    for attributes in _query("stat"):
        for name, value in attributes.items():
            short = name.removeprefix("CTA_STATS_").lower()
            total[short] = total.get(short, 0) + value
    return total


def _query(method: str) -> list[dict[str, int]]:
    """Attributes of each message that pyroute2's `method` gives."""
    try:
        with NFCTSocket() as opened:
            return [dict(message["attrs"]) for message in getattr(opened, method)()]
    except PyrouteError as error:
        raise unavailable(OSError(error.code, ""), "asking conntrack") from error
    except OSError as error:
        raise unavailable(error, "asking conntrack") from error


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
