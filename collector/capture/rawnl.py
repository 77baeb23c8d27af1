"""Raw netlink: requests and whole dumps as bytes, for readers that decode in bulk with numpy.

High-level libraries build an object per attribute, which costs more than the kernel's own work
(a dump of 50,000 set elements: under 10 ms to decode in bulk, over a second otherwise). Message
layouts: linux/netlink.h (struct nlmsghdr, struct nlattr); everything is in host byte order but
for the payloads that say otherwise.

A socket lives for one operation and belongs to the network namespace of the thread that opened
it, so a dump that was abandoned half way can never mix with the next one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_CREATE: Final = 0x400
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_BATCH_BEGIN, _BATCH_END = 16, 17
"""NFNL_MSG_BATCH_BEGIN and _END (linux/netfilter/nfnetlink.h)."""
_ATTRIBUTE_TYPE: Final = 0x3FFF
"""The two top bits of an attribute's type say nested and network byte order."""
_SO_NETNS_COOKIE: Final = 71

RECEIVE_BYTES: Final = 64 * 1024
"""The kernel fills dump messages up to 32 KiB when the reader's buffer is at least as large."""
MAX_DUMP_BYTES: Final = 256 * 1024 * 1024
"""1,048,576 IPv6 elements of 76 bytes are 80 MB; more is not a dump we asked for."""
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")


class NetlinkError(OSError):
    """The kernel refused a request (errno says why) or its answer does not parse (EBADMSG)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Payloads after the netlink header, in order; `interrupted` is NLM_F_DUMP_INTR on any."""

    payloads: tuple[bytes, ...]
    interrupted: bool


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\x00" * (-len(payload) % 4)


def walk(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(type without flags, start, end) of each payload; NetlinkError where one is cut short."""
    offset, size = 0, len(data)
    while offset + 4 <= size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > size:
            raise NetlinkError(errno.EBADMSG, "netlink attribute overruns its message")
        yield kind & _ATTRIBUTE_TYPE, offset + 4, offset + length
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type, the last of each type counts."""
    return {kind: data[start:end] for kind, start, end in walk(data)}


class Netlink:
    """One short-lived netlink socket; use it as a context manager.

    Raises NetlinkError for the kernel's refusals and TimeoutError where it does not answer within
    `timeout_s` a message.
    """

    def __init__(self, protocol: int, timeout_s: float = 5.0) -> None:
        self._protocol = protocol
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._sequence = 0

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self._protocol)
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def dump(self, message_type: int, body: bytes) -> Answer:
        """Every payload of a dump, up to NLMSG_DONE."""
        return self._collect(self._send(message_type, NLM_F_REQUEST | NLM_F_DUMP, body), True)

    def get(self, message_type: int, body: bytes) -> bytes:
        """The payload of the one message that answers a request without NLM_F_DUMP."""
        return self._collect(self._send(message_type, NLM_F_REQUEST, body), False).payloads[0]

    def transact(self, subsystem: int, message_type: int, body: bytes) -> None:
        """Create what the one message says in a transaction of an nfnetlink subsystem.

        What exists stays as it is. Returns when the kernel has committed.
        """
        assert self._socket is not None, "use as a context manager"
        self._sequence += 1
        # One number for all three: a refusal of the whole names the first message.
        edge = bytes((0, 0)) + subsystem.to_bytes(2, "big")
        create = NLM_F_REQUEST | _NLM_F_CREATE | _NLM_F_ACK
        self._socket.send(
            self._message(_BATCH_BEGIN, NLM_F_REQUEST, edge)
            + self._message(message_type, create, body)
            + self._message(_BATCH_END, NLM_F_REQUEST, edge)
        )
        self._collect(self._sequence, False)

    def namespace(self) -> int:
        """Cookie of the socket's network namespace, unique within a boot (Linux 5.14).

        The inode of the namespace, which may come back later, stands in on older kernels.
        """
        assert self._socket is not None
        try:
            raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return os.stat("/proc/thread-self/ns/net").st_ino
        return int.from_bytes(raw, sys.byteorder)

    def _send(self, message_type: int, flags: int, body: bytes) -> int:
        assert self._socket is not None, "use as a context manager"
        self._sequence += 1
        self._socket.send(self._message(message_type, flags, body))
        return self._sequence

    def _message(self, message_type: int, flags: int, body: bytes) -> bytes:
        header = _HEADER.pack(16 + len(body), message_type, flags, self._sequence, 0)
        return header + body + b"\x00" * (-len(body) % 4)

    def _collect(self, sequence: int, until_done: bool) -> Answer:
        assert self._socket is not None
        payloads: list[bytes] = []
        interrupted, total = False, 0
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            total += len(data)
            if total > MAX_DUMP_BYTES:
                raise NetlinkError(errno.EMSGSIZE, "netlink dump is larger than any we ask for")
            for kind, flags, number, payload in _messages(data):
                if number != sequence:
                    continue
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    _raise_for(payload)
                    return Answer(tuple(payloads), interrupted)
                if kind == _NLMSG_ERROR:
                    _raise_for(payload)
                    if not until_done:  # an acknowledgement, which only `transact` asks for
                        return Answer((), False)
                    continue
                payloads.append(payload)
            if payloads and not until_done:
                return Answer(tuple(payloads), interrupted)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of each message of one datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, "netlink message overruns its datagram")
        yield kind, flags, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _raise_for(payload: bytes) -> None:
    """Turn the negative errno at the front of NLMSG_ERROR and NLMSG_DONE into an exception."""
    error = int.from_bytes(payload[:4], sys.byteorder, signed=True) if len(payload) >= 4 else 0
    if error < 0:
        raise NetlinkError(-error, os.strerror(-error))
