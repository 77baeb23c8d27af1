"""SIP messages: the torture cases of RFC 4475 in kind, framing of streams, and rubbish."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse import sip
from collector.parse.reader import ParseError
from collector.parse.sip import Framer, SipEvent
from collector.wire.addr import pack

CALLER = pack("100.64.0.7")
PROXY = pack("192.0.2.10")

INVITE = (
    b"INVITE sip:+442071838750@example.net;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 100.64.0.7:5060;branch=z9hG4bK-1;rport\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK-0\r\n"
    b'From: "A, \\"quoted\\"; tag=no" <sip:+441632960001@example.net;x=1>;tag=from-1\r\n'
    b"To: <sip:+442071838750@example.net>\r\n"
    b"Call-ID: abc@100.64.0.7\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Max-Forwards: 70\r\n"
    b'P-Asserted-Identity: "B" <sip:+441632960002@example.net>, <tel:+441632960002>\r\n'
    b"Privacy: id;critical\r\n"
    b"Session-Expires: 1800;refresher=uac\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 19\r\n"
    b"\r\n"
    b"a=crypto:secret-key"
)


def read(payload: bytes) -> SipEvent | None:
    return sip.parse(payload, 5, CALLER, 5060, PROXY, 5060, 17)


def event(payload: bytes) -> SipEvent:
    found = read(payload)
    assert found is not None
    return found


def test_request() -> None:
    found = event(INVITE)
    assert (found.method, found.status, found.cseq) == ("INVITE", 0, 1)
    assert found.call_id == "abc@100.64.0.7"
    assert found.request_uri == "sip:+442071838750@example.net;user=phone"
    assert (found.from_uri, found.from_tag) == ("sip:+441632960001@example.net;x=1", "from-1")
    assert (found.to_uri, found.to_tag) == ("sip:+442071838750@example.net", "")
    assert (found.branch, found.sent_by) == ("z9hG4bK-1", "100.64.0.7:5060")
    assert found.p_asserted == ("sip:+441632960002@example.net", "tel:+441632960002")
    assert found.privacy == ("critical", "id")
    assert found.session_expires == 1800
    assert not found.anonymous


def test_response_with_reason() -> None:
    found = event(
        b"SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK-1\r\nf: sip:a@h;tag=1\r\n"
        b"t: sip:b@h;tag=2\r\ni: x\r\nCSeq: 1 INVITE\r\n"
        b'Reason: SIP;cause=486, Q.850 ;cause=17;text="User, busy"\r\n\r\n'
    )
    assert (found.status, found.method, found.to_tag, found.q850) == (486, "INVITE", "2", 17)


def test_no_body_and_no_display_name_leaves_the_parser() -> None:
    text = repr(event(INVITE)) + json.dumps(event(INVITE).to_json())
    assert "secret-key" not in text
    assert "quoted" not in text


def test_json_gives_the_event_back() -> None:
    assert SipEvent.from_json(json.loads(json.dumps(event(INVITE).to_json()))) == event(INVITE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Call-ID: ", b"i  \t: "),
        (b"Call-ID: ", b"CALL-id:"),
        (b"CSeq: 1 INVITE", b"cSEQ:\r\n  1\r\n\t INVITE"),
        (b"\r\nVia: SIP/2.0/UDP 10.0", b",\r\n SIP/2.0/UDP 10.0"),
        (b"SIP/2.0/UDP 100.64.0.7:5060", b"SIP / 2.0 / UDP 100.64.0.7 : 5060"),
        (b";tag=from-1", b" ; TAG = from-1"),
        (b"From: ", b"f: "),
        (b"To: ", b"t :"),
        (b"INVITE sip", b"\r\n\r\nINVITE sip"),
        (b"\r\n", b"\n"),
        (b"Max-Forwards: 70", b"No-Such-Header;: \xff\xfe, <\x00"),
    ],
)
def test_the_same_in_other_clothes(before: bytes, after: bytes) -> None:
    assert before in INVITE
    changed = INVITE.replace(before, after, -1 if before == b"\r\n" else 1)
    assert event(changed) == event(INVITE)


def test_unknown_methods_are_fine() -> None:
    found = event(INVITE.replace(b"INVITE", b"NEWMETHOD"))
    assert found.method == "NEWMETHOD"


def test_anonymous_callers() -> None:
    for value in (b'"Anonymous" <sip:c8oqz84zk7z@privacy.org>', b"sip:anonymous@anonymous.invalid"):
        head, tail = INVITE.split(b"From: ")
        changed = head + b"From: " + value + b";tag=9\r\n" + tail.split(b"\r\n", 1)[1]
        assert event(changed).anonymous


def test_quotes_that_never_end_mean_nothing() -> None:
    changed = INVITE.replace(b"To: <sip:+44", b'To: \\"arik\\" <sip:+44')
    assert event(changed) == event(INVITE)


def test_a_tag_inside_the_uri_is_not_the_dialogs() -> None:
    changed = INVITE.replace(b"<sip:+442071838750@example.net>", b"<sip:b@h;tag=uri>;tag=hdr")
    assert event(changed).to_tag == "hdr"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\r\n\r\n", b"\0\0\0\0", b"OPTIONS * HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"],
)
def test_what_is_not_sip(payload: bytes) -> None:
    assert read(payload) is None


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (b"Call-ID: abc@100.64.0.7\r\n", b"", "sip-missing"),
        (b"CSeq: 1 INVITE", b"CSeq: 1 BYE", "sip-cseq"),
        (b"CSeq: 1 INVITE", b"CSeq: 4294967296 INVITE", "sip-cseq"),
        (b"CSeq: 1 INVITE", b"CSeq: one INVITE", "sip-cseq"),
        (b"Via: SIP/2.0/UDP 100", b"Via: HTTP/2.0/UDP 100", "sip-via"),
        (b"abc@", b"a" * 600, "sip-long"),
        (b"Max-Forwards: 70", b"X: y\r\n" * 300, "sip-headers"),
        (b"To: <sip:", b"To: >sip:", "sip-address"),
    ],
)
def test_refused(before: bytes, after: bytes, reason: str) -> None:
    assert before in INVITE
    with pytest.raises(ParseError, match=reason):
        read(INVITE.replace(before, after, 1))


HEAD = INVITE[: INVITE.index(b"\r\n\r\n") + 4]


@pytest.mark.parametrize("cut", range(len(INVITE)))
def test_cut_anywhere(cut: int) -> None:
    try:
        found = read(INVITE[:cut])
    except ParseError:
        assert cut < len(HEAD)
    else:
        # Whole headers are a message even where its body is cut; a cut start line is not SIP.
        assert found == (event(INVITE) if cut >= len(HEAD) - 1 else None)


def test_trailing_bytes_belong_to_the_body() -> None:
    assert event(INVITE + b"INVITE sip:x SIP/2.0\r\n" * 3) == event(INVITE)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(INVITE)), st.integers(0, 40))
def test_rubbish_raises_only_parse_error(data: bytes, at: int, gone: int) -> None:
    for payload in (data, INVITE[:at] + data + INVITE[at + gone :]):
        try:
            found = read(payload)
        except ParseError:
            continue
        if found is not None:
            assert SipEvent.from_json(json.loads(json.dumps(found.to_json()))) == found


BYE = INVITE.replace(b"INVITE", b"BYE").replace(b"\r\nContent-Length: 19", b"\r\nl: 0")[
    : -len(b"a=crypto:secret-key")
]
STREAM = b"\r\n\r\n" + INVITE + b"\r\n\r\n" + BYE + INVITE
MESSAGES = [HEAD, BYE, HEAD]


def test_framer_whole_and_byte_by_byte() -> None:
    assert Framer().feed(STREAM) == MESSAGES
    framer = Framer()
    assert [m for i in range(len(STREAM)) for m in framer.feed(STREAM[i : i + 1])] == MESSAGES
    assert framer.skipped == 0


@pytest.mark.parametrize("cut", range(0, len(STREAM), 7))
def test_framer_cut_in_two(cut: int) -> None:
    framer = Framer()
    assert framer.feed(STREAM[:cut]) + framer.feed(STREAM[cut:]) == MESSAGES


ORIGIN = b"o=- 77 1 IN IP4 192.0.2.1\r\n"
SDP = b"v=0\r\n" + ORIGIN + b"s=-\r\na=crypto:secret-key\r\n"
DESCRIBED_HEAD = HEAD.replace(b"Content-Length: 19", b"Content-Length: %d" % len(SDP))
DESCRIBED = DESCRIBED_HEAD + SDP


def test_framer_gives_the_origin_of_an_invite_and_nothing_else_of_its_body() -> None:
    assert Framer().feed(DESCRIBED + BYE) == [DESCRIBED_HEAD + ORIGIN[:-1], BYE]


def test_an_invite_is_given_again_where_its_origin_comes_later() -> None:
    whole = DESCRIBED_HEAD + ORIGIN[:-1]
    for cut in range(len(DESCRIBED)):
        framer = Framer()
        found = framer.feed(DESCRIBED[:cut]) + framer.feed(DESCRIBED[cut:] + BYE)
        is_twice = len(DESCRIBED_HEAD) <= cut < DESCRIBED.index(ORIGIN) + len(ORIGIN)
        assert found == ([DESCRIBED_HEAD] if is_twice else []) + [whole, BYE]
        assert framer.skipped == 0


def test_an_invite_byte_by_byte_is_told_as_the_datagram_is() -> None:
    framer = Framer()
    found = [m for i in range(len(DESCRIBED)) for m in framer.feed(DESCRIBED[i : i + 1])]
    assert found == [DESCRIBED_HEAD, DESCRIBED_HEAD + ORIGIN[:-1]]
    assert event(found[0]).origin == "" and event(found[1]) == event(DESCRIBED)
    assert event(DESCRIBED).origin


def test_an_origin_that_is_lost_costs_nothing_but_itself() -> None:
    framer = Framer()
    assert framer.feed(DESCRIBED[: -len(SDP)]) == [DESCRIBED_HEAD]
    framer.gap()
    assert framer.feed(SDP + BYE) == [BYE]
    far = HEAD.replace(b"Content-Length: 19", b"Content-Length: 3000") + b"x=\r\n" * 300
    assert framer.feed(far[:-1]) == [far[: -4 * 300]]
    assert framer.feed(far[-1:] + ORIGIN + bytes(1800 - len(ORIGIN)) + BYE) == [BYE]
    assert len(framer.feed(DESCRIBED)) == 1


def test_framer_picks_up_in_the_middle_of_a_stream() -> None:
    framer = Framer()
    assert framer.feed(INVITE[100:] + b"\r\n" + BYE) == [BYE]
    assert framer.skipped > 0


def test_framer_after_a_gap() -> None:
    framer = Framer()
    assert framer.feed(INVITE[:200]) == []
    framer.gap()
    assert framer.feed(INVITE[300:] + b"\r\n" + BYE) == [BYE]


def test_framer_steps_over_a_large_body_without_keeping_it() -> None:
    body = b"BYE sip:x SIP/2.0\r\n" * 5000
    framer = Framer()
    big = INVITE.replace(b"Content-Length: 19", b"Content-Length: %d" % len(body))
    head = big[: big.index(b"\r\n\r\n") + 4]
    assert framer.feed(head + body + BYE) == [head, BYE]


def test_framer_does_not_believe_an_absurd_length() -> None:
    framer = Framer()
    big = HEAD.replace(b"Content-Length: 19", b"Content-Length: 4000000000")
    assert framer.feed(big + BYE) == [BYE]


def test_framer_is_bounded_and_recovers() -> None:
    framer = Framer()
    for _ in range(20):
        framer.feed(b"x" * 10_000)
    framer.feed(b"INVITE sip:x SIP/2.0\r\n" + b"H: v\r\n" * 20_000)
    assert framer.feed(b"\r\n" + BYE) == [BYE]
    assert framer.skipped > 200_000


def test_framer_is_quick_with_lines_that_are_nothing() -> None:
    framer = Framer()
    assert framer.feed(b"a\n" * 200_000) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.just(BYE) | st.just(INVITE[:150]), max_size=12))
def test_framer_never_fails(parts: list[bytes]) -> None:
    framer = Framer()
    for part in parts:
        for message in framer.feed(part):
            assert len(message) <= sip.MAX_HEAD_BYTES
