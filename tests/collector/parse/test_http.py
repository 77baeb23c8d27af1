from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.http import MAX_HEAD_BYTES, looks_like_request, parse_request_host
from collector.parse.reader import Incomplete, ParseError
from tests.collector.parse.helpers import cuts, only_parse_error

REQUEST = (
    b"GET /private/path?query=secret HTTP/1.1\r\nUser-Agent: a\r\nHost: WWW.Example.com:8080\r\n"
    b"Referer: http://referer.example/page\r\nCookie: session=abc\r\n\r\n"
)


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (REQUEST, "www.example.com"),
        (b"GET / HTTP/1.1\nhost:a.example\n\n", "a.example"),
        (b"POST /x y HTTP/1.1\r\nX: 1\r\nHOST :  a.example.  \r\n\r\n", "a.example"),
        (b"OPTIONS * HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n", "2001:db8::1"),
        (b"GET / HTTP/1.1\r\nHost: 192.0.2.7\r\n\r\n", "192.0.2.7"),
        (b"GET http://u:p@P.example:81/x HTTP/1.1\r\nHost: b.example\r\n\r\n", "p.example"),
        (b"GET HTTPS://p.example?x HTTP/1.0\r\n\r\n", "p.example"),
        (b"CONNECT c.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", "c.example"),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", "::1"),
        (b"GET / HTTP/1.0\r\n\r\n", ""),
        (b"GET / HTTP/1.0\r\nAccept: */*\r\n\r\nHost: body.example\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ""),
        (
            b"GET / HTTP/1.1\r\nX-Host: no.example\r\n Host: fold.example\r\nHost: a.example\r\n",
            "a.example",
        ),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "a.example"),
        (b"M-SEARCH * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\n\r\n", "239.255.255.250"),
    ],
)
def test_hosts(head: bytes, host: str) -> None:
    assert parse_request_host(head) == host
    assert parse_request_host(head + b"\0\xffbody\r\nHost: late.example\r\n\r\n") == host
    assert looks_like_request(head)


def test_cut_at_every_offset() -> None:
    complete = REQUEST.index(b"8080\r\n") + 6
    for end, outcome in enumerate(cuts(parse_request_host, REQUEST)):
        if end < complete:
            assert isinstance(outcome, Incomplete)
            assert outcome.need == end + 1
        else:
            assert outcome == "www.example.com"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\x16\x03\x01", "request"),
        (b"get / HTTP/1.1\r\n", "request"),
        (b"SSH-2.0-OpenSSH_9\r\n", "request"),
        (b"GET /\r\n", "request"),
        (b"GET / HTTP/2.0\r\n\r\n", "request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request"),
        (b"INVITE sip:bob@example.com SIP/2.0\r\n", "request"),
        (b"GET x HTTP/1.1\r\n", "target"),
        (b"GET ftp://f.example/ HTTP/1.1\r\n", "target"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "host"),
        (b"GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n", "host"),
        (b"GET http:/// HTTP/1.1\r\n\r\n", "host"),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, "head"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 11_000, "head"),
    ],
)
def test_what_is_no_request(stream: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_request_host(stream)
    assert caught.value.reason == reason


def test_looks_like_a_request() -> None:
    for payload in (
        *(b"", b"GET", b"GET ", b"GET foo", b"INVITE sip:a@b SIP/2.0", b"HTTP/1.1 200 OK"),
        *(b"SETUP rtsp://a/b RTSP/1.0", b"\x16\x03\x01\0\5\1", b"220 mail.example ESMTP\r\n"),
    ):
        assert not looks_like_request(payload)


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /" + b" " * 65_000 + b"x\r\n",
        b"GET" + b" " * 65_000,
        b"GET / HTTP/1.1\r\nHost: a" + b" " * 65_000 + b"b",
        b"GET / HTTP/1.1\r\n" + b"\nHost " * 9_000,
        b"GET / HTTP/1.1\r\nHost" + b" " * 65_000,
        b"GET " + b":1" * 32_000,
    ],
)
def test_hostile_heads_stay_cheap(stream: bytes) -> None:
    # A quadratic pattern would need minutes for these.
    begin = time.process_time()
    only_parse_error(parse_request_host, stream)
    looks_like_request(stream)
    assert time.process_time() - begin < 1.0


SECRET = st.text(alphabet="SECRT", min_size=8, max_size=12)


@settings(max_examples=300)
@given(
    SECRET, st.sampled_from(["/", "http://{}@h.example/", "http://h.example/"]), st.integers(0, 9)
)
def test_no_content_leaves_the_parser(secret: str, form: str, cut: int) -> None:
    target = form.format(secret) + f"{secret}?{secret}={secret}#{secret}"
    head = (
        f"POST {target} HTTP/1.1\r\nReferer: http://{secret}/\r\nCookie: {secret}\r\n"
        f"Host: {secret}@h.example\r\nAuthorization: {secret}\r\n\r\n{secret}"
    ).encode()
    for broken in (head, head[: len(head) * cut // 9], head.replace(b" HTTP", b"HTTP")):
        try:
            outcome = repr(parse_request_host(broken))
        except ParseError as error:
            outcome = repr(error) + repr(error.__cause__) + repr(error.__context__)
        assert secret.lower() not in outcome.lower()


@settings(max_examples=300)
@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    raw = data.draw(st.binary(max_size=100))
    for stream in (raw, b"GET " + raw, b"GET / HTTP/1.1\r\nHost: " + raw):
        only_parse_error(parse_request_host, stream)
        looks_like_request(stream)
    mutated = bytearray(REQUEST)
    for _ in range(4):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    only_parse_error(parse_request_host, bytes(mutated))
