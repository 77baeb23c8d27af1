"""Torture messages in kind with those of RFC 4475, written from its descriptions, not copied.

For each: what the parser makes of it, or why it refuses. Sections are those of RFC 4475.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse import sip
from collector.parse.reader import ParseError
from collector.parse.sip import Framer, SipEvent
from collector.track.calls import Calls, CallsConfig
from collector.wire.addr import pack

CALLER, PROXY = pack("100.64.0.7"), pack("192.0.2.10")
CONFIG = CallsConfig(access=((pack("100.64.0.0"), 106),), max_legs=64)


def read(text: str | bytes) -> SipEvent | None:
    data = text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode()
    return sip.parse(data, 5, CALLER, 5060, PROXY, 5060, 17)


def message(first: str = "INVITE sip:b@example.net SIP/2.0", **changes: str) -> str:
    """A message by its headers; "" leaves one out."""
    headers = {
        "Via": "SIP/2.0/UDP 100.64.0.7;branch=z9hG4bKx",
        "From": "<sip:a@example.net>;tag=1",
        "To": "<sip:b@example.net>",
        "Call-ID": "t@example.net",
        "CSeq": "1 INVITE",
        "Content-Length": "0",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return "\n".join([first, *(f"{k}: {v}" for k, v in headers.items() if v), "", ""])


VALID: dict[str, tuple[str | bytes, dict[str, Any]]] = {
    "3.1.1.1 torturous but right": (
        "INVITE sip:callee@far.example.net;odd SIP/2.0\n"
        "TO :\n sip:callee@far.example.net ;   tag    = tagOfCallee\n"
        'from   : "Caller One \\\\\\""       <sip:caller@near.example.net>\n  ;\n tag = caller\n'
        "MaX-fOrWaRdS: 0068\nCall-ID: folded@100.64.0.7\n"
        "cseq: 0009\n  INVITE\n"
        "Via  : SIP  /   2.0\n /UDP\n    192.0.2.2;branch=oldstyle1\n"
        "s :\nX-New:   folded\n value\n"
        "X-Separators: ;;,,;;,;\n"
        "v:  SIP  / 2.0  / TCP     hop2.example.net   ;\n  branch  =   z9hG4bKh2  ,\n"
        " SIP  /    2.0   / UDP  10.0.0.3   ; branch=\n z9hG4bKh3\n"
        'm:"Quoted \\"\\"" <sip:caller@near.example.net> ; newparam =\n newvalue\n\n',
        {
            "cseq": 9,
            "from_tag": "caller",
            "to_tag": "tagOfCallee",
            "branch": "oldstyle1",
            "from_uri": "sip:caller@near.example.net",
        },
    ),
    "3.1.1.2 every character of a token": (
        "Odd-Method-9.!%*_+`'~ sip:~odd_user-(x!y)&=+$,;?/@example.net SIP/2.0\n"
        "Via: SIP/2.0/TCP host1.example.net;branch=z9hG4bK-.!%9*_+`'~\n"
        'To: "BEL:\x07 NUL:\x00 DEL:\x7f" <sip:~odd_user-(x!y)@example.net>\n'
        "From: na~me1 na`me2'+ na*me3%! <sip:a@example.net>;p''~+*_!.-%=\"\xd1\";tag=t~1'+`*%!-.\n"
        "Call-ID: odd.word%~!@word`)(><:\\/\"][?}{\n"
        "CSeq: 77 Odd-Method-9.!%*_+`'~\n\n",
        {"cseq": 77, "from_tag": "t~1'+`*%!-.", "from_uri": "sip:a@example.net"},
    ),
    "3.1.1.3 escapes in URIs stay as they are": (
        message("INVITE sip:sips%3Ab%40example.org@example.net SIP/2.0"),
        {"request_uri": "sip:sips%3Ab%40example.org@example.net"},
    ),
    "3.1.1.4 escaped nulls": (
        message(From="sip:n%00l@example.com;tag=n1"),
        {"from_uri": "sip:n%00l@example.com", "from_tag": "n1"},
    ),
    "3.1.1.5 percent that escapes nothing in a method": (
        message("MES%53AGE sip:registrar.example.com SIP/2.0", CSeq="29 MES%53AGE"),
        {"method": "MES%53AGE"},
    ),
    "3.1.1.6 no white space between name and <": (
        message(From="caller<sip:caller@example.com>;tag=323"),
        {"from_uri": "sip:caller@example.com", "from_tag": "323"},
    ),
    "3.1.1.7 long values": (
        message(From='"' + "long " * 200 + '" <sip:a@example.net>;x=' + "y" * 900 + ";tag=1"),
        {"from_tag": "1"},
    ),
    "3.1.1.8 extra octets after a datagram's message": (
        message() + "INVITE sip:other@example.net SIP/2.0\n\n",
        {"request_uri": "sip:b@example.net"},
    ),
    "3.1.1.9 semicolon parameters in the user part": (
        message("OPTIONS sip:b;par=x%40y@example.net SIP/2.0", CSeq="1 OPTIONS"),
        {"request_uri": "sip:b;par=x%40y@example.net"},
    ),
    "3.1.1.11 a Date of another zone": (message(Date="Fri, 01 Jan 2010 EST"), {}),
    "3.1.1.12 an empty reason phrase": (message("SIP/2.0 100 "), {"status": 100}),
    "3.1.1.13 no reason phrase, nor the space before it": (message("SIP/2.0 100"), {"status": 100}),
    "3.1.2.5 a start line of another case": (message("SIP/2.0 200 OK"), {"status": 200}),
    "3.1.2.17 no Max-Forwards is nothing to us": (message(), {"cseq": 1}),
    "3.3.2 an unknown scheme": (
        message("OPTIONS unheardof:opaque SIP/2.0", CSeq="3 OPTIONS"),
        {"request_uri": "unheardof:opaque"},
    ),
    "3.3.9 several values where one may be: the first": (
        message().replace("To:", "To: <sip:c@example.net>\nTo:"),
        {"to_uri": "sip:c@example.net"},
    ),
    "3.4.1 an INVITE of RFC 2543": (
        message(Via="SIP/2.0/UDP gw.example.net", To="<sip:b@example.net:5060>"),
        {"branch": "", "sent_by": "gw.example.net"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", VALID)
def test_read(what: str) -> None:
    text, fields = VALID[what]
    found = read(text)
    assert found is not None
    assert {name: getattr(found, name) for name in fields} == fields


REFUSED: dict[str, tuple[str, str]] = {
    "3.1.2.2 a negative or absurd CSeq": (message(CSeq="18446744073709551617 INVITE"), "sip-cseq"),
    "3.1.2.4 an unfinished name-addr": (message(To="\"Unended <sip:b@example.net"), "sip"),
    "3.1.2.7 a start line of two methods": (message(CSeq="8 INVITE OPTIONS"), "sip-cseq"),
    "3.1.2.18 another method in CSeq": (message(CSeq="8 OPTIONS"), "sip-cseq"),
    "3.3.1 no From, To, Call-ID": (message(From="", To="", Call_ID=""), "sip-missing"),
    "3.3.1 no Via": (message(Via=""), "sip-missing"),
    "an identifier without end": (message(Call_ID="c" * 5000), "sip-long"),
    "headers without end": (message(X_Many="y\nX: " * 500), "sip-headers"),
    "no empty line": (message().rstrip("\n"), "sip-truncated"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    text, why = REFUSED[what]
    with pytest.raises(ParseError, match=why):
        read(text)


@pytest.mark.parametrize(
    "first",
    [
        "INVITE  sip:b@example.net SIP/2.0",  # 3.1.2.10: two spaces
        "INVITE sip:b@example.net  SIP/2.0",
        "INVITE <sip:b@example.net> SIP/7.0",  # 3.1.2.16: a version of another world
        "INVITE sip:b@exa mple.net SIP/2.0",  # 3.1.2.9: white space in the URI
        "SIP/2.0 4294967396 OK",  # 3.1.2.19
        "SIP/2.0 099 too low",
    ],
)
def test_what_does_not_begin_as_sip_is_none(first: str) -> None:
    assert read(message(first)) is None


def test_a_larger_content_length_in_a_datagram_does_not_hide_the_head() -> None:
    """3.1.2.2 and 3.1.2.3: the body is cut, or its length is negative; the head says enough."""
    for length in ("9999", "-999"):
        found = read(message(Content_Length=length))
        assert found is not None and found.call_id == "t@example.net"


TEXTS = [text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode()
         for text, _ in (*VALID.values(), *REFUSED.values())]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TEXTS),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12), st.integers(0, 40)), max_size=4),
    st.integers(1, 400),
)
def test_mutants_raise_only_parse_error_and_the_books_balance(
    text: bytes, edits: list[tuple[float, bytes, int]], step: int
) -> None:
    """Framer, parser and tracker in a row, on what is left of a message after edits anywhere."""
    for where, put, gone in edits:
        at = int(where * len(text))
        text = text[:at] + put + text[at + gone :]
    framer, calls = Framer(), Calls(CONFIG)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    for number, found in enumerate([text, *(m for piece in pieces for m in framer.feed(piece))]):
        try:
            event = sip.parse(found, 5 + number, CALLER, 5060, PROXY, 5060, 17)
        except ParseError:
            continue
        if event is not None:
            calls.apply(SipEvent.from_json(event.to_json()), 5 + number)
    calls.tick(10**15)
    counts = calls.counts
    assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
