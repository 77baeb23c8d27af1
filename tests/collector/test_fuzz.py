"""Nothing that a packet holds may end the loop: any frames through all of it that is pure."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.link import LINK_ETHERNET, LINK_RAW, Frame
from collector.track.journal_events import Control, control_event
from collector.track.observer import Observer, ObserverConfig
from collector.track.trackers import Trackers, TrackersConfig
from collector.window import Window
from collector.wire.addr import pack

SECOND = 1_000_000_000
WINDOW = 300 * SECOND
T0 = 1_700_000_100 * SECOND
CONFIG = TrackersConfig(
    access=((pack("10.0.0.0"), 96 + 8), (pack("2001:db8::"), 32)), window_ns=WINDOW
)
INSIDE, OUTSIDE = bytes((10, 0, 0, 2)), bytes((203, 0, 113, 5))

SIP = (
    b"%s sip:+442079460002@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK%d\r\n"
    b"From: <sip:+442079460001@example.com>;tag=a\r\nTo: <sip:b@example.com>%s\r\n"
    b"Call-ID: c%d\r\nCSeq: %d %s\r\nContent-Length: 0\r\n\r\n"
)
DNS = (
    b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x03www\x07example\x03com\x00\x00\x01\x00\x01"
    b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + OUTSIDE
)
HTTP = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"


def radius(status: int, number: int) -> bytes:
    """An Accounting-Request with the attributes that matter."""
    attributes = [
        (40, struct.pack("!I", status)),
        (44, b"session-%d" % (number % 3)),
        (1, b"user@realm"),
        (4, bytes((192, 0, 2, 1))),
        (8, bytes((10, 0, 0, number % 5 + 1))),
        (97, b"\x00\x40" + pack("2001:db8:0:1::")[:8]),
        (42, struct.pack("!I", number * 1000 % 2**32)),
        (46, struct.pack("!I", number % 2**31)),
        (61, struct.pack("!I", 15)),
    ]
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)
    return struct.pack("!BBH", 4, number % 256, 20 + len(body)) + bytes(16) + body


def udp(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> bytes:
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0) + src + dst
    return bytes(12) + b"\x08\x00" + head + datagram


def tcp(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes, seq: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq, 0, 0x50, 0x18, 1, 0, 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, 64, 6, 0) + src + dst
    return bytes(12) + b"\x08\x00" + head + segment


def good(source: random.Random) -> tuple[bytes, int]:
    """A frame of a protocol we read, and the interface it comes by: 1 access, 2 control."""
    number = source.randrange(2**31)
    method = source.choice((b"INVITE", b"BYE", b"ACK", b"CANCEL", b"OPTIONS"))
    tag = source.choice((b"", b";tag=b"))
    message = SIP % (method, number % 4, tag, number % 3, number % 5, method)
    return source.choice(
        (
            (udp(INSIDE, OUTSIDE, 5060, 5060, message), 1),
            (tcp(INSIDE, OUTSIDE, 40_000 + number % 3, 5060, message, number % 2**16), 2),
            (udp(OUTSIDE, INSIDE, 53, 40_000, DNS), 1),
            (tcp(INSIDE, OUTSIDE, 40_000, 80, HTTP, number), 1),
            (udp(OUTSIDE, OUTSIDE, 1813, 1813, radius(source.randrange(16), number)), 2),
            (udp(INSIDE, OUTSIDE, 40_000, 443, source.randbytes(1200)), 1),
        )
    )


def mutated(source: random.Random, data: bytes) -> bytes:
    """A few bytes changed, or the end cut off or repeated."""
    out = bytearray(data)
    for _ in range(source.choice((0, 0, 1, 2, 8))):
        out[source.randrange(len(out))] = source.choice(
            (0, 1, 0x7F, 0x80, 0xFF, source.randrange(256))
        )
    match source.randrange(6):
        case 0:
            return bytes(out[: source.randrange(len(out))])
        case 1:
            return bytes(out + out[-source.randrange(1, 40) :])
        case _:
            return bytes(out)


class Pipeline:
    """What the service does with frames, without its sockets and disks."""

    def __init__(self) -> None:
        roles: dict[int, frozenset[Any]] = {1: frozenset({"access"}), 2: frozenset({"control"})}
        self.observer = Observer(ObserverConfig(roles))
        self.trackers = Trackers(CONFIG, T0)
        self.window = Window(WINDOW, "edge-1")
        self.window.open(T0)
        self.events = 0

    def frame(self, frame: Frame) -> None:
        for event in self.observer.frame(frame):
            self.events += 1
            if isinstance(event, Control):
                kind, payload = json.loads(json.dumps(control_event(event), allow_nan=False))
                self.trackers.apply(kind, payload, frame.ts_ns)
            else:
                self.trackers.observed(event)

    def close(self, now_ns: int) -> int:
        """Rows of a window; the state goes through JSON into trackers that begin anew."""
        self.observer.tick(now_ns)
        self.trackers.tick(now_ns)
        start, end = self.window.bounds(now_ns)
        taken = self.trackers.take(start, end, now_ns)
        losses = [*self.trackers.losses(), *self.observer.losses(now_ns)]
        pieces = self.window.close(start, end, now_ns, taken, losses)
        assert self.window.counts["lost"] == 0  # nothing parsed has a value no column holds
        snapshot = json.loads(json.dumps(self.trackers.snapshot(), allow_nan=False))
        self.trackers = Trackers(CONFIG, now_ns)
        assert self.trackers.restore(snapshot, now_ns) == []
        return sum(piece.rows for piece in pieces)


@pytest.mark.parametrize("seed", range(6))
def test_mutated_packets_end_nothing(seed: int) -> None:
    source = random.Random(seed)
    pipeline, now, rows = Pipeline(), T0, 0
    for number in range(1_500):
        now += source.randrange(SECOND // 2)
        data, interface = good(source)
        if source.random() < 0.7:
            data = mutated(source, data)
        pipeline.frame(Frame(now, data, LINK_ETHERNET, interface, source.random() < 0.5))
        if number % 300 == 299:
            rows += pipeline.close(now)
    assert pipeline.events > 200
    assert rows > 20


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=200),
            st.sampled_from((LINK_ETHERNET, LINK_RAW)),
            st.sampled_from((1, 2, 3)),
            st.integers(-SECOND, 400 * SECOND),
        ),
        max_size=12,
    )
)
def test_any_bytes_at_any_time_end_nothing(frames: list[tuple[bytes, int, int, int]]) -> None:
    pipeline = Pipeline()
    for data, linktype, interface, at_ns in frames:
        pipeline.frame(Frame(T0 + at_ns, data, linktype, interface, False))
    pipeline.close(T0 + 500 * SECOND)
