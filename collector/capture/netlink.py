"""Conntrack events over netlink, read in batches; every one that was not delivered is counted.

Gives raw messages (`collector.parse.conntrack.Messages`); decoding is not done here. Bulk goes
over raw sockets, because one system call a message and an object a field cost more than all the
rest together. Kernel side: net/netlink/af_netlink.c, net/netfilter/nf_conntrack_netlink.c.

Sockets are those of the network namespace of the thread that calls.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from collector.capture.netlink_socket import (
    MAX_CALL,
    Mailbox,
    NetlinkError,
    NetlinkUnavailable,
    open_socket,
    raise_receive_buffers,
    unavailable,
)
from collector.capture.reliable import Reliable, ReliableConfig
from collector.capture.watchdog import SOL_NETLINK, drops_of
from collector.parse.conntrack import Messages
from collector.wire.gaps import merge
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

GROUP_NEW: Final = 1
GROUP_DESTROY: Final = 3
"""NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY of linux/netfilter/nfnetlink_compat.h."""

MAX_LOSSES: Final = 100
"""Losses kept apart until they are taken; a busy overrun makes hundreds a second."""
_ADD_MEMBERSHIP: Final = 1


@dataclass(frozen=True, slots=True)
class ConntrackConfig:
    """What to listen to.

    receive_buffer_bytes: asked of the kernel. An event takes about 1.3 KiB of it, so 32 MiB hold
    50,000 (the kernel doubles it), a second's worth of a large router. new_events: also listen to
    flows that begin, at twice the cost. batch: most events of one `read`. reliable: have the kernel
    keep events that find no room, while a watchdog looks on; None for not.
    """

    receive_buffer_bytes: int = 32 * 1024 * 1024
    new_events: bool = False
    batch: int = 4096
    reliable: ReliableConfig | None = None

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
    `truncated` the part of `lost` that did not fit a slot. `deferred` counts the times an event
    found no room and was kept by the kernel, `switched_off` the times reliable delivery ended.
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
        self._reliable = Reliable(config.reliable) if config.reliable else None
        self._reason = "overrun"
        self.counts: dict[str, int] = dict.fromkeys(
            (
                *("seen", "recorded", "ignored", "lost", "overruns", "truncated"),
                *("deferred", "switched_off"),
            ),
            0,
        )

    def start(self) -> None:
        """Opens the socket; raises NetlinkUnavailable without CAP_NET_ADMIN or the module, or where
        delivery is to be reliable and the watchdog does not start."""
        try:
            self._socket = opened = open_socket()
            (self.receive_buffer_bytes,) = raise_receive_buffers(
                (opened,), self._config.receive_buffer_bytes
            )
            groups = (GROUP_NEW, GROUP_DESTROY) if self._config.new_events else (GROUP_DESTROY,)
            for group in groups:
                opened.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
            if self._reliable:
                self._reliable.switch_on(opened)
        except NetlinkUnavailable:
            self.stop()
            raise
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
            if self._reliable:
                self._reliable.stop()
            self._socket.close()
            self._socket = None
            self._mailbox = None

    @property
    def is_reliable(self) -> bool:
        """Whether the kernel keeps events that find no room, as of the last `read`."""
        return self._reliable is not None and self._reliable.is_on

    @property
    def is_watched(self) -> bool:
        """Whether `read` is to be called several times a second, events or none: it gives the
        watchdog its sign of life, and switches reliable delivery on again."""
        return self._reliable is not None

    @property
    def batch(self) -> int:
        """Most events of one `read`."""
        return self._config.batch

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
        self._watch()
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
        if drained:
            self._rearm()
        if not self._congested:
            self._clean_ns = self._now()

    def losses(self) -> list[Loss]:
        """Losses since the last call."""
        if self._mailbox is not None:
            self._count_drops()
        losses, self._losses = self._losses, []
        return losses

    def _count_drops(self, kept: bool = True) -> None:
        """Reads the kernel's own counter of events it could not queue, which is exact. kept: the
        kernel keeps those for which delivery was reliable."""
        drops = drops_of(self._inode)
        # Asked after the counter was read: while delivery is reliable none of them is lost.
        self._watch()
        now = self._now()
        if drops is None:
            self._lose(self._reason, -1)
        elif kept and self.is_reliable:
            self._defer(drops)
        elif drops != self._drops:
            self._lose(self._reason, self._since(drops))
            self._drops = drops
        self._clean_ns = now

    def _since(self, drops: int) -> int:
        # The kernel prints an unsigned int, which begins again at 0 after 2**32 - 1.
        return (drops - self._drops) % 2**32

    def _defer(self, drops: int) -> None:
        """Takes what was counted up to here for events that are still to come."""
        self.counts["deferred"] += self._since(drops)
        self._drops = drops

    def _watch(self) -> None:
        """Gives a sign of life, and hears whether reliable delivery was switched off."""
        found = self._reliable.beat() if self._reliable else None
        if found:
            self.counts["switched_off"] += 1
            self._reason = found.reason
            if found.drops is not None:
                self._defer(found.drops)
            log.warning("reliable delivery of flow events was switched off: %s", found.reason)

    def _rearm(self) -> None:
        """Switches reliable delivery on again, once it has rested and no event waits."""
        reliable, opened = self._reliable, self._socket
        if reliable is None or opened is None or not reliable.may_switch_on:
            return
        try:
            reliable.switch_on(opened)
        except OSError as error:
            log.error("no reliable delivery of flow events: %s", error.strerror)
            return
        self._count_drops(kept=False)  # up to here nothing was
        self._reason = "overrun"
        log.info("reliable delivery of flow events is on again")

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
