"""The raw end of netlink: opening a netfilter socket, its buffer, recvmmsg, its drop counter.

One recvmmsg(2) call fills many slots of a buffer that is there already: 0.9 microseconds an event
against 2 for one recv(2) each.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

import numpy as np

NETLINK_NETFILTER: Final = 12
SLOT_BYTES: Final = 1024
"""Room for one event. IPv6 TCP with NAT, counters and times takes 340 bytes; with labels, zone,
helper, sequence adjustment and security context still under 900. A longer one is a counted loss."""
MAX_CALL: Final = 1024
"""Most datagrams of one recvmmsg: UIO_MAXIOV; the kernel silently cuts a larger request."""
_SO_RCVBUFFORCE: Final = 33


class NetlinkUnavailable(OSError):
    """Conntrack cannot be observed as things are; the message names what an operator must do."""


class NetlinkError(OSError):
    """The kernel refused a request or broke off an answer; `errno` says why."""


def unavailable(error: OSError, what: str) -> OSError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NetlinkUnavailable(
            error.errno, f"{what} needs CAP_NET_ADMIN in this network namespace"
        )
    if error.errno in (errno.EPROTONOSUPPORT, errno.ENOENT, errno.EOPNOTSUPP):
        return NetlinkUnavailable(
            error.errno, f"{what} needs the kernel module: modprobe nf_conntrack_netlink"
        )
    return NetlinkError(
        error.errno or errno.EIO, f"{what}: {os.strerror(error.errno or errno.EIO)}"
    )


def raise_receive_buffers(sockets: Iterable[socket.socket], size: int) -> list[int]:
    """Gives every socket a receive buffer of `size` bytes; returns the effective sizes.

    SO_RCVBUFFORCE passes net.core.rmem_max and needs CAP_NET_ADMIN; without it SO_RCVBUF is used,
    which rmem_max caps. The kernel doubles either for its own overhead (socket(7)), and the
    doubled figure is what it enforces and what is returned.
    """
    effective = []
    for one in sockets:
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        effective.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    return effective


_IOVEC: Final = np.dtype([("base", np.uintp), ("len", np.uintp)])
_MSGHDR: Final = np.dtype(
    [
        ("name", np.uintp),
        ("namelen", np.uint32),
        ("iov", np.uintp),
        ("iovlen", np.uintp),
        ("control", np.uintp),
        ("controllen", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
_MMSGHDR: Final = np.dtype([("header", _MSGHDR), ("len", np.uint32)], align=True)
"""struct iovec, msghdr and mmsghdr, aligned as C does (recvmsg(2), recvmmsg(2))."""


class Mailbox:
    """`count` slots of a buffer that recvmmsg fills, and where it leaves lengths and flags.

    buffer: uint8[count * SLOT_BYTES]. starts, sizes, flags: where each slot begins, how many bytes
    its datagram has, and MSG_TRUNC where it did not fit.
    """

    def __init__(self, count: int) -> None:
        self.buffer = np.zeros(count * SLOT_BYTES, np.uint8)
        self.starts = np.arange(count, dtype=np.int64) * SLOT_BYTES
        self._iovecs = np.zeros(count, _IOVEC)
        self._iovecs["base"] = self.buffer.ctypes.data + self.starts
        self._iovecs["len"] = SLOT_BYTES
        self._headers = np.zeros(count, _MMSGHDR)
        first = self._iovecs.ctypes.data
        self._headers["header"]["iov"] = first + np.arange(count) * _IOVEC.itemsize
        self._headers["header"]["iovlen"] = 1
        self.sizes = self._headers["len"]
        self.flags = self._headers["header"]["flags"]
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        ]

    def receive(self, descriptor: int, first: int, limit: int) -> tuple[int, int]:
        """Fills slots from `first` without waiting: datagrams received, errno where none was.

        Fewer than min(limit, MAX_CALL) datagrams mean that something, which the next call will
        say, came up after the last one; mostly that no more waits.
        """
        count: int = self._recvmmsg(
            descriptor,
            self._headers.ctypes.data + first * _MMSGHDR.itemsize,
            min(limit, MAX_CALL),
            socket.MSG_DONTWAIT,
            None,
        )
        return (count, 0) if count >= 0 else (0, ctypes.get_errno())


def open_socket() -> socket.socket:
    """A netfilter netlink socket with a port id of its own; raises OSError."""
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    try:
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened
