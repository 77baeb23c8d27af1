"""Conntrack over netlink: a socket of events read in batches, a dump that changes nothing, set-up.

Gives raw messages (`collector.parse.conntrack.Messages`); decoding is not done here. Bulk goes
over raw sockets, because one system call a message and an object a field cost more than all the
rest together; pyroute2 does the single queries. Kernel side: net/netlink/af_netlink.c,
net/netfilter/nf_conntrack_netlink.c.

Sockets and sysctls are those of the network namespace of the thread that calls.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from collector.capture.netlink_dump import Dump, dump
from collector.capture.netlink_socket import (
    MAX_CALL,
    Mailbox,
    NetlinkError,
    NetlinkUnavailable,
    drops_of,
    open_socket,
    raise_receive_buffers,
    unavailable,
)
from collector.parse.conntrack import Messages
from collector.wire.gaps import merge
from collector.wire.loss import Loss

__all__ = [
    "ConntrackConfig",
    "ConntrackEvents",
    "Dump",
    "NetlinkError",
    "NetlinkUnavailable",
    "Readiness",
    "TableSize",
    "dump",
    "prepare",
    "raise_receive_buffers",
    "statistics",
    "table_size",
]

GROUP_NEW: Final = 1
GROUP_DESTROY: Final = 3
"""NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY of linux/netfilter/nfnetlink_compat.h."""

MAX_LOSSES: Final = 100
"""Losses kept apart until they are taken; a busy overrun makes hundreds a second."""
SYSCTLS: Final = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")
"""Set to 1. Counters and times are attached to a flow when it begins, so flows that are older than
this never have them. Events of 2 (the kernel's default) would spare flows that begin while nobody
listens, and those would then end without a DESTROY."""

_SYSCTL_FOLDER: Final = Path("/proc/sys/net/netfilter")
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1


@dataclass(frozen=True, slots=True)
class ConntrackConfig:
    """What to listen to.

    receive_buffer_bytes: asked of the kernel. An event takes about 1.3 KiB of it, so 32 MiB hold
    50,000 (the kernel doubles it), a second's worth of a large router. new_events: also listen to
    flows that begin, at twice the cost. batch: most events of one `read`.
    """

    receive_buffer_bytes: int = 32 * 1024 * 1024
    new_events: bool = False
    batch: int = 4096

    def __post_init__(self) -> None:
        # 65,536 slots are 64 MiB.
        if not 1 <= self.batch <= 65536:
            raise ValueError("batch is 1 to 65536 events")
        if not 0 < self.receive_buffer_bytes <= 1 << 30:
            raise ValueError("receive_buffer_bytes is 1 to 1 GiB")


class ConntrackEvents:
    """Conntrack events as the kernel sends them; every one that it could not deliver is counted.

    All methods are to be called in the network namespace in which it was started.

    counts: seen = recorded + lost events; `overruns` counts the times the buffer was full,
    `truncated` the part of `lost` that did not fit a slot.
    """

    def __init__(self, config: ConntrackConfig, now: Callable[[], int]) -> None:
        self._config = config
        self._now = now
        self._socket: socket.socket | None = None
        self._mailbox: Mailbox | None = None
        self._inode = 0
        self._drops = 0
        self._clean_ns = 0
        self._congested = False
        self._losses: list[Loss] = []
        self.receive_buffer_bytes = 0
        """Effective size of the receive buffer once started."""
        names = ("seen", "recorded", "ignored", "lost", "overruns", "truncated")
        self.counts: dict[str, int] = dict.fromkeys(names, 0)

    def start(self) -> None:
        """Opens the socket; raises NetlinkUnavailable without CAP_NET_ADMIN or the module."""
        try:
            self._socket = opened = open_socket()
            (self.receive_buffer_bytes,) = raise_receive_buffers(
                (opened,), self._config.receive_buffer_bytes
            )
            groups = (GROUP_NEW, GROUP_DESTROY) if self._config.new_events else (GROUP_DESTROY,)
            for group in groups:
                opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self.stop()
            raise unavailable(error, "listening to conntrack events") from error
        self._mailbox = Mailbox(self._config.batch)
        self._inode = os.fstat(opened.fileno()).st_ino
        self._drops = 0
        self._congested = False
        self._clean_ns = self._now()

    def stop(self) -> None:
        """Counts what was dropped to the last and closes the socket; does nothing if stopped."""
        if self._socket is not None:
            if self._mailbox is not None:
                self._count_drops()
            self._socket.close()
            self._socket = None
            self._mailbox = None

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return -1 if self._socket is None else self._socket.fileno()

    def read(self, limit: int | None = None) -> Messages:
        """Events that wait, at most `limit` or the configured batch; empty where none waits.

        Does not block. The messages lie in a buffer that the next `read` overwrites. They are the
        kernel's: sending to another's netfilter socket takes CAP_NET_ADMIN (netlink_sendmsg).
        """
        if self._mailbox is None:
            raise RuntimeError("conntrack events are not started")
        mailbox = self._mailbox
        most = min(self._config.batch if limit is None else limit, self._config.batch)
        count = 0
        while count < most:
            asked = min(most - count, MAX_CALL)
            got, code = mailbox.receive(self.fileno(), count, asked)
            count += got
            if code == errno.ENOBUFS:
                self._overrun()
            elif code not in (0, errno.EAGAIN, errno.EINTR):
                raise NetlinkError(code, f"reading conntrack events: {os.strerror(code)}")
            elif got < asked:
                self._calm(drained=code == errno.EAGAIN)
                break
        whole = np.flatnonzero(mailbox.flags[:count] & socket.MSG_TRUNC == 0)
        if whole.size < count:
            self.counts["truncated"] += count - whole.size
            self._lose("truncated", count - whole.size)
        self.counts["seen"] += whole.size
        self.counts["recorded"] += whole.size
        sizes = mailbox.sizes[whole].astype(np.int64)
        return Messages(mailbox.buffer, mailbox.starts[whole], sizes)

    def _overrun(self) -> None:
        """Told once for each time the buffer was full. What was queued before is still there, and
        events go on being dropped until the queue has been read empty (netlink_rcv_wake)."""
        self.counts["overruns"] += 1
        self._congested = True
        self._count_drops()

    def _calm(self, drained: bool) -> None:
        """The queue is, or soon was, empty: moves the start of a later loss up to now."""
        if self._congested and drained:
            self._count_drops()
            self._congested = False
        if not self._congested:
            self._clean_ns = self._now()

    def losses(self) -> list[Loss]:
        """Losses since the last call."""
        if self._mailbox is not None:
            self._count_drops()
        losses, self._losses = self._losses, []
        return losses

    def _count_drops(self) -> None:
        """Reads the kernel's own counter of events it could not queue, which is exact."""
        drops = drops_of(self._inode)
        now = self._now()
        if drops is None:
            self._lose("overrun", -1)
        elif drops != self._drops:
            # The kernel prints an unsigned int, which begins again at 0 after 2**32 - 1.
            self._lose("overrun", (drops - self._drops) % 2**32)
            self._drops = drops
        self._clean_ns = now

    def _lose(self, reason: str, amount: int) -> None:
        if amount > 0:
            self.counts["seen"] += amount
            self.counts["lost"] += amount
        end_ns = self._now()
        classes = ("visit", "mapping")
        self._losses.append(
            Loss(self._clean_ns, end_ns, "conntrack", reason, amount, "events", classes)
        )
        if len(self._losses) > 2 * MAX_LOSSES:
            self._losses = merge(self._losses, MAX_LOSSES)


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
