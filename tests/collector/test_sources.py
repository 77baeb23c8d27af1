"""Packet sockets on interfaces that come and go."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

import collector.sources
from collector.capture.packet import CaptureUnavailable, PacketSource
from collector.sources import Sources
from collector.track.observer import Observer, ObserverConfig
from tests.collector.capture.netns_fixture import inside, namespace, run
from tests.collector.rig import config

pytestmark = pytest.mark.lab
NUMBERS = itertools.count()
CAP_NET_RAW = 13


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace(f"src{os.getpid() % 10_000}x{next(NUMBERS)}") as name, inside(name):
        yield name


class Lines:
    """Sources over veth pairs of one namespace, with a clock that a test sets."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.seconds = 0.0
        self.observer = Observer(ObserverConfig({}))
        settings = config(folder, more=more)
        self.sources = Sources(settings, self.observer, time.time_ns, lambda: self.seconds)

    def look(self) -> None:
        """The next look at the interfaces."""
        self.seconds += 6.0
        self.sources.refresh()

    def heard(self) -> int:
        """Frames that the observer had a role for, of those that wait."""
        deadline, heard = time.monotonic() + 10.0, 0
        while not heard and time.monotonic() < deadline:
            before = self.observer.counts["frames"]["recorded"]
            for frame in self.sources.read(512, self.sources.select(0.05, ())):
                self.observer.frame(frame)
            heard = self.observer.counts["frames"]["recorded"] - before
        return heard

    def reasons(self) -> list[tuple[str, str]]:
        return [(loss.reason, loss.scope) for loss in self.sources.losses(time.time_ns())]


@pytest.fixture
def lines(ns: str, tmp_path: Path) -> Iterator[Lines]:
    made = Lines(tmp_path)
    yield made
    made.sources.stop()


def add(name: str) -> None:
    run(*f"ip link add {name} type veth peer name p{name}".split())
    for device in (name, f"p{name}"):
        run(*f"ip link set {device} addrgenmode none up".split())


def send(name: str, frame: bytes = b"") -> None:
    """A frame towards the interface from its other end, by default a DNS answer."""
    payload = bytes(12)
    head = bytes.fromhex("450000280001000040110000cb007105") + bytes((10, 0, 0, 2))
    udp = (53).to_bytes(2, "big") + (4000).to_bytes(2, "big") + (20).to_bytes(2, "big") + bytes(2)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((f"p{name}", 0))
        sender.send(frame or b"\xff" * 6 + bytes(6) + b"\x08\x00" + head + udp + payload)


def test_tunnels_are_looked_into_where_only_the_operator_sends(lines: Lines) -> None:
    """A call in IPIP is heard on the control side; bulk in it, and a subscriber's, is not."""
    for name in ("acc0", "up0"):
        add(name)
    lines.look()
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    ends = IP(src="10.0.0.1", dst="10.0.0.2")
    tunnel = link / IP(src="203.0.113.1", dst="203.0.113.2") / ends
    call = tunnel / UDP(sport=5060, dport=5060) / b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"
    answer = link / ends / UDP(sport=53, dport=4000) / bytes(12)
    for frame in (tunnel / UDP(sport=5004, dport=5004) / bytes(1000), answer, call):
        send("up0", bytes(frame))
    send("acc0", bytes(call))
    send("acc0")
    deadline, heard = time.monotonic() + 30.0, 0
    counts = lines.observer.counts
    while not (counts["sip"]["seen"] and counts["dns"]["seen"]):  # what is sent last on each
        assert time.monotonic() < deadline, counts
        heard += lines.heard()
        counts = lines.observer.counts
    assert (heard, counts["tunnels"]["recorded"]) == (2, 1)


def test_interfaces_appear_and_vanish(lines: Lines) -> None:
    add("acc0")
    lines.look()
    assert lines.sources.captured == 1
    send("acc0")
    assert lines.heard() == 1
    add("acc1")
    add("other0")
    lines.look()
    assert lines.sources.captured == 2
    # Whoever passed before the socket was there was not heard, and that is told.
    assert lines.reasons() == [("interface-new", "interface:acc1")]
    send("acc1")
    assert lines.heard() == 1
    run("ip", "link", "del", "acc0")
    lines.look()
    assert lines.sources.captured == 1
    counts = lines.sources.counts
    assert counts["recorded"] == 2
    assert counts["seen"] == sum(counts[name] for name in ("recorded", "ignored", "lost", "open"))


def test_one_that_comes_again_between_two_looks_keeps_its_role(lines: Lines) -> None:
    add("acc0")
    lines.look()
    run("ip", "link", "del", "acc0")
    list(lines.sources.read(8, lines.sources.select(10.0, ())))
    add("acc0")
    assert ("interface-gone", "interface:acc0") in lines.reasons()  # it is bound anew by now
    send("acc0")
    assert lines.heard() == 1
    lines.look()
    assert lines.sources.captured == 1
    send("acc0")
    assert lines.heard() == 1


def test_one_that_vanished_longer_is_opened_again(lines: Lines) -> None:
    add("acc0")
    lines.look()
    run("ip", "link", "del", "acc0")
    lines.look()
    assert lines.sources.captured == 0
    add("acc0")
    lines.look()
    send("acc0")
    assert lines.heard() == 1


def test_too_many_are_told_and_not_opened(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collector.sources, "MAX_SOURCES", 2)
    for number in range(4):
        add(f"acc{number}")
    lines.look()
    lines.look()
    assert (lines.sources.captured, lines.sources.refused) == (2, 2)
    (loss,) = lines.sources.unheard(10, 20)
    assert (loss.start_ns, loss.end_ns, loss.amount) == (10, 20, -1)
    assert caplog.text.count("more than 2 interfaces match") == 1
    run("ip", "link", "del", "acc0")
    lines.look()
    assert (lines.sources.captured, lines.sources.refused) == (2, 1)


def test_one_that_cannot_be_read_is_told_and_spares_the_others(lines: Lines) -> None:
    add("acc0")
    add("accx")
    real = PacketSource.start

    def start(source: PacketSource) -> None:
        if source._config.interface == "accx":
            raise CaptureUnavailable(93, "interface accx is of a kind that cannot be read (801)")
        real(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PacketSource, "start", start)
        lines.look()
    assert (lines.sources.captured, lines.sources.refused) == (1, 1)
    lines.look()
    assert (lines.sources.captured, lines.sources.refused) == (2, 0)


def test_all_buffers_together_stay_within_their_bound(ns: str, tmp_path: Path) -> None:
    lines = Lines(tmp_path, more="[limits]\npacket_buffers_bytes = 8388608")
    for number in range(4):
        add(f"acc{number}")
    lines.look()
    sizes = [opened.source.receive_bytes for opened in lines.sources._open.values()]
    assert sizes == [2 * 2097152] * 4  # the kernel doubles what it is asked for
    for number in range(3):
        run("ip", "link", "del", f"acc{number}")
    lines.look()
    (last,) = lines.sources._open.values()
    assert last.source.receive_bytes == 2 * 8388608
    lines.sources.stop()
    lines.sources.stop()


def test_no_match_is_said_once(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    lines.look()
    lines.look()
    assert caplog.text.count("no interface matches access.interfaces") == 1
    assert lines.sources.unheard(1, 2) == []


def test_a_socket_that_fails_is_opened_again(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    add("acc0")
    lines.look()
    (opened,) = lines.sources._open.values()

    def fail(now_ns: int) -> None:
        raise CaptureUnavailable(1, "it came back with another link type")

    monkeypatch.setattr(opened.source, "losses", fail)
    assert ("interface-gone", "interface:acc0") in lines.reasons()
    assert lines.sources.captured == 0
    lines.sources.refresh()  # at once
    send("acc0")
    assert lines.heard() == 1


def test_without_the_capability_nothing_starts(lines: Lines) -> None:
    add("acc0")
    caught: list[BaseException] = []

    def unprivileged() -> None:
        drop(CAP_NET_RAW)
        try:
            lines.look()
        except CaptureUnavailable as error:
            caught.append(error)

    with_less = threading.Thread(target=unprivileged)
    with_less.start()
    with_less.join()
    assert "CAP_NET_RAW" in str(caught[0])


def drop(capability: int) -> None:
    """Take a capability from this thread, as capset(2) does."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    word = 3 * (capability // 32)
    sets[word] &= ~(1 << capability % 32)
    assert libc.capset(header, sets) == 0


def test_only_sockets_that_are_ready_are_read_and_a_wake_ends_the_wait(lines: Lines) -> None:
    add("acc0")
    lines.look()
    lines.sources.wake()
    assert lines.sources.select(3600.0, ())
    send("acc0")
    ready = lines.sources.select(10.0, ())
    assert list(lines.sources.read(8, set())) == []
    assert len(list(lines.sources.read(8, ready))) == 1
    lines.sources.stop()
    lines.sources.wake()  # a signal may come late


def test_what_else_is_waited_for_may_change(lines: Lines) -> None:
    one, two = os.eventfd(1), os.eventfd(1)
    try:
        assert lines.sources.select(10.0, (one, two)) == {one, two}
        assert lines.sources.select(10.0, (two,)) == {two}
        assert lines.sources.select(10.0, (one, two)) == {one, two}
        assert lines.sources.select(0.0, ()) == set()
    finally:
        os.close(one)
        os.close(two)
