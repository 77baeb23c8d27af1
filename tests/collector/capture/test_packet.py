"""The packet socket in real network namespaces: a subscriber, and a router that serves it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rrset
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from collector.capture.packet import CaptureUnavailable, PacketConfig, PacketSource, Slots
from collector.parse.link import LINK_ETHERNET, LINK_RAW, Frame
from collector.parse.sip import SipEvent
from collector.track.hosts import HostSeen, Resolution
from collector.track.observer import Event, Observer, ObserverConfig, Ports
from collector.wire.addr import pack

CLONE_NEWNET = 0x40000000
ROUTER, CLIENT = "10.77.0.1", "10.77.0.2"
ROUTER6, CLIENT6 = "fd77::1", "fd77::2"
NUMBERS = itertools.count()
LIBC = ctypes.CDLL(None, use_errno=True)


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread in a namespace; sockets opened there stay there."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as other:
        assert LIBC.setns(other.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert LIBC.setns(home.fileno(), CLONE_NEWNET) == 0


class Lab:
    """Two namespaces and a veth pair: `acc` of the router is the access interface."""

    def __init__(self) -> None:
        tag = f"th{os.getpid()}x{next(NUMBERS)}"
        self.router, self.client = f"{tag}r", f"{tag}c"

    def up(self) -> None:
        for name in (self.router, self.client):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        self.connect()

    def connect(self) -> None:
        """Makes the veth pair and its addresses; segments keep the size they have on a wire."""
        sh("ip", "-n", self.router, "link", "add", "acc", "type", "veth", "peer", "name", "wan")
        sh("ip", "-n", self.router, "link", "set", "wan", "netns", self.client)
        for name, link, address, address6 in (
            (self.router, "acc", ROUTER, ROUTER6),
            (self.client, "wan", CLIENT, CLIENT6),
        ):
            sh("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            sh("ip", "-n", name, "address", "add", f"{address6}/64", "dev", link, "nodad")
            off = ("gro", "off", "gso", "off", "tso", "off")
            sh("ip", "netns", "exec", name, "ethtool", "-K", link, *off)
            sh("ip", "-n", name, "link", "set", link, "up")

    def down(self) -> None:
        for name in (self.router, self.client):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        made.up()
        yield made
    finally:
        made.down()


@contextlib.contextmanager
def capturing(lab: Lab, config: PacketConfig | None = None) -> Iterator[PacketSource]:
    source = PacketSource(config or PacketConfig("acc"), time.time_ns)
    with inside(lab.router):
        source.start()
    try:
        yield source
    finally:
        source.stop()


def collect(source: PacketSource, first_s: float = 10.0) -> list[Frame]:
    """Frames until none came for a while; the first may take `first_s` on a busy machine."""
    found: list[Frame] = []
    while select.select([source.fileno()], [], [], 0.3 if found else first_s)[0]:
        found += source.read(1000)
        first_s = 0.3
    return found


def observe(source: PacketSource, frames: list[Frame]) -> tuple[list[Event], Observer]:
    roles = {source.interface_index: frozenset(("access",))}
    observer = Observer(ObserverConfig(roles))  # type: ignore[arg-type]
    return [event for frame in frames for event in observer.frame(frame)], observer


def serve_tcp(namespace: str, port: int, answer: Callable[[bytes], bytes]) -> socket.socket:
    """A server of one connection: it answers the first bytes and swallows the rest."""
    with inside(namespace):
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def run() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer(connection.recv(65_536)))
                while connection.recv(1 << 20):
                    pass

    threading.Thread(target=run, daemon=True).start()
    return listener


def connect(namespace: str, address: str, port: int) -> socket.socket:
    with inside(namespace):
        return socket.create_connection((address, port), timeout=5)


def client_hello(host: str, protocols: int = 1) -> bytes:
    """A ClientHello by OpenSSL; many protocol names make it as long as wanted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([f"protocol-number-{i:04}" for i in range(protocols)])
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def dns_answer(query: bytes) -> bytes:
    asked = dns.message.from_wire(query)
    answer = dns.message.make_response(asked)
    question = asked.question[0]
    kind, data = ("A", "192.0.2.9") if question.rdtype == 1 else ("AAAA", "2001:db8::9")
    answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, data))
    return answer.to_wire()


@pytest.mark.lab
def test_dns_answers_of_both_transports_leave_the_router(lab: Lab) -> None:
    with inside(lab.router):
        server = socket.socket(type=socket.SOCK_DGRAM)
        server.bind((ROUTER, 53))
    with inside(lab.client):
        client = socket.socket(type=socket.SOCK_DGRAM)
    listener = serve_tcp(
        lab.router,
        53,
        lambda data: struct.pack(">H", len(dns_answer(data[2:]))) + dns_answer(data[2:]),
    )
    before = time.time_ns()
    with capturing(lab) as source, server, client, listener:
        client.sendto(dns.message.make_query("WWW.Example.Com.", "A").to_wire(), (ROUTER, 53))
        query, peer = server.recvfrom(4096)
        server.sendto(dns_answer(query), peer)
        with connect(lab.client, ROUTER6, 53) as stream:
            wire = dns.message.make_query("six.example", "AAAA").to_wire()
            stream.sendall(struct.pack(">H", len(wire)) + wire)
            assert stream.recv(4096)
        frames = collect(source)
        events, observer = observe(source, frames)
    assert [(frame.outgoing, frame.linktype) for frame in frames] == [(True, LINK_ETHERNET)] * 2
    assert all(before < frame.ts_ns < time.time_ns() for frame in frames)
    stamps = [frame.ts_ns for frame in frames]
    udp = Resolution(stamps[0], pack(CLIENT), pack(ROUTER), "www.example.com", (pack("192.0.2.9"),))
    tcp = Resolution(stamps[1], pack(CLIENT6), pack(ROUTER6), "six.example", (pack("2001:db8::9"),))
    assert events == [udp, tcp]
    assert observer.counts["dns"]["seen"] == observer.counts["dns"]["recorded"] == 2


@pytest.mark.lab
@pytest.mark.parametrize("address", [ROUTER, ROUTER6])
def test_hellos_requests_and_initials_name_hosts(lab: Lab, address: str) -> None:
    short, long = client_hello("short.example"), client_hello("long.example", 100)
    assert len(short) < 700 < 1448 < len(long) < 2700
    sockets = []
    with capturing(lab) as source:
        for port, data in (
            (443, short),
            (8443, short),
            (80, b"GET /secret HTTP/1.1\r\nHost: Plain.Example:80\r\n\r\n"),
        ):
            sockets.append(serve_tcp(lab.router, port, lambda data: b"answer"))
            sockets.append(connect(lab.client, address, port))
            sockets[-1].sendall(data)
            assert sockets[-1].recv(100)
        sockets[0].close()
        sockets.append(serve_tcp(lab.router, 443, lambda data: b"answer"))
        sockets.append(connect(lab.client, address, 443))
        sockets[-1].sendall(long)
        assert sockets[-1].recv(100)
        with inside(lab.client):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            quic_socket = socket.socket(family, socket.SOCK_DGRAM)
        connection = QuicConnection(
            configuration=QuicConfiguration(server_name="quic.example", alpn_protocols=["h3"])
        )
        connection.connect((address, 443), now=0.0)
        for datagram, _ in connection.datagrams_to_send(now=0.0):
            quic_socket.sendto(datagram, (address, 443))
        sockets.append(quic_socket)
        frames = collect(source)
        events, observer = observe(source, frames)
    for each in sockets:
        each.close()
    named = [event for event in events if isinstance(event, HostSeen)]
    assert [(event.evidence, event.host, event.server_port) for event in named] == [
        ("tls", "short.example", 443),
        ("tls", "short.example", 8443),
        ("http", "plain.example", 80),
        ("tls", "long.example", 443),
        ("quic", "quic.example", 443),
    ]
    assert {event.server for event in named} == {pack(address)}
    assert {event.client for event in named} == {pack(CLIENT6 if ":" in address else CLIENT)}
    # The long hello took a start and a tail; nothing else came up.
    assert len(frames) == 6
    assert observer.counts["streams"]["open"] == 0


@pytest.mark.lab
def test_fragments_are_put_together_before_ports_are_looked_at(lab: Lab) -> None:
    head = (
        b"INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.0.2;branch=z9hG4bKa\r\n"
        b"From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: c1\r\n"
        b"CSeq: 1 INVITE\r\n"
    )
    message = head + b"X-Pad: " + b"x" * 4000 + b"\r\nContent-Length: 0\r\n\r\n"
    with inside(lab.client):
        senders = [socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)]
    with capturing(lab) as source:
        for sender, address in zip(senders, (ROUTER, ROUTER6), strict=True):
            sender.sendto(message, (address, 5060))
            sender.close()
        frames = collect(source)
        events, observer = observe(source, frames)
    assert len(frames) == 6
    assert [event.call_id for event in events if isinstance(event, SipEvent)] == ["c1", "c1"]
    assert observer.counts["fragments"]["recorded"] == 6


@pytest.mark.lab
def test_bulk_stays_in_the_kernel(lab: Lab) -> None:
    """An upload of 32 MiB of random records: only ends of writes may come up (docs: bpf.py)."""
    size = 32 * 2**20
    record = b"\x17\x03\x03\x40\x00" + os.urandom(16_384)
    listener = serve_tcp(lab.router, 443, lambda data: b"")
    with capturing(lab) as source, listener, connect(lab.client, ROUTER, 443) as stream:
        sent = 0
        frames: list[Frame] = []
        while sent < size:
            stream.sendall(record)
            sent += len(record)
            frames += source.read(1000)
        frames += collect(source)
        losses = source.losses(time.time_ns())
        events, _ = observe(source, frames)
    segments = size / 1448
    assert len(frames) / segments < 0.1
    assert (events, losses) == ([], [])
    assert source.counts["seen"] == source.counts["recorded"] == len(frames)


@pytest.mark.lab
def test_drops_are_counted_and_told(lab: Lab) -> None:
    config = PacketConfig("acc", receive_bytes=65_536)
    with inside(lab.client):
        sender = socket.socket(type=socket.SOCK_DGRAM)
    with capturing(lab, config) as source, sender:
        start = time.time_ns()
        for _ in range(1000):
            sender.sendto(b"x" * 500, (ROUTER, 5060))
        frames = collect(source)
        (loss,) = source.losses(time.time_ns())
        assert source.losses(time.time_ns()) == []
    assert 0 < len(frames) < 1000
    assert source.counts["seen"] == 1000 == len(frames) + loss.amount
    assert source.counts["lost"] == loss.amount
    assert (loss.stage, loss.reason, loss.unit) == ("capture", "kernel-drop", "packets")
    assert loss.scope == "interface:acc"
    assert loss.start_ns <= start < loss.end_ns


@pytest.mark.lab
def test_an_interface_goes_down_and_comes_back(lab: Lab) -> None:
    with capturing(lab) as source:
        sh("ip", "-n", lab.router, "link", "set", "acc", "down")
        assert collect(source, first_s=0.3) == []
        assert source.losses(time.time_ns()) == []
        assert source.counts["downs"] == 1
        sh("ip", "-n", lab.router, "link", "set", "acc", "up")
        (loss,) = source.losses(time.time_ns())
        assert (loss.reason, loss.amount) == ("interface-down", 0)
        assert source.counts["reopened"] == 1
        send_sip(lab)
        assert len(collect(source)) == 1


@pytest.mark.lab
def test_an_interface_vanishes_and_is_made_anew(lab: Lab) -> None:
    with capturing(lab) as source:
        first, descriptor = source.interface_index, source.fileno()
        sh("ip", "-n", lab.router, "link", "delete", "acc")
        assert collect(source, first_s=0.3) == []
        assert source.losses(time.time_ns()) == []
        assert source.interface_index == -1
        lab.connect()
        (loss,) = source.losses(time.time_ns())
        assert (loss.reason, loss.amount) == ("interface-gone", -1)
        assert 0 < loss.start_ns < loss.end_ns
        assert source.fileno() == descriptor
        assert source.interface_index not in (-1, first)
        send_sip(lab)
        (frame,) = collect(source)
        assert frame.interface == source.interface_index


def send_sip(lab: Lab) -> None:
    with inside(lab.client), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", (ROUTER, 5060))


@pytest.mark.lab
def test_loopback_shows_each_packet_once(lab: Lab) -> None:
    with capturing(lab, PacketConfig("lo")) as source:
        with inside(lab.router), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(3):
                sender.sendto(b"hello", ("127.0.0.1", 5060))
        frames = collect(source)
    assert [frame.outgoing for frame in frames] == [False] * 3


@pytest.mark.lab
def test_a_link_without_header_gives_raw_packets(lab: Lab) -> None:
    sh("ip", "-n", lab.router, "tuntap", "add", "tun7", "mode", "tun")
    sh("ip", "-n", lab.router, "address", "add", "10.78.0.1/24", "dev", "tun7")
    with inside(lab.router):
        tun = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun7", 0x1001))
        sh("ip", "-n", lab.router, "link", "set", "tun7", "up")
        with capturing(lab, PacketConfig("tun7")) as source:
            with inside(lab.router), socket.socket(type=socket.SOCK_DGRAM) as sender:
                sender.sendto(b"hello", ("10.78.0.2", 5060))
                sender.sendto(b"hello", ("10.78.0.2", 5999))  # nobody's port
            (frame,) = collect(source)
    finally:
        os.close(tun)
    assert (frame.linktype, frame.data[0], frame.outgoing) == (LINK_RAW, 0x45, True)


@pytest.mark.lab
def test_frames_longer_than_the_slot_are_cut_and_counted(lab: Lab) -> None:
    with capturing(lab, PacketConfig("acc", snaplen=128)) as source:
        with inside(lab.client), socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 1000, (ROUTER, 5060))
            sender.sendto(b"x", (ROUTER, 5060))
        frames = collect(source)
    assert [len(frame.data) for frame in frames] == [128, 43]
    assert source.counts["truncated"] == 1


@pytest.mark.lab
def test_sources_that_share_slots_do_not_mix_frames(lab: Lab) -> None:
    slots = Slots(2048)
    config = PacketConfig("acc", snaplen=2048)
    sources = [PacketSource(config, time.time_ns, slots) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for source in sources:
            with inside(lab.router):
                source.start()
            stack.callback(source.stop)
        with inside(lab.client), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for number in range(4):
                sender.sendto(bytes((number,)) * 100, (ROUTER, 5060))
        time.sleep(0.1)
        # In turns, so that each read overwrites what the other one's frames were copied from.
        turns = [[source.read(1)[0] for source in sources] for _ in range(4)]
    for frames in zip(*turns, strict=True):
        assert [frame.data[-1] for frame in frames] == [0, 1, 2, 3]
        assert all(frame.data[-100:] == frame.data[-1:] * 100 for frame in frames)
    with pytest.raises(ValueError, match="another snaplen"):
        PacketSource(PacketConfig("acc"), time.time_ns, slots)


@pytest.mark.lab
def test_without_the_capability_the_error_names_it() -> None:
    code = (
        "import sys, time; sys.path.insert(0, '.')\n"
        "from collector.capture.packet import *\n"
        "try: PacketSource(PacketConfig('lo'), time.time_ns).start()\n"
        "except CaptureUnavailable as error: print(error)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CAP_NET_RAW" in done.stdout
    assert "AmbientCapabilities" in done.stdout


@pytest.mark.lab
def test_start_and_stop(lab: Lab) -> None:
    source = PacketSource(PacketConfig("nowhere"), time.time_ns)
    with inside(lab.router), pytest.raises(CaptureUnavailable, match="no interface nowhere"):
        source.start()
    source = PacketSource(PacketConfig("acc"), time.time_ns)
    source.stop()
    with pytest.raises(RuntimeError, match="not started"):
        source.fileno()
    with inside(lab.router):
        source.start()
        with pytest.raises(RuntimeError, match="already"):
            source.start()
        assert source.receive_bytes >= 32 * 2**20
        assert source.read(10) == []
    source.stop()


@pytest.mark.parametrize(
    "change",
    [{"interface": ""}, {"interface": "x" * 16}, {"snaplen": 10}, {"receive_bytes": 1}],
)
def test_config_has_limits(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is|has"):
        PacketConfig(**{"interface": "acc", "ports": Ports(), **change})  # type: ignore[arg-type]
