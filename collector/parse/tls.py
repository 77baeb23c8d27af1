"""TLS: turns the first bytes of a client's stream into the host its ClientHello names.

RFC 8446 sections 4.1.2 (ClientHello) and 5.1 (records); RFC 6066 section 3 (server name); RFC 7301
(ALPN); RFC 9849 (Encrypted ClientHello). QUIC carries the same handshake without records.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from collector.parse.host import authority_host, clean_host
from collector.parse.reader import Incomplete, ParseError

MAX_HELLO_BYTES: Final = 65_536
"""Longest handshake message read. Hellos with post-quantum shares run to 1.8 KB; the handshake
length field would allow 16 MiB, which no server accepts."""
_MAX_RECORDS: Final = 64
"""Records over which one hello may be spread. Senders use one; those that hide the name from
middleboxes use a handful."""
_MAX_RECORD_BYTES: Final = 16_384
_MAX_ALPN: Final = 16
"""Protocol names kept: the first ones, which are the client's preference."""

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 0x01
_SERVER_NAME: Final = 0x0000
_ALPN: Final = 0x0010
_ENCRYPTED: Final = frozenset((0xFE0D, 0xFFCE))
"""encrypted_client_hello, and encrypted_server_name that was tried before it."""
_READ: Final = _ENCRYPTED | {_SERVER_NAME, _ALPN}

_PORT: Final = re.compile(rb":[0-9]{1,5}\Z")
_U16: Final = struct.Struct(">H")
_HH: Final = struct.Struct(">HH")


class ClientHello(NamedTuple):
    """What a ClientHello says in the clear.

    `host` is the server name ("" where none is sent). `ech` says that an encrypted hello travels
    along: `host` is then the outer name, and the inner one is not known. Clients send a dummy of
    it too (RFC 9849 section 6.2), on purpose not to be told apart. `port` is what some clients
    write after the name, against RFC 6066 section 3, with its colon; it is no part of the host.
    """

    host: str
    ech: bool
    alpn: tuple[str, ...]
    port: str = ""


def looks_like_client_hello(payload: bytes) -> bool:
    """Whether a TCP payload begins a ClientHello, by its record and handshake headers (6 bytes)."""
    return (
        len(payload) > 5
        and payload[0] == _HANDSHAKE
        and payload[1] == 3
        and payload[5] == _CLIENT_HELLO
        and payload[3] <= 0x40
    )


def parse_client_hello(stream: bytes) -> ClientHello | Incomplete:
    """The ClientHello at the start of a client's TCP stream; bytes after it are not read.

    `Incomplete.need` is the least length of the stream at which to try again. Raises ParseError
    as soon as the stream cannot be a ClientHello.
    """
    size = len(stream)
    at = 0
    parts: list[bytes] = []
    for _ in range(_MAX_RECORDS):
        if size < at + 5:
            if size > at and stream[at] != _HANDSHAKE:
                raise ParseError("record")
            return Incomplete(at + 5)
        length: int = _U16.unpack_from(stream, at + 3)[0]
        if stream[at] != _HANDSHAKE or stream[at + 1] != 3:
            raise ParseError("record")
        if not 0 < length <= _MAX_RECORD_BYTES:
            raise ParseError("length")
        at += 5
        parts.append(stream[at : at + length])
        at += length
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        hello = parse_handshake(message)
        if not isinstance(hello, Incomplete):
            return hello
        if size < at:
            # What the message lacks may lie in this record, or beyond it after another header.
            need = size + hello.need - len(message)
            return Incomplete(need if need <= at else need + 5)
    raise ParseError("records")


def parse_handshake(stream: bytes) -> ClientHello | Incomplete:
    """The ClientHello at the start of handshake bytes, such as those of QUIC's CRYPTO frames."""
    if stream and stream[0] != _CLIENT_HELLO:
        raise ParseError("handshake")
    if len(stream) < 4:
        return Incomplete(4)
    end = 4 + (stream[1] << 16 | stream[2] << 8 | stream[3])
    if end > MAX_HELLO_BYTES:
        raise ParseError("length")
    if len(stream) < end:
        return Incomplete(end)
    return _client_hello(stream, end)


def _client_hello(data: bytes, end: int) -> ClientHello:
    """The message whose body is data[4:end]."""
    # Version (2) and random (32), then session id, cipher suites and compression methods.
    at = 38
    if at >= end:
        raise ParseError("truncated")
    at += 1 + data[at]
    if at + 2 > end:
        raise ParseError("truncated")
    at += 2 + _U16.unpack_from(data, at)[0]
    if at >= end:
        raise ParseError("truncated")
    at += 1 + data[at]
    if at == end:
        # Before TLS 1.3 a hello may do without extensions (RFC 5246 section 7.4.1.2).
        return ClientHello("", False, ())
    if at + 2 > end:
        raise ParseError("truncated")
    if at + 2 + _U16.unpack_from(data, at)[0] != end:
        raise ParseError("length")
    at += 2
    host = port = ""
    ech = False
    alpn: tuple[str, ...] = ()
    # The 16-bit length above bounds this to 16,384 turns.
    unpack = _HH.unpack_from
    while at + 4 <= end:
        kind, length = unpack(data, at)
        at += 4
        stop = at + length
        if kind in _READ:
            if stop > end:
                raise ParseError("truncated")
            if kind == _SERVER_NAME:
                if host:
                    raise ParseError("extension")
                host, port = _server_name(data, at, stop)
            elif kind == _ALPN:
                alpn = _protocols(data, at, stop)
            else:
                ech = True
        at = stop
    if at != end:
        raise ParseError("truncated")
    return ClientHello(host, ech, alpn, port)


def _server_name(data: bytes, at: int, end: int) -> tuple[str, str]:
    """The host_name of a server_name extension (RFC 6066 section 3) and the port after it."""
    if at + 5 > end:
        raise ParseError("truncated")
    if at + 2 + _U16.unpack_from(data, at)[0] != end or data[at + 2] != 0:
        # The one type ever defined is 0, and more than one name of a type is forbidden.
        raise ParseError("extension")
    if at + 5 + _U16.unpack_from(data, at + 3)[0] != end:
        raise ParseError("extension")
    raw = data[at + 5 : end]
    # Neither ports nor literals belong here, but some clients send them.
    if b":" not in raw:
        return clean_host(raw), ""
    port = _PORT.search(raw)
    return authority_host(raw), port[0].decode("ascii") if port and raw.count(b":") == 1 else ""


def _protocols(data: bytes, at: int, end: int) -> tuple[str, ...]:
    """The protocol names of an ALPN extension; those not printable (GREASE) are left out."""
    if at + 2 > end or at + 2 + _U16.unpack_from(data, at)[0] != end:
        raise ParseError("extension")
    at += 2
    names: list[str] = []
    while at < end and len(names) < _MAX_ALPN:
        stop = at + 1 + data[at]
        if stop > end:
            raise ParseError("truncated")
        name = data[at + 1 : stop]
        if name.isascii() and (text := name.decode("ascii")).isprintable():
            names.append(text)
        at = stop
    return tuple(names)
