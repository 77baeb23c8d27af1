"""SIP parsed and tracked beside sip-doctor on the same messages.

    python -m bench.sip [--calls 1000] [--rounds 5]

Answered calls of seven messages (INVITE with a session description, 100, 180, 200, ACK, BYE, 200),
100 a second, 60 at a time. Ours ends with the rows of the calls, and is checked to have the right
number with the right talk time. sip-doctor is measured twice: its parser alone, which cuts a
message into lines and reads nothing of them until it is asked (docs/decisions/0021), and its parser
with its tracker and the summary of each call, which is the same work as ours.
"""

from __future__ import annotations

import argparse
import gc
from importlib.metadata import version
from typing import Any, Final

from sipdoctor.calls import CallTracker, summarize
from sipdoctor.sip import parse as doctor_parse

from bench.report import Figure, finish, in_turns
from collector.parse.sip import parse
from collector.track.calls import Calls, CallsConfig
from collector.wire.addr import pack

WANTED: Final = 10.0
"""Times as fast as sip-doctor's parser alone: not within reach (docs/decisions/0021)."""
MAX_CALLS: Final = 100_000
SECOND_NS: Final = 1_000_000_000
LINE, CORE = "100.64.0.7", "192.0.2.10"
PORT: Final = 5060
RING_S, ANSWER_S, END_S = 1.0, 5.0, 60.0
TALK_MS: Final = 55_000
_SDP: Final = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 8 0\r\na=rtpmap:8 PCMA/8000\r\na=ptime:20\r\n"
)
_TURNS: Final = (
    ("INVITE sip:{b}@example.net SIP/2.0", 0.0, 1, "INVITE", "", True),
    ("SIP/2.0 100 Trying", 0.01, 1, "INVITE", "", False),
    ("SIP/2.0 180 Ringing", RING_S, 1, "INVITE", ";tag=callee", False),
    ("SIP/2.0 200 OK", ANSWER_S, 1, "INVITE", ";tag=callee", True),
    ("ACK sip:{b}@example.net SIP/2.0", ANSWER_S + 0.05, 1, "ACK", ";tag=callee", False),
    ("BYE sip:{b}@example.net SIP/2.0", END_S, 2, "BYE", ";tag=callee", False),
    ("SIP/2.0 200 OK", END_S + 0.02, 2, "BYE", ";tag=callee", False),
)
"""Start line, seconds from the call's start, CSeq, its method, the To-tag, whether with a body."""

Message = tuple[float, bytes, str, str]
"""Seconds, datagram, source and destination."""


def messages(calls: int) -> list[Message]:
    """All messages of so many calls in order of time."""
    made: list[Message] = []
    for number in range(calls):
        for first, after, cseq, method, tag, has_body in _TURNS:
            body = _SDP if has_body else ""
            a, b = f"+4420794{number % 10_000:05}", f"+4420795{number % 10_000:05}"
            head = (
                f"{first.format(b=b)}\r\n"
                f"Via: SIP/2.0/UDP {LINE}:{PORT};branch=z9hG4bK-{number}-{method};rport\r\n"
                f'From: "Caller {number}" <sip:{a}@example.net>;tag=caller{number}\r\n'
                f"To: <sip:{b}@example.net>{tag}\r\nCall-ID: {number}-bench@{LINE}\r\n"
                f"CSeq: {cseq} {method}\r\nContact: <sip:{a}@{LINE}:{PORT}>\r\n"
                "Max-Forwards: 70\r\nUser-Agent: Phone 1.0\r\nAllow: INVITE, ACK, BYE, CANCEL\r\n"
            )
            kind = "Content-Type: application/sdp\r\n" if body else ""
            text = f"{head}{kind}Content-Length: {len(body)}\r\n\r\n{body}"
            ends = (CORE, LINE) if first.startswith("SIP") else (LINE, CORE)
            made.append((number / 100 + after, text.encode(), *ends))
    return sorted(made, key=lambda message: message[0])


def ours(given: list[Message], calls: int) -> int:
    """Every message parsed and tracked, to the rows of the calls."""
    addresses = {LINE: pack(LINE), CORE: pack(CORE)}
    tracker = Calls(CallsConfig(access=((pack("100.64.0.0"), 106),)))
    for at, data, src, dst in given:
        ts_ns = round((1_800_000_000 + at) * SECOND_NS)
        event = parse(data, ts_ns, addresses[src], PORT, addresses[dst], PORT, 17)
        if event is not None:
            tracker.apply(event, ts_ns)
    tracker.tick(1 << 62)
    talks = tracker.take(0, 1 << 62, 1 << 62)["call"]["talk_ms"]
    if len(talks) != calls or not all(abs(talk - TALK_MS) <= 1 for talk in talks):
        raise RuntimeError("ours has other calls than were made")
    return len(given)


def doctor_parsed(given: list[Message]) -> int:
    """Every message through sip-doctor's parser, nothing read of it."""
    for at, data, src, dst in given:
        doctor_parse(data, at, src, PORT, dst, PORT, "UDP")
    return len(given)


def doctor_tracked(given: list[Message], calls: int) -> int:
    """Every message through sip-doctor's parser and tracker, to the summary of each call."""
    done: list[Any] = []
    tracker = CallTracker(lambda dialog: done.append(summarize(dialog)))
    for at, data, src, dst in given:
        message = doctor_parse(data, at, src, PORT, dst, PORT, "UDP")
        if message is not None:
            tracker.add(message)
    tracker.flush()
    if len(done) != calls:
        raise RuntimeError("sip-doctor has other calls than were made")
    return len(given)


def figures(calls: int, rounds: int) -> list[Figure]:
    given = messages(calls)
    gc.collect()
    gc.freeze()
    cost = in_turns(
        {
            "ours": lambda: ours(given, calls),
            "parser": lambda: doctor_parsed(given),
            "tracker": lambda: doctor_tracked(given, calls),
        },
        rounds,
    )
    peer = f"sip-doctor {version('sip-doctor')}"
    includes = "CPU of a message: ours parsed, put in order, tracked and made a row of;"
    leaves = "frames, IP, TCP, the journal and the batch"
    return [
        Figure(
            name="sip.tracked-doctor-tracked",
            ours=cost["ours"],
            peer=cost["tracker"],
            unit="us a message",
            peer_is=f"{peer}: parser, tracker, summaries",
            includes=f"{includes} the peer's parsed, tracked and summarised",
            leaves_out=leaves,
        ),
        Figure(
            name="sip.tracked-doctor-parser",
            ours=cost["ours"],
            peer=cost["parser"],
            unit="us a message",
            peer_is=f"{peer}: parser alone, lazily",
            includes=f"{includes} the peer's cut into header lines",
            leaves_out=f"{leaves}; of the peer the reading of every header, which it puts off",
            wanted=WANTED,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not 1 <= options.calls <= MAX_CALLS:
        parser.error(f"--calls is 1 to {MAX_CALLS}")
    return finish(figures(options.calls, options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
