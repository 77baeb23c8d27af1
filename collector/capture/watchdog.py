"""Ends the reliable delivery of events when their reader stalls or the table fills: a program.

    python -I -S watchdog.py LISTENER PIPE STALL_SECONDS TABLE_SHARE

A process of its own, because what stalls a collector (SIGSTOP, a debugger, a system call that does
not return) may stall all its threads. Shares two descriptors with it: LISTENER, the netlink socket,
and PIPE, over which a byte comes for each time the collector looked at the socket, and on which
this says why it switched off, and how many events the kernel had counted as undelivered before.
Ends when the collector closes the pipe, however it does. Imports nothing but the standard library,
so that it starts in 20 ms and takes 9 MB.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

SOL_NETLINK: Final = 270
BROADCAST_ERROR: Final = 4
"""NETLINK_BROADCAST_ERROR of linux/netlink.h: an event that finds no room is an error to its
sender, and conntrack then keeps the ended flow and tries again (nf_conntrack_ecache.c)."""
POLL_S: Final = 0.25
"""Between two looks at the table: at 100,000 new flows a second it gains 25,000 in that time, a
tenth of the kernel's default limit."""

_SYSCTLS: Final = Path("/proc/sys/net/netfilter")


def drops_of(inode: int) -> int | None:
    """Column Drops of the socket in /proc/net/netlink; None where it is not listed.

    By inode, since port ids repeat over protocols. Of the thread, since /proc/net is that of the
    process's first thread, which may be in another network namespace.
    """
    with open("/proc/thread-self/net/netlink") as table:
        names = next(table).split()
        at, drops = names.index("Inode"), names.index("Drops")
        for line in table:
            columns = line.split()
            if columns[at] == str(inode):
                return int(columns[drops])
    return None


def table_share() -> float:
    """How full the conntrack table is, flows included that ended and wait to be told; 0 to 1."""
    entries, most = (
        int((_SYSCTLS / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max")
    )
    return entries / max(most, 1)


def watch(listener: socket.socket, pipe: socket.socket, stall_s: float, share: float) -> None:
    """Returns when the other end of the pipe is closed."""
    inode = os.fstat(listener.fileno()).st_ino
    beat_at = time.monotonic()
    while True:
        if select.select((pipe,), (), (), POLL_S)[0]:
            if not pipe.recv(4096):
                return
            beat_at = time.monotonic()
        if not listener.getsockopt(SOL_NETLINK, BROADCAST_ERROR):
            continue
        reason = "stalled" if time.monotonic() - beat_at > stall_s else ""
        if not reason and table_share() >= share:
            reason = "table-filling"
        if reason:
            # Before the switch: what the kernel drops from there on is lost and not kept.
            pipe.send(f"{reason} {drops_of(inode) or 0}\n".encode())
            listener.setsockopt(SOL_NETLINK, BROADCAST_ERROR, 0)


def main() -> None:
    # A service manager signals every process of the service; the collector ends this one.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptors, limits = sys.argv[1:3], sys.argv[3:5]
    listener, pipe = (socket.socket(fileno=int(each)) for each in descriptors)
    watch(listener, pipe, *map(float, limits))


if __name__ == "__main__":
    main()
