from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.reader import Incomplete, ParseError
from collector.parse.tls import (
    ClientHello,
    looks_like_client_hello,
    parse_client_hello,
    parse_handshake,
)
from tests.collector.parse.helpers import (
    client_hello,
    cuts,
    ignores_trailing,
    many_protocols,
    only_parse_error,
)

HELLO = client_hello("WWW.Example.com")
LONG = client_hello("pq.example", many_protocols(90))


def _records(handshake: bytes, *sizes: int) -> bytes:
    """Handshake bytes in records of the given sizes, the last one taking the rest."""
    out = b""
    for size in (*sizes, len(handshake)):
        part, handshake = handshake[:size], handshake[size:]
        if part:
            out += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
    return out


def _hello(*extensions: tuple[int, bytes], session: bytes = b"") -> bytes:
    """A ClientHello handshake message with just these extensions."""
    body = b"\x03\x03" + bytes(32) + bytes((len(session),)) + session + b"\0\2\x13\x01\1\0"
    block = b"".join(
        kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions
    )
    body += len(block).to_bytes(2, "big") + block
    return b"\1" + len(body).to_bytes(3, "big") + body


def _sni(name: bytes) -> tuple[int, bytes]:
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    return 0, len(entry).to_bytes(2, "big") + entry


def test_a_real_hello() -> None:
    assert parse_client_hello(HELLO) == ClientHello("www.example.com", False, ("h2", "http/1.1"))
    assert ignores_trailing(parse_client_hello, HELLO)
    without = client_hello(None, ("h2",))
    assert parse_client_hello(without) == ClientHello("", False, ("h2",))


@pytest.mark.parametrize("hello", [HELLO, LONG, _records(HELLO[5:], 1, 2, 3, 100)])
def test_cut_at_every_offset_it_says_what_it_needs(hello: bytes) -> None:
    assert looks_like_client_hello(hello)
    for end, outcome in enumerate(cuts(parse_client_hello, hello)):
        assert isinstance(outcome, Incomplete)
        assert end < outcome.need <= len(hello)
    # Waiting for exactly what is needed leads to the hello in a few steps.
    stream, turns = b"", 0
    while isinstance(outcome := parse_client_hello(stream), Incomplete):
        stream = hello[: outcome.need]
        turns += 1
    assert isinstance(outcome, ClientHello)
    assert turns <= 12


def test_a_long_hello() -> None:
    assert len(LONG) > 1_500
    found = parse_client_hello(LONG)
    assert isinstance(found, ClientHello)
    assert found.host == "pq.example"
    assert len(found.alpn) == 16


@pytest.mark.parametrize("sizes", [(1,), (3, 1), (100, 100, 100), (4,), (1,) * 60])
def test_a_hello_over_many_records(sizes: tuple[int, ...]) -> None:
    assert parse_client_hello(_records(HELLO[5:], *sizes)) == parse_client_hello(HELLO)


def test_handshake_bytes_without_records() -> None:
    assert parse_handshake(HELLO[5:]) == parse_client_hello(HELLO)
    assert parse_handshake(b"") == Incomplete(4)
    assert parse_handshake(HELLO[5:50]) == Incomplete(len(HELLO) - 5)


def test_encrypted_client_hello_gives_the_outer_name() -> None:
    message = _hello(_sni(b"outer.example"), (0xFE0D, b"\0" + bytes(40)), (0x0A0A, b""))
    assert parse_handshake(message) == ClientHello("outer.example", True, ())
    assert parse_handshake(_hello((0xFFCE, bytes(20)))) == ClientHello("", True, ())


def test_unprintable_protocols_are_left_out() -> None:
    message = _hello((16, b"\0\x0b\2h2\2\x0a\x0a\4\xc3\xa9ab"))
    assert parse_handshake(message) == ClientHello("", False, ("h2",))


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        (b"Server4:443", "server4", ":443"),
        (b"192.0.2.1", "192.0.2.1", ""),
        (b"a.b.", "a.b", ""),
        (b"2001:db8::1", "2001:db8::1", ""),
    ],
)
def test_names_as_clients_send_them(name: bytes, host: str, port: str) -> None:
    found = parse_handshake(_hello(_sni(name), session=bytes(32)))
    assert found == ClientHello(host, False, (), port)


def test_a_hello_without_extensions() -> None:
    body = b"\x03\x01" + bytes(32) + b"\0\0\2\0\x2f\1\0"
    assert parse_handshake(b"\1\0\0" + bytes((len(body),)) + body) == ClientHello("", False, ())


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"G", "record"),
        (b"\x17\x03\x03\0\5hello", "record"),
        (b"\x16\x02\x03\0\5hello", "record"),
        (b"\x16\x03\x03\0\0", "length"),
        (b"\x16\x03\x03\x40\x01", "length"),
        (b"\x16\x03\x03\0\4\2\0\0\0", "handshake"),
        (b"\x16\x03\x03\0\4\1\1\0\0", "length"),
        (_records(b"\1\0\0\4abcd"), "truncated"),
        (_records(_hello(_sni(b"b\xc3\xbc.example"))), "host"),
        (_records(_hello(_sni(b""))), "host"),
        (_records(_hello(_sni(b"a.example"), _sni(b"b.example"))), "extension"),
        (_records(_hello((0, b"\0\4\1\0\1x"))), "extension"),
        (_records(_hello((0, b"\0\x09\0\0\1x"))), "extension"),
        (_records(_hello((16, b"\0\3\4h2"))), "truncated"),
        (_records(HELLO[5:], *(1,) * 80), "records"),
        (_records(_hello((9, b"abc")).replace(b"\0\x09\0\3abc", b"\0\x09\0\4abc")), "truncated"),
        (_records(_hello((9, b"abc")).replace(b"\0\7\0\x09", b"\0\6\0\x09")), "length"),
    ],
)
def test_what_is_no_client_hello(stream: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_client_hello(stream)
    assert caught.value.reason == reason


def test_looks_like_a_client_hello() -> None:
    assert not looks_like_client_hello(HELLO[:5])
    assert not looks_like_client_hello(b"\x16\x03\x03\0\x7a\2\0\0\x76\x03\x03")
    assert not looks_like_client_hello(b"GET / HTTP/1.1\r\n")


@settings(max_examples=300)
@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    only_parse_error(parse_client_hello, data.draw(st.binary(max_size=100)))
    only_parse_error(parse_client_hello, b"\x16\x03\x01" + data.draw(st.binary(max_size=100)))
    mutated = bytearray(HELLO)
    for _ in range(4):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    only_parse_error(parse_client_hello, bytes(mutated))
