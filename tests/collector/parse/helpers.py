"""Feeds parsers whole, cut at every offset and with bytes after; makes real protocol bytes."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypeVar

from collector.parse.ip import TCP, UDP, Packet
from collector.parse.reader import ParseError
from collector.wire.addr import pack

T = TypeVar("T")

CLIENT = pack("10.0.0.7")
SERVER = pack("192.0.2.80")
RUBBISH = (
    b"\0",
    b"\xff" * 7,
    b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
    b"\x16\x03\x01\0\5",
)


def cuts(parse: Callable[[bytes], T], data: bytes) -> list[T | ParseError]:
    """What `parse` gives for every proper prefix of `data`; anything but ParseError escapes."""
    outcomes: list[T | ParseError] = []
    for end in range(len(data)):
        try:
            outcomes.append(parse(data[:end]))
        except ParseError as error:
            outcomes.append(error)
    return outcomes


def ignores_trailing(parse: Callable[[bytes], T], data: bytes) -> bool:
    """Whether bytes after `data` change nothing."""
    whole = parse(data)
    return all(parse(data + rubbish) == whole for rubbish in RUBBISH)


def only_parse_error(parse: Callable[[bytes], object], data: bytes) -> None:
    """Runs `parse`; a ParseError must name its reason in one short word, without packet bytes."""
    try:
        parse(data)
    except ParseError as error:
        assert error.reason.isalpha()
        assert len(error.reason) <= 16
        assert str(error) == error.reason


def client_hello(host: str | None, alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """The first flight of Python's own TLS client: one record with one ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake ended without a server")


def many_protocols(count: int) -> tuple[str, ...]:
    """ALPN names that make a hello as long as post-quantum shares do, and longer."""
    return tuple(f"protocol-number-{number:03}" for number in range(count))


def segment(
    payload: bytes, seq: int, flags: int = 0x18, sport: int = 40_000, ts_ns: int = 1_000
) -> Packet:
    """A TCP segment from the client to the server."""
    return Packet(ts_ns, CLIENT, SERVER, TCP, sport, 443, payload, seq, flags)


def datagram(payload: bytes, sport: int = 40_000, ts_ns: int = 1_000) -> Packet:
    """A UDP datagram from the client to the server."""
    return Packet(ts_ns, CLIENT, SERVER, UDP, sport, 443, payload, 0, 0)
