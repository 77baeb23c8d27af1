"""What runs in a subscriber's home: reads one JSON step a line, does it, writes one JSON result.

    python -m tests.lab.agent [--quic]

Steps (all numbers are layer-7 sizes; the truth about bytes is the interface's, not ours):
    {"do": "fetch", "kind": "tls|http|quic", "hosts": [...], "times": n, "family": 4|6,
     "down": bytes, "up": bytes, "ca": path}
    {"do": "lookup", "hosts": [...], "family": 4|6}
    {"do": "stream", "host": name, "direction": "up|down", "count": n, "size": bytes, "pps": n, ...}
Result: {"ok": bool, "hosts": {name: successes}, "reached": {name: successes}, "note": text,
"error": text}; `hosts` named themselves to the wire (SNI, Host), `reached` only to the resolver.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import dns.exception
import dns.rdatatype
import dns.resolver

from tests.lab.exchange import (
    BLOCK,
    HTTP_PORT,
    QUIC_ALPN,
    TLS_PORT,
    UDP_PORT,
    close_in_order,
    content_length,
    read_head,
    send_block,
    stream,
)
from tests.lab.topology import RESOLVER_V4, RESOLVER_V6

TIMEOUT_S: Final = 20.0
"""A transfer of the lab takes a second or two; a silence of twenty means that it is broken."""
QUIET_S: Final = 1.0
"""A UDP stream that pauses this long has ended, or lost its end."""

Step = dict[str, Any]
FAILURES: Final = (OSError, ValueError, TimeoutError, dns.exception.DNSException)
"""What a step may end with; anything else is a bug of the agent and ends it."""


def resolve(host: str, family: int) -> str:
    """The first address of `host`, asked of the lab's resolver over the same family."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [RESOLVER_V6 if family == 6 else RESOLVER_V4]
    resolver.lifetime = TIMEOUT_S
    kind = dns.rdatatype.AAAA if family == 6 else dns.rdatatype.A
    return str(next(iter(resolver.resolve(host, kind, search=False))))


def describe(error: BaseException) -> str:
    """One line about a failure."""
    return f"{type(error).__name__}: {error}"


def connect(address: str, port: int) -> socket.socket:
    """A TCP connection to an address."""
    return socket.create_connection((address, port), timeout=TIMEOUT_S)


def fetch_http(address: str, host: str, step: Step) -> None:
    """One HTTP/1.1 request in the clear."""
    exchange(connect(address, HTTP_PORT), host, step["down"], step["up"])


def fetch_tls(address: str, host: str, step: Step) -> None:
    """One HTTP/1.1 request over TLS 1.3; the server's certificate is verified."""
    context = ssl.create_default_context(cafile=step["ca"])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    plain = connect(address, TLS_PORT)
    try:
        secured = context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise
    exchange(secured, host, step["down"], step["up"])


def exchange(connection: socket.socket, host: str, down: int, up: int) -> None:
    """Send one request, read all of the answer, close in order; ValueError if bytes miss."""
    try:
        if up:
            head = f"POST /sink HTTP/1.1\r\nHost: {host}\r\nContent-Length: {up}\r\n\r\n"
        else:
            head = f"GET /bytes/{down} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n"
        connection.sendall(head.encode())
        send_block(connection, up)
        answer, body = read_head(connection)
        expected = content_length(answer)
        received = len(body)
        while received < expected:
            piece = connection.recv(262144)
            if not piece:
                raise ValueError(f"{received} of {expected} bytes came")
            received += len(piece)
        if up and body and int(body) != up:
            raise ValueError("the server did not get every byte")
        close_in_order(connection)
    finally:
        connection.close()


def fetch_quic(address: str, host: str, step: Step) -> None:
    """One QUIC connection with one stream, closed and drained (RFC 9000 section 10.2)."""
    asyncio.run(asyncio.wait_for(quic_exchange(address, host, step), TIMEOUT_S))


async def quic_exchange(address: str, host: str, step: Step) -> None:
    """See `fetch_quic`."""
    from aioquic.asyncio.client import connect as quic_connect
    from aioquic.quic.configuration import QuicConfiguration

    settings = QuicConfiguration(
        is_client=True, alpn_protocols=[QUIC_ALPN], server_name=host, max_datagram_size=1350
    )
    settings.load_verify_locations(step["ca"])
    async with quic_connect(address, TLS_PORT, configuration=settings) as client:
        reader, writer = await client.create_stream()
        writer.write(f"GET {step['down']}".encode())
        writer.write_eof()
        received = 0
        while piece := await reader.read(262144):
            received += len(piece)
        if received != step["down"]:
            raise ValueError(f"{received} of {step['down']} bytes came")


FETCHES: Final[dict[str, Callable[[str, str, Step], None]]] = {
    "http": fetch_http,
    "tls": fetch_tls,
    "quic": fetch_quic,
}


def do_fetch(step: Step) -> dict[str, Any]:
    """A name looked up and fetched from, `times` over, taking the hosts in turn."""
    done: Counter[str] = Counter()
    for number in range(step["times"]):
        host = step["hosts"][number % len(step["hosts"])]
        try:
            FETCHES[step["kind"]](resolve(host, step["family"]), host, step)
        except FAILURES as error:
            return {"ok": False, "hosts": dict(done), "error": describe(error)}
        done[host] += 1
    return {"ok": True, "hosts": dict(done)}


def do_lookup(step: Step) -> dict[str, Any]:
    """Names looked up, and nothing more."""
    for host in step["hosts"]:
        resolve(host, step["family"])
    return {"ok": True}


def do_stream(step: Step) -> dict[str, Any]:
    """UDP datagrams one way at a given rate, to or from a server looked up by name."""
    address = resolve(step["host"], step["family"])
    family = socket.AF_INET6 if step["family"] == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, UDP_PORT))
        client.settimeout(QUIET_S)
        if step["direction"] == "up":
            stream(client, None, step["count"], step["size"], step["pps"])
            client.send(b"END")
            received = int(client.recv(64))
        else:
            received = 0
            client.send(f"GET {step['count']} {step['size']} {step['pps']}".encode())
            while received < step["count"]:
                try:
                    client.recv(len(BLOCK))
                except TimeoutError:
                    break
                received += 1
    note = f"{received}/{step['count']} datagrams"
    return {"ok": received > 0, "reached": {step["host"]: 1}, "note": note, "error": note}


DO: Final[dict[str, Callable[[Step], dict[str, Any]]]] = {
    "fetch": do_fetch,
    "lookup": do_lookup,
    "stream": do_stream,
}


def main() -> None:
    """Serve steps until standard input ends."""
    if "--quic" in sys.argv:
        import aioquic.asyncio.client  # noqa: F401  (load now, not within the day)
    sys.stdout.write('{"ok": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        step = json.loads(line)
        try:
            result = DO[step["do"]](step)
        except FAILURES as error:
            result = {"ok": False, "error": describe(error)}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
