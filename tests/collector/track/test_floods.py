"""Floods: tables stay within their bounds, every unit has a counter, and what was known is kept.

Memory is traced (tracemalloc), so that a table that counted its entries right and held on to their
bytes would be found.
"""

from __future__ import annotations

import gc
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from collector.parse.ip import TCP, UDP, Fragment, Packet
from collector.parse.link import LINK_RAW, Frame
from collector.parse.quic import QuicInitials, QuicLimits
from collector.track.fragments import FragmentLimits, FragmentTable
from collector.track.host_events import HostSeen, Resolution
from collector.track.hosts import Hosts, HostsConfig
from collector.track.observer import Observer, ObserverConfig
from collector.track.reassembly import StreamLimits, StreamTable
from collector.wire.addr import MAPPED, pack
from tests.collector.parse.helpers import client_hello
from tests.fuzz.seeds import QUIC

SERVER = pack("192.0.2.1")
T0 = 1_700_000_000 * 10**9
ACCESS = ((pack("10.0.0.0"), 104),)
SPARE = 1.5
"""Python's own containers grow by half at most (listresize, dictresize) before they are trimmed."""
HELLO = client_hello("a.example")


def client(number: int) -> bytes:
    """One of 16 million."""
    return MAPPED + bytes((10,)) + number.to_bytes(3, "big")


def growth(flood: Callable[[int, int], None], size: int) -> tuple[int, int]:
    """Bytes that a flood of `size` units holds, and how many more three times as many hold."""
    gc.collect()
    tracemalloc.start()
    try:
        flood(0, size)
        gc.collect()
        first = tracemalloc.get_traced_memory()[0]
        flood(size, 4 * size)
        gc.collect()
        return first, tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()


def balanced(counts: dict[str, int], held: int = 0) -> None:
    total = counts["recorded"] + counts["ignored"] + counts["lost"]
    assert counts["seen"] == total + counts.get("open", held)


def packet(number: int, payload: bytes, flags: int = 0x18, proto: int = TCP) -> Packet:
    port = 1024 + number % 60_000
    return Packet(T0, client(number), SERVER, proto, port, 443, payload, 1, flags)


def test_half_open_hellos_are_bounded_and_counted() -> None:
    table = StreamTable(StreamLimits(flows=500, held_bytes=100_000))

    def flood(start: int, stop: int) -> None:
        for number in range(start, stop):
            table.feed(packet(number, HELLO[:200]), T0)

    held, more = growth(flood, 1_000)
    assert table.held_bytes <= 100_000 and len(table) <= 500
    assert more < held * (SPARE - 1)
    assert table.counts["evicted"] >= 3_500
    balanced(table.counts, table.open)
    # One that is whole is read in the middle of the flood.
    assert table.feed(packet(9_999, HELLO), T0) == HELLO


def test_a_flood_of_connection_attempts_costs_nobodys_bytes() -> None:
    table = StreamTable(StreamLimits(flows=500))
    half = packet(1, HELLO[:200])
    assert table.feed(half, T0) is not None

    def flood(start: int, stop: int) -> None:
        for number in range(start + 10, stop + 10):
            table.feed(packet(number, b"", flags=0x02), T0)

    held, more = growth(flood, 2_000)
    assert more < held * (SPARE - 1) + 1_000
    rest = Packet(T0, half.src, SERVER, TCP, half.sport, 443, HELLO[200:], 201, 0x18)
    assert table.feed(rest, T0) == HELLO


def test_segments_without_a_beginning_are_bounded() -> None:
    table = StreamTable(StreamLimits(held_bytes=200_000))

    def flood(start: int, stop: int) -> None:
        for number in range(start, stop):
            table.feed(packet(number, bytes(1200)), T0)

    held, more = growth(flood, 1_000)
    assert table.held_bytes <= 200_000 and more < held * (SPARE - 1)
    balanced(table.counts, table.open)


def test_fragments_without_an_end_are_bounded() -> None:
    table = FragmentTable(FragmentLimits(datagrams=300, held_bytes=100_000))

    def flood(start: int, stop: int) -> None:
        for number in range(start, stop):
            part = Fragment(T0, client(number), SERVER, UDP, number, 0, True, bytes(800))
            table.add(part, T0)

    held, more = growth(flood, 600)
    assert table.held_bytes <= 100_000 and len(table) <= 300 and more < held * (SPARE - 1)
    balanced(table.counts, table.open)


def test_initials_that_never_make_a_hello_are_bounded() -> None:
    first = QUIC[-2]  # the first of two datagrams of one hello
    table = QuicInitials(QuicLimits(connections=100, held_bytes=60_000))

    def flood(start: int, stop: int) -> None:
        for number in range(start, stop):
            assert table.datagram(packet(number, first, proto=UDP)) is None

    held, more = growth(flood, 200)
    assert table.held_bytes <= 60_000 and len(table) <= 100 and more < held * (SPARE - 1)
    assert table.counts["evicted"] > 600
    balanced(table.counts, table.open)


def names(start: int, stop: int, tracker: Hosts) -> None:
    for number in range(start, stop):
        tracker.seen(
            HostSeen(
                *(T0 + 1, "tls", client(number), SERVER, TCP, 1 + number % 60_000, 443),
                f"n{number}.example",
                False,
            )
        )


def answers(start: int, stop: int, tracker: Hosts) -> None:
    for number in range(start, stop):
        address = MAPPED + struct.pack(">I", number)
        name = f"n{number}.example"
        tracker.resolved(Resolution(T0 + number, client(number % 50), SERVER, name, (address,)))


@pytest.mark.parametrize(("flood", "stage"), [(names, "names"), (answers, "answers")])
def test_new_names_are_bounded_and_their_eviction_is_a_loss(
    flood: Callable[[int, int, Hosts], None], stage: str
) -> None:
    tracker = Hosts(HostsConfig(ACCESS, max_flows=1_000, max_answers=1_000, max_hosts=2_000))
    held, more = growth(lambda start, stop: flood(start, stop, tracker), 2_000)
    assert more < held * (SPARE - 1)
    rows = tracker.take(T0, T0 + 300 * 10**9, T0)["visit"]
    told = {loss.reason: loss.amount for loss in tracker.losses()}
    kept = len(rows["host"])
    if stage == "names":
        assert kept == 1_000 and told == {"name-table-full": 7_000}
    else:
        assert told == {"answer-table-full": 7_000}
    counts = dict(tracker.counts[stage])
    assert counts["evicted"] == 7_000
    balanced(counts)


def packets_of_all(number: int) -> Iterator[bytes]:
    """IP packets of everything that can be begun and left, from one more address."""
    source = client(number)[12:]

    def ip(proto: int, body: bytes, cut: int = 0) -> bytes:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), number % 65_536, cut, 64, proto, 0)
        return head + source + SERVER[12:] + body

    def tcp(port: int, flags: int, payload: bytes) -> bytes:
        return struct.pack(">HHIIBBHHH", 4_000, port, 1, 0, 0x50, flags, 0, 0, 0) + payload

    def udp(port: int, payload: bytes) -> bytes:
        return struct.pack(">HHHH", 4_000, port, 8 + len(payload), 0) + payload

    yield ip(TCP, tcp(443, 0x02, b""))
    yield ip(TCP, tcp(443, 0x18, HELLO[:300]))
    yield ip(TCP, tcp(80, 0x18, b"GET / HTTP/1.1\r\nX: " + b"y" * 300))
    yield ip(TCP, tcp(5060, 0x18, b"INVITE sip:a@b SIP/2.0\r\n" + b"X: y\r\n" * 40))
    yield ip(UDP, bytes(800), cut=0x2000)
    yield ip(UDP, udp(443, QUIC[-2]))


def test_a_flood_of_everything_at_once_leaves_every_stage_balanced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the service has it, with the tables' own limits divided by 256."""
    monkeypatch.setattr("collector.track.followers.MAX_FOLLOWED", 8)
    monkeypatch.setattr("collector.track.reassembly._MAX_EARLY_FLOWS", 16)
    watcher = Observer(ObserverConfig({1: frozenset(("access",))}))
    watcher._fragments = FragmentTable(FragmentLimits(datagrams=16, held_bytes=65_536))
    watcher._hosts.streams = StreamTable(StreamLimits(flows=256, held_bytes=2**18))
    watcher._hosts.initials = QuicInitials(QuicLimits(connections=64, held_bytes=2**18))

    def flood(start: int, stop: int) -> None:
        for number in range(start, stop):
            for data in packets_of_all(number):
                watcher.frame(Frame(T0 + number, data, LINK_RAW, 1, False))

    held, more = growth(flood, 400)
    assert more < held * (SPARE - 1)
    for counts in watcher.counts.values():
        balanced(counts)
    lost = {loss.reason: loss.amount for loss in watcher.losses(T0)}
    assert {"fragment-incomplete", "stream-incomplete", "quic-incomplete"} <= set(lost)
    assert all(amount > 500 for amount in lost.values())
