"""The lab's servers: HTTP/1.1 on 80, the same over TLS 1.3 on 443, UDP bulk on 9000.

    python -m tests.lab.server CONFIG.json

`GET /bytes/N` answers N bytes; `POST` reads the body and answers with its length. One request a
connection, which both sides close in order, so that nothing follows a flow's end.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.lab.exchange import (
    HTTP_PORT,
    IDLE_S,
    MAX_TRANSFER,
    TLS_PORT,
    UDP_PORT,
    close_in_order,
    content_length,
    read_head,
    send_block,
    stream,
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the servers listen; paths of a certificate chain and its key."""

    addresses: tuple[str, ...]
    certificate: str
    key: str

    def write(self, path: Path) -> None:
        """To JSON."""
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> ServerConfig:
        """From JSON."""
        raw = json.loads(path.read_text())
        return ServerConfig(tuple(raw["addresses"]), raw["certificate"], raw["key"])


def answer(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve one request of one connection."""
    connection.settimeout(IDLE_S)
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        head, body = read_head(connection)
        method, path, _ = head.split("\r\n")[0].split(" ")
        if method == "POST":
            missing = content_length(head) - len(body)
            while missing > 0:
                missing -= len(connection.recv(65536)) or missing
            reply = str(content_length(head)).encode()
            connection.sendall(http_ok(len(reply)) + reply)
        else:
            size = min(int(path.rpartition("/")[2]), MAX_TRANSFER)
            connection.sendall(http_ok(size))
            send_block(connection, size)
        close_in_order(connection)
    except (OSError, ValueError) as error:
        say(f"request failed: {error}")
        connection.close()


def http_ok(size: int) -> bytes:
    """The head of an answer with `size` bytes."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode()


def family_of(address: str) -> socket.AddressFamily:
    """Of an address as text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen_tcp(address: str, port: int) -> socket.socket:
    """A listening socket; OSError ends the program, so that the lab sees it."""
    return socket.create_server((address, port), family=family_of(address), backlog=256)


def listen_udp(address: str) -> socket.socket:
    """A bound socket, likewise."""
    server = socket.socket(family_of(address), socket.SOCK_DGRAM)
    server.bind((address, UDP_PORT))
    return server


def serve_tcp(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Accept for ever, a thread a connection."""
    with listener:
        while True:
            connection, _ = listener.accept()
            start(partial(answer, connection, context))


def serve_udp(server: socket.socket) -> None:
    """`GET count size pps` streams datagrams back; other datagrams are counted, `END` asks."""
    received: dict[tuple[object, ...], int] = {}
    with server:
        while True:
            data, peer = server.recvfrom(65535)
            if data.startswith(b"GET "):
                count, size, pps = (int(word) for word in data.split()[1:4])
                start(partial(stream, server, peer, count, size, pps))
            elif data == b"END":
                server.sendto(str(received.pop(peer, 0)).encode(), peer)
            else:
                received[peer] = received.get(peer, 0) + 1


def start(work: Callable[[], None]) -> None:
    """Run in a thread that does not keep the program alive."""
    threading.Thread(target=work, daemon=True).start()


def say(text: str) -> None:
    """To the program's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tcp_main(config: ServerConfig) -> None:
    """Every TCP and UDP server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(config.certificate, config.key)
    for address in config.addresses:
        start(partial(serve_tcp, listen_tcp(address, HTTP_PORT), None))
        start(partial(serve_tcp, listen_tcp(address, TLS_PORT), context))
        start(partial(serve_udp, listen_udp(address)))
    threading.Event().wait()


if __name__ == "__main__":
    tcp_main(ServerConfig.read(Path(sys.argv[1])))
