"""recvmmsg(2): fills many slots of memory in one call, and gives what is in them as frames.

Layouts are those of bits/types/struct_iovec.h, bits/socket.h and linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Final

import numpy as np

from collector.parse.link import Frame

MAX_BATCH: Final = 64
"""Frames of one recvmmsg call. A slot takes `snaplen` bytes, so this is 4 MiB of memory; the cost
of the call itself is a tenth of a microsecond a frame by then."""

_PACKET_OUTGOING: Final = 4
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
_CONTROL: Final = np.dtype(
    [
        ("len", np.uintp),
        ("level", np.int32),
        ("type", np.int32),
        ("seconds", np.int64),
        ("nanoseconds", np.int64),
        ("rest", "V32"),
    ]
)
"""struct cmsghdr with SO_TIMESTAMPNS_NEW's data, the only control message asked for."""
_SOCKADDR: Final = np.dtype(
    [
        ("family", "u2"),
        ("protocol", "u2"),
        ("ifindex", "i4"),
        ("hatype", "u2"),
        ("pkttype", "u1"),
        ("halen", "u1"),
        ("addr", "V8"),
    ]
)


class Slots:
    """The memory that recvmmsg fills: frames, sender addresses and timestamps.

    Sources that one thread reads in turn can share it, as frames are copied out of it at once.
    """

    def __init__(self, snaplen: int = 65_535) -> None:
        self.snaplen = snaplen
        self._data = np.zeros((MAX_BATCH, snaplen), np.uint8)
        self._names = np.zeros(MAX_BATCH, _SOCKADDR)
        self._control = np.zeros(MAX_BATCH, _CONTROL)
        iovecs = np.zeros(MAX_BATCH, _IOVEC)
        at = np.arange(MAX_BATCH)
        iovecs["base"] = self._data.ctypes.data + at * snaplen
        iovecs["len"] = snaplen
        self._iovecs = iovecs  # kept alive, as the headers hold its address
        self._headers = np.zeros(MAX_BATCH, _MMSGHDR)
        header = self._headers["header"]
        header["name"] = self._names.ctypes.data + at * _SOCKADDR.itemsize
        header["iov"] = iovecs.ctypes.data + at * _IOVEC.itemsize
        header["iovlen"] = 1
        header["control"] = self._control.ctypes.data + at * _CONTROL.itemsize
        self._view = self._data.reshape(-1).data
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        ]

    def receive(self, descriptor: int, limit: int) -> int:
        """Frames received without waiting; raises OSError, BlockingIOError where none waits."""
        header = self._headers["header"]
        header["namelen"] = _SOCKADDR.itemsize
        header["controllen"] = _CONTROL.itemsize
        count: int = self._recvmmsg(
            descriptor, self._headers.ctypes.data, limit, socket.MSG_DONTWAIT, None
        )
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def frames(self, count: int, linktype: int) -> list[Frame]:
        """The first `count` slots as frames, cut where they were longer than the slot."""
        control, names = self._control[:count], self._names[:count]
        snaplen, view = self.snaplen, self._view
        starts = range(0, count * snaplen, snaplen)
        return [
            Frame(stamp, bytes(view[start : start + size]), linktype, interface, outgoing)
            for stamp, start, size, interface, outgoing in zip(
                (control["seconds"] * 1_000_000_000 + control["nanoseconds"]).tolist(),
                starts,
                self._headers["len"][:count].tolist(),
                names["ifindex"].tolist(),
                (names["pkttype"] == _PACKET_OUTGOING).tolist(),
                strict=True,
            )
        ]

    def wipe(self) -> None:
        """Overwrite what earlier frames have left. Of 4 MiB it takes half a millisecond."""
        self._data[:] = 0

    def truncated(self, count: int) -> int:
        """How many of the first `count` frames were longer than a slot."""
        flags = self._headers["header"]["flags"][:count]
        return int(np.count_nonzero(flags & socket.MSG_TRUNC))
