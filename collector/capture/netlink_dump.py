"""The conntrack table over raw netlink, read without changing it.

Blocking, for a worker thread. Kernel side: net/netfilter/nf_conntrack_netlink.c,
ctnetlink_dump_table; the multipart answer is that of RFC 3549 section 2.3.2 and netlink(7).
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from collector.capture.netlink_socket import NetlinkError, open_socket, unavailable
from collector.parse.conntrack import Messages

MAX_DUMP_BYTES: Final = 1 << 30
"""Largest dump: 4 million flows of 260 bytes, sixteen times the kernel's default table."""
MAX_DUMP_TRIES: Final = 3
"""Dumps are repeated while the kernel says that one was interrupted (NLM_F_DUMP_INTR)."""
DUMP_SILENCE_S: Final = 5
"""The kernel answers every read of a dump at once; five seconds of silence is a fault."""

_HEADER: Final = struct.Struct("=IHHII")
_REQUEST_DUMP: Final = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP (ROOT | MATCH)."""
_DUMP_INTR: Final = 0x10
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSG_MIN_TYPE: Final = 16
"""Smaller message types are netlink's own (linux/netlink.h)."""
_GET: Final = 0x101
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET. Never IPCTNL_MSG_CT_GET_CTRZERO: it reads and
zeroes a flow before it knows that the answer fits the datagram, so counts get lost."""
_CHUNK_BYTES: Final = 64 * 1024
"""More than the kernel puts into one datagram of a dump, 32 KiB."""


@dataclass(frozen=True, slots=True)
class Dump:
    """The conntrack table at one time: its messages, and whether they are certainly all.

    began_ns: before the first entry was read, by the caller's clock. Entries were read one after
    another, so flows that ended meanwhile may or may not be in it.
    """

    messages: Messages
    complete: bool
    began_ns: int


def dump(now: Callable[[], int], family: int = 0) -> Dump:
    """Reads the whole table without changing it; `family` is AF_INET, AF_INET6, or 0 for both.

    Blocks: about 0.3 s of CPU for 100,000 entries, nearly all in the kernel. Raises
    NetlinkUnavailable without CAP_NET_ADMIN or the module, NetlinkError where the kernel refuses,
    falls silent for DUMP_SILENCE_S or says more than MAX_DUMP_BYTES.
    """
    try:
        with open_socket() as opened:
            timeout = struct.pack("ll", DUMP_SILENCE_S, 0)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            for _ in range(MAX_DUMP_TRIES):
                began_ns = now()
                messages, complete = _Answer(opened, family).read()
                if complete:
                    break
            return Dump(messages, complete, began_ns)
    except NetlinkError:
        raise
    except OSError as error:
        raise unavailable(error, "dumping the conntrack table") from error


class _Answer:
    """One dump request and the multipart answer to it."""

    def __init__(self, opened: socket.socket, family: int) -> None:
        self._socket = opened
        self._sequence = secrets.randbits(32)
        self._buffer = np.empty(1 << 20, np.uint8)
        self._used = 0
        self._starts: list[int] = []
        # struct nfgenmsg: family, NFNETLINK_V0, res_id 0.
        body = struct.pack("=BBH", family, 0, 0)
        size = _HEADER.size + len(body)
        opened.send(_HEADER.pack(size, _GET, _REQUEST_DUMP, self._sequence, 0) + body)

    def read(self) -> tuple[Messages, bool]:
        """All messages up to NLMSG_DONE, and whether none says that the dump was interrupted."""
        while not self._take(self._receive()):
            pass
        starts = np.array(self._starts, np.int64)
        if not starts.size:
            return Messages.empty(), True
        used = self._buffer[: self._used]
        flags = used.view(np.uint16)[starts // 2 + 3]
        sizes = used.view(np.uint32)[starts // 4].astype(np.int64)
        return Messages(used, starts, sizes), not (flags & _DUMP_INTR).any()

    def _receive(self) -> int:
        """Appends one datagram to the buffer; returns its size."""
        if self._used + _CHUNK_BYTES > MAX_DUMP_BYTES:
            raise NetlinkError(errno.EFBIG, f"the dump is larger than {MAX_DUMP_BYTES} bytes")
        if self._used + _CHUNK_BYTES > self._buffer.size:
            larger = np.empty(self._buffer.size * 2, np.uint8)
            larger[: self._used] = self._buffer[: self._used]
            self._buffer = larger
        try:
            size = self._socket.recv_into(self._buffer[self._used :].data, _CHUNK_BYTES)
        except BlockingIOError as error:
            raise NetlinkError(errno.ETIMEDOUT, "the kernel fell silent in a dump") from error
        if size % 4:
            raise NetlinkError(errno.EBADMSG, "a datagram of the dump is not aligned")
        return size

    def _take(self, size: int) -> bool:
        """Notes where the messages of the datagram just received begin; true at the end."""
        datagram = self._buffer[self._used : self._used + size]
        words, halves = datagram.view(np.uint32).data, datagram.view(np.uint16).data
        base, at, end = self._used, 0, size // 4
        self._used += size
        while at < end:
            length = words[at]
            step = (length + 3) >> 2
            if length < _HEADER.size or at + step > end or words[at + 2] != self._sequence:
                raise NetlinkError(errno.EBADMSG, "the dump is not a chain of messages")
            kind = halves[2 * at + 2]
            if kind >= _NLMSG_MIN_TYPE:
                self._starts.append(base + at * 4)
            elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
                code = words[at + 4] if length >= _HEADER.size + 4 else 0
                if code:
                    raise OSError(2**32 - code, os.strerror(2**32 - code))
                return True
            at += step
        return False
