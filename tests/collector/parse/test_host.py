from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.host import authority_host, clean_host
from collector.parse.reader import ParseError


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"WWW.Example.COM", "www.example.com"),
        (b"www.example.com.", "www.example.com"),
        (b"_sip._tcp.example.org", "_sip._tcp.example.org"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"localhost", "localhost"),
        (b"192.0.2.7", "192.0.2.7"),
        (b"a" * 63 + b"." + b"b" * 63, "a" * 63 + "." + "b" * 63),
    ],
)
def test_names(raw: bytes, host: str) -> None:
    assert clean_host(raw) == host
    assert authority_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a b",
            b"a/b",
            b"a\0b",
            b"a\n",
            b"a@b",
            b"b\xc3\xbc.de",
        ),
        *(b"a" * 64, b"example.com:443", b"[::1]", b"*.example.com", b"a%2eb", b"a.com.."),
        b".".join([b"a" * 49] * 5) + b".long",
    ],
)
def test_what_is_no_host(raw: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        clean_host(raw)
    assert str(caught.value) == "host"


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"Example.com:8080", "example.com"),
        (b"example.com:", "example.com"),
        (b"user:secret@example.com:80", "example.com"),
        (b"a@b@example.com", "example.com"),
        (b"[2001:DB8:0:0::1]:443", "2001:db8::1"),
        (b"[::FFFF:192.0.2.1]", "::ffff:c000:201"),
        (b"[fe80::1%25eth0]", "fe80::1"),
        (b"2001:db8::5", "2001:db8::5"),
        (b"192.0.2.7:81", "192.0.2.7"),
    ],
)
def test_authorities(raw: bytes, host: str) -> None:
    assert authority_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b":80", b"user@", b"[::1", b"[::1]x", b"[]", b"example.com:http", b"a:1:2"),
        *(b"example.com:123456", b"[::g]", b"a" * 5000 + b"@b"),
        "[\N{ARABIC-INDIC DIGIT ONE}::]".encode(),
    ],
)
def test_what_is_no_authority(raw: bytes) -> None:
    with pytest.raises(ParseError):
        authority_host(raw)


@given(st.binary(max_size=300) | st.text(alphabet="aZ09.-_:@[]% /", max_size=60).map(str.encode))
def test_every_host_given_is_clean(raw: bytes) -> None:
    for read in (clean_host, authority_host):
        try:
            host = read(raw)
        except ParseError:
            continue
        assert 0 < len(host) <= 253
        assert host == host.lower()
        assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")
        # A host is its own host: reading twice changes nothing.
        assert authority_host(host.encode()) == host
