"""The little protocols that the lab's servers and its subscribers speak with each other."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any, Final

HTTP_PORT: Final = 80
TLS_PORT: Final = 443
UDP_PORT: Final = 9000
QUIC_ALPN: Final = "lab"
BLOCK: Final = bytes(range(256)) * 256
MAX_TRANSFER: Final = 1 << 28
"""No request of the lab asks for more than 256 MiB."""
MAX_HEAD: Final = 8192
IDLE_S: Final = 20.0
"""A peer that says nothing for this long is gone."""
UDP_BURST: Final = 16
"""Datagrams at once; small against the 1,000 packets that a veth's queue holds."""


def read_head(connection: socket.socket) -> tuple[str, bytes]:
    """(head, first bytes of the body) of one HTTP message; ValueError where there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece or len(data) > MAX_HEAD:
            raise ValueError("no HTTP head")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("ascii"), rest


def content_length(head: str) -> int:
    """The body's length that a head states; 0 without one."""
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            return min(int(value), MAX_TRANSFER)
    return 0


def send_block(connection: socket.socket, size: int) -> None:
    """Send `size` bytes."""
    view = memoryview(BLOCK)
    while size > 0:
        size -= connection.send(view[: min(size, len(view))])


def close_in_order(connection: socket.socket) -> None:
    """Say goodbye, wait for the peer's, then close: no reset, no late packet.

    A TLS connection exchanges close_notify first (RFC 8446 section 6.1).
    """
    plain = connection
    with contextlib.suppress(OSError):
        if isinstance(connection, ssl.SSLSocket):
            plain = connection.unwrap()
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(65536):
            continue
    plain.close()


def stream(
    sender: socket.socket, peer: tuple[Any, ...] | None, count: int, size: int, pps: int
) -> None:
    """Send `count` datagrams of `size` bytes at about `pps`; to `peer`, or where connected."""
    payload = memoryview(BLOCK)[: min(size, 1400)]
    begin = time.monotonic()
    for number in range(min(count, MAX_TRANSFER // max(size, 1))):
        if number % UDP_BURST == 0:
            early = begin + number / pps - time.monotonic()
            if early < 0:
                begin -= early  # woken late: no burst to catch up, the rate is what matters
            else:
                time.sleep(early)
        if peer is None:
            sender.send(payload)
        else:
            sender.sendto(payload, peer)
