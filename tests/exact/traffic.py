"""Traffic of known shape between two namespaces: a program of its own, so that it costs no meter.

    python -m tests.exact.traffic serve ADDRESS...
    python -m tests.exact.traffic flows ADDRESS PORT COUNT     # short connections, both ways
    python -m tests.exact.traffic bulk ADDRESS PORT BYTES      # one connection, half each way
    python -m tests.exact.traffic crowd SOURCES ADDRESS PORT   # one datagram and its echo for each
    python -m tests.exact.traffic burst ADDRESS FLOWS PACKETS SIZE  # datagrams that none answers

`serve` prints a port for TCP and UDP once it listens, and serves until its input ends. A client of
it says how much it will send and wants back; bytes are zeros.
"""

from __future__ import annotations

import ipaddress
import resource
import socket
import struct
import sys
import threading
from typing import Final

WAIT_S: Final = 120.0
SINK_PORT: Final = 9
"""Discard (RFC 863)."""
WANTED: Final = struct.Struct("!QQ")
"""What a client sends first: bytes it will send after this, bytes it wants back."""
CHUNK: Final = bytes(1 << 20)


def crowd_size(number: int) -> int:
    """Payload of the datagrams of the crowd's member."""
    return 40 + number * 7 % 900


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(addresses: list[str]) -> None:
    """Every address on one port."""
    listeners, port = [], 0
    for address in addresses:
        family = family_of(address)
        listener = socket.create_server((address, port), family=family, backlog=4096)
        port = listener.getsockname()[1]
        echo = socket.socket(family, socket.SOCK_DGRAM)
        echo.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        echo.bind((address, port))
        listeners += [(listener, accept), (echo, bounce)]
    for opened, work in listeners:
        threading.Thread(target=work, args=(opened,), daemon=True).start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()


def accept(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def answer(caller: socket.socket) -> None:
    with caller:
        caller.settimeout(WAIT_S)
        up, down = WANTED.unpack(caller.recv(WANTED.size, socket.MSG_WAITALL))
        drain(caller, up)
        pour(caller, down)
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(65_536):
            pass


def bounce(opened: socket.socket) -> None:
    while True:
        data, sender = opened.recvfrom(65_535)
        opened.sendto(data, sender)


def pour(opened: socket.socket, size: int) -> None:
    while size:
        size -= opened.send(CHUNK[:size])


def drain(opened: socket.socket, size: int) -> None:
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    while size:
        got = opened.recv_into(view[:size])
        if not got:
            raise ConnectionError("the other end has gone")
        size -= got


def connection(address: str, port: int, up: int, down: int) -> None:
    with socket.socket(family_of(address)) as caller:
        caller.settimeout(WAIT_S)
        caller.connect((address, port))
        caller.sendall(WANTED.pack(up, down))
        pour(caller, up)
        drain(caller, down)
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(65_536):
            pass


def crowd(sources: str, address: str, port: int) -> None:
    """Each source waits for its echo, so that no buffer overflows and nothing is sent twice."""
    for number, source in enumerate(ipaddress.ip_network(sources)):
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
            sender.settimeout(WAIT_S)
            sender.bind((str(source), 0))
            sender.sendto(CHUNK[: crowd_size(number)], (address, port))
            sender.recv(65_535)


def burst(address: str, flows: int, packets: int, size: int) -> None:
    """Datagrams of many flows in turn; ICMP errors that come back are not looked at."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    senders = [socket.socket(family_of(address), socket.SOCK_DGRAM) for _ in range(flows)]
    data = CHUNK[:size]
    for _ in range(packets):
        for sender in senders:
            sender.sendto(data, (address, SINK_PORT))


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *addresses]:
            serve(addresses)
        case ["flows", address, port, count]:
            for number in range(int(count)):
                connection(address, int(port), number * 13 % 3000, number * 29 % 9000)
        case ["bulk", address, port, size]:
            connection(address, int(port), int(size) // 2, int(size) // 2)
        case ["burst", address, flows, packets, size]:
            burst(address, int(flows), int(packets), int(size))
        case ["crowd", sources, address, port]:
            crowd(sources, address, int(port))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
