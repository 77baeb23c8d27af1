"""Routing: from frames to events by role and port, and a balance of every stage's counters."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import RawPcapReader

from collector.parse.lease import Lease
from collector.parse.link import LINK_ETHERNET, Frame
from collector.parse.radius import Accounting, AccountingAck
from collector.parse.sip import SipEvent
from collector.track import followers
from collector.track.hosts import HostSeen, Resolution
from collector.track.observer import Event, Observer, ObserverConfig
from collector.wire.addr import pack, unpack
from tests.collector.parse.test_dhcp import ack

ACCESS, CONTROL, BOTH = 1, 2, 3
ROLES: Any = {
    ACCESS: frozenset(("access",)),
    CONTROL: frozenset(("control",)),
    BOTH: frozenset(("access", "control")),
}
CLIENT, SERVER = "10.0.0.2", "192.0.2.1"
SECRET = b"secret"
SECOND = 10**9
T0 = 1_700_000_000 * SECOND
CAPTURES = Path(__file__).parents[4] / "shared/data/captures"


def observer() -> Observer:
    return Observer(ObserverConfig(ROLES, secrets={pack(CLIENT): SECRET}))


def give(
    watcher: Observer, *packets: Packet | bytes, interface: int = ACCESS, at: float = 0
) -> list[Event]:
    events: list[Event] = []
    for packet in packets:
        data = bytes(packet)
        ts_ns = T0 + int(at * 10**9)
        events += watcher.frame(Frame(ts_ns, data, LINK_ETHERNET, interface, False))
    balanced(watcher)
    return events


def balanced(watcher: Observer) -> None:
    for stage, counts in watcher.counts.items():
        total = counts["recorded"] + counts["ignored"] + counts["lost"] + counts["open"]
        assert counts["seen"] == total, (stage, counts)
        assert counts.get("malformed", 0) <= counts["ignored"]


def udp(payload: bytes, sport: int, dport: int, src: str = CLIENT, dst: str = SERVER) -> Packet:
    return Ether() / IP(src=src, dst=dst) / UDP(sport=sport, dport=dport) / payload


def tcp(
    payload: bytes, dport: int, seq: int = 1, sport: int = 40000, flags: str = "PA", **ends: str
) -> Packet:
    ip = IP(**{"src": CLIENT, "dst": SERVER, **ends})
    return Ether() / ip / TCP(sport=sport, dport=dport, seq=seq, flags=flags) / payload


def hello(host: str | None, protocols: int = 1) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols([f"protocol-number-{i:04}" for i in range(protocols)])
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def answer(host: str, *addresses: str) -> bytes:
    records = [DNSRR(rrname=host, type="A", rdata=address) for address in addresses]
    message = DNS(id=1, qr=1, qd=DNSQR(qname=host), an=records)
    return bytes(message)


def invite(call: str) -> bytes:
    return (
        f"INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {CLIENT};branch=z9hG4bK{call}\r\n"
        f"From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: {call}\r\n"
        "CSeq: 1 INVITE\r\nContent-Length: 8\r\n\r\nv=body\r\n"
    ).encode()


def accounting(secret: bytes = SECRET) -> bytes:
    attributes = b"\x28\x06\x00\x00\x00\x01" + b"\x2c\x04s1"
    head = struct.pack(">BBH", 4, 9, 20 + len(attributes))
    digest = hashlib.md5(head + bytes(16) + attributes + secret, usedforsecurity=False).digest()
    return head + digest + attributes


GET = b"GET /secret-path?q=1 HTTP/1.1\r\nHost: Plain.Example:80\r\nCookie: c=1\r\n\r\n"


def test_each_protocol_gives_its_event() -> None:
    watcher = observer()
    client, server = pack(CLIENT), pack(SERVER)
    assert give(watcher, tcp(hello("A.Example"), 443)) == [
        HostSeen(T0, "tls", client, server, 6, 40000, 443, "a.example", False)
    ]
    assert give(watcher, tcp(GET, 80)) == [
        HostSeen(T0, "http", client, server, 6, 40000, 80, "plain.example", False)
    ]
    reply = udp(answer("b.example.", "192.0.2.7", "192.0.2.8"), 53, 5060, SERVER, CLIENT)
    assert give(watcher, reply) == [
        Resolution(T0, client, server, "b.example", (pack("192.0.2.7"), pack("192.0.2.8")))
    ]
    (call,) = give(watcher, udp(invite("c1"), 5060, 5060))
    assert isinstance(call, SipEvent)
    assert call.call_id == "c1"


def test_a_quic_hello_over_two_datagrams() -> None:
    watcher = observer()
    configuration = QuicConfiguration(server_name="q.example", alpn_protocols=["x" * 200] * 6)
    connection = QuicConnection(configuration=configuration)
    connection.connect((SERVER, 443), now=0.0)
    datagrams = [data for data, _ in connection.datagrams_to_send(now=0.0)]
    assert len(datagrams) >= 2
    events = give(watcher, *(udp(data, 40000, 443) for data in datagrams))
    assert events == [
        HostSeen(T0, "quic", pack(CLIENT), pack(SERVER), 17, 40000, 443, "q.example", False)
    ]
    assert watcher.counts["initials"]["recorded"] == len(datagrams)


def test_roles_decide_what_is_read() -> None:
    watcher = observer()
    packets = (
        tcp(hello("a.example"), 443),
        udp(answer("b.example."), 53, 40000),
        udp(accounting(), 40000, 1813),
        udp(invite("c"), 5060, 5060),
        udp(b"\x01" * 300, 68, 67),
    )
    kinds = [[type(e) for e in give(observer(), *packets, interface=i)] for i in (1, 2, 3, 4)]
    assert kinds == [
        [HostSeen, Resolution, SipEvent],
        [Accounting, SipEvent],
        [HostSeen, Resolution, Accounting, SipEvent],
        [],
    ]
    assert give(watcher, *packets, interface=9) == []
    assert watcher.counts["frames"]["ignored.interface"] == len(packets)
    watcher.assign(9, frozenset(("control",)))
    assert len(give(watcher, *packets, interface=9)) == 2
    watcher.assign(9, frozenset())
    assert give(watcher, *packets, interface=9) == []


def test_radius_is_verified_and_answers_are_events() -> None:
    watcher = observer()
    (good,) = give(watcher, udp(accounting(), 40000, 1813), interface=CONTROL)
    (bad,) = give(watcher, udp(accounting(b"other"), 40000, 1813), interface=CONTROL)
    assert isinstance(good, Accounting)
    assert isinstance(bad, Accounting)
    assert (good.verified, bad.verified) == ("verified", "bad")
    response = udp(struct.pack(">BBH", 5, 9, 20) + bytes(16), 1813, 40000, SERVER, CLIENT)
    (ack,) = give(watcher, response, interface=CONTROL)
    assert isinstance(ack, AccountingAck)
    access = udp(struct.pack(">BBH", 1, 9, 20) + bytes(16), 40000, 1812)
    assert give(watcher, access, udp(b"\x04", 40000, 1813), interface=CONTROL) == []
    counts = watcher.counts["radius"]
    assert (counts["ignored.request"], counts["malformed"]) == (1, 1)
    assert "secret" not in repr(ObserverConfig({}, secrets={b"": SECRET}))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 536])
def test_a_hello_cut_anywhere_in_any_order(size: int) -> None:
    data = hello("long.example", 20)
    first, rest = data[:600], data[600:]
    tails = [(601 + at, rest[at : at + size]) for at in range(0, len(rest), size)]
    for swapped in (False, True):
        watcher = observer()
        order = tails[:2][::-1] + tails[2:] if swapped else tails
        pieces = [tcp(first, 443), *(tcp(piece, 443, seq) for seq, piece in order)]
        events = give(watcher, *pieces)
        assert [e.host for e in events if isinstance(e, HostSeen)] == ["long.example"]
        assert watcher.counts["streams"]["open"] == 0


def test_requests_on_a_kept_connection() -> None:
    watcher = observer()
    second = b"GET / HTTP/1.1\r\nHost: second.example\r\n\r\n"
    body = b"x" * 500
    events = give(
        watcher,
        tcp(GET, 80, 1),
        tcp(body, 80, 1 + len(GET)),
        tcp(second, 80, 501 + len(GET)),
        tcp(second, 80, 501 + len(GET)),
    )
    assert [e.host for e in events if isinstance(e, HostSeen)] == [
        "plain.example",
        "second.example",
    ]


def test_a_whole_hello_to_another_port_counts() -> None:
    watcher = observer()
    assert len(give(watcher, tcp(hello("a.example"), 9999))) == 1
    assert give(watcher, tcp(hello("a.example", 100)[:1000], 9998)) == []
    assert give(watcher, tcp(GET, 9997)) == []
    assert watcher.counts["tls"]["ignored.unlisted-port"] == 1
    assert watcher.counts["packets"]["ignored.no-route"] == 1


def test_no_name_is_no_event() -> None:
    watcher = observer()
    assert give(watcher, tcp(hello(None), 443), tcp(b"GET / HTTP/1.0\r\n\r\n", 80)) == []
    assert watcher.counts["tls"]["ignored.no-name"] == 1
    assert watcher.counts["http"]["ignored.no-name"] == 1


def test_dns_and_sip_over_tcp_follow_the_stream() -> None:
    messages = [answer(f"h{i}.example.", "192.0.2.1") for i in range(5)]
    stream = b"".join(struct.pack(">H", len(m)) + m for m in messages)
    for size in (1, 3, 50, len(stream)):
        watcher = observer()
        events = give(
            watcher,
            *(
                tcp(stream[at : at + size], 40000, 1 + at, 53, src=SERVER, dst=CLIENT)
                for at in range(0, len(stream), size)
            ),
        )
        hosts = [e.host for e in events if isinstance(e, Resolution)]
        assert hosts == [f"h{i}.example" for i in range(5)]
    stream = b"\r\n\r\n" + b"".join(invite(f"c{i}") for i in range(5))
    for size in (1, 7, 300, len(stream)):
        watcher = observer()
        pieces = [tcp(stream[at : at + size], 5060, 1 + at) for at in range(0, len(stream), size)]
        if len(pieces) > 4:
            pieces[1:4] = [pieces[3], pieces[1], pieces[1], pieces[2]]
        events = give(watcher, *pieces)
        assert [e.call_id for e in events if isinstance(e, SipEvent)] == [f"c{i}" for i in range(5)]


def test_a_gap_in_sip_breaks_one_message_and_is_told() -> None:
    watcher = observer()
    stream = b"".join(invite(f"c{i}") for i in range(30))
    pieces = [tcp(stream[at : at + 200], 5060, 1 + at) for at in range(0, len(stream), 200)]
    events = give(watcher, *pieces[:2], *pieces[3:])
    found = [e.call_id for e in events if isinstance(e, SipEvent)]
    assert set(found) >= {f"c{i}" for i in (0, 1, *range(4, 30))}
    assert len(found) < 30
    losses = watcher.losses(T0)
    assert [(loss.reason, loss.classes) for loss in losses] == [("sip-cut", ("call",))]
    assert watcher.losses(T0) == []


def test_a_new_connection_on_the_same_ports_is_followed() -> None:
    watcher = observer()
    half = invite("c0")[:50]
    events = give(
        watcher,
        tcp(half, 5060, 1000),
        tcp(invite("c1"), 5060, 3_000_000_000),
        tcp(b"", 5060, 7, flags="S"),
        tcp(invite("c2"), 5060, 8),
    )
    assert [e.call_id for e in events if isinstance(e, SipEvent)] == ["c1", "c2"]
    assert watcher.counts["sip"]["lost"] == 1


def test_followed_connections_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "MAX_FOLLOWED", 3)
    watcher = observer()
    half = invite("c")[:50]
    give(watcher, *(tcp(half, 5060, sport=1000 + i) for i in range(5)))
    counts = watcher.counts
    assert (counts["sip-segments"]["evicted"], counts["sip"]["lost"]) == (2, 2)
    watcher.tick(T0 + followers.FOLLOW_IDLE_NS)
    assert len(watcher._sip_tcp._table) == 3
    watcher.tick(T0 + followers.FOLLOW_IDLE_NS + 1)
    assert len(watcher._sip_tcp._table) == 0
    balanced(watcher)


def test_what_waits_for_a_lost_segment_is_given_after_three_seconds() -> None:
    """A BYE behind a segment that nobody captured: no other may ever follow it."""
    watcher = observer()
    whole = invite("c1")
    (begun,) = give(watcher, tcp(whole, 5060, 1000))
    assert begun is not None
    lost = 1000 + len(whole) + 300
    bye = invite("c1").replace(b"INVITE", b"BYE")
    assert give(watcher, tcp(bye, 5060, lost)) == []
    assert watcher.counts["sip-segments"]["open"] == 1
    at = begun.ts_ns
    assert watcher.tick(at + 2 * SECOND) == []
    (event,) = watcher.tick(at + 60 * SECOND)
    assert isinstance(event, SipEvent) and event.method == "BYE"
    assert event.ts_ns < at + SECOND, "the time is that of its own segment"
    assert watcher.tick(at + 70 * SECOND) == []
    assert [loss.reason for loss in watcher.losses(2)] == ["sip-cut"]
    balanced(watcher)


def test_encrypted_signalling_is_counted_as_blind_and_is_a_gap_of_calls() -> None:
    watcher = observer()
    record = b"\x17\x03\x03\x00\x30" + bytes(range(48))
    (seen,) = give(watcher, tcp(hello("sip.example"), 5060))
    assert isinstance(seen, HostSeen) and seen.host == "sip.example"
    # What follows is of the same connection, whatever bytes it begins with.
    give(watcher, tcp(record[:20], 5060, 600), tcp(record[20:], 5060, 620))
    assert watcher.counts["sip"]["ignored.blind"] == 3
    (loss,) = watcher.losses(2)
    assert (loss.reason, loss.amount, loss.classes) == ("sip-encrypted", 3, ("call",))
    assert watcher.losses(3) == []
    balanced(watcher)


@pytest.mark.parametrize(
    "data",
    [b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n"]
    + [bytes((kind, 3, 3, 0, 9)) + bytes(9) for kind in range(20, 24)],
)
def test_unreadable_connections_are_known_by_their_first_record(data: bytes) -> None:
    watcher = observer()
    assert give(watcher, tcp(data, 5060), tcp(b"\x82\xfe\0\0masked", 5060, 1 + len(data))) == []
    assert watcher.counts["sip"]["ignored.blind"] == 2
    # A new connection on the same ports is read again.
    give(watcher, tcp(b"", 5060, 7, flags="S"))
    assert len(give(watcher, tcp(invite("c1"), 5060, 8))) == 1
    assert watcher.counts["sip"]["ignored.blind"] == 2


def test_fragments_of_both_families_and_a_lost_one() -> None:
    watcher = observer()
    message = invite("c1").replace(b"\r\nCSeq", b"\r\nX: " + b"x" * 3000 + b"\r\nCSeq")
    pieces = fragment(IP(src=CLIENT, dst=SERVER, id=3) / UDP(sport=5060, dport=5060) / message)
    events = give(watcher, *(Ether() / piece for piece in reversed(pieces)))
    assert [type(event) for event in events] == [SipEvent]
    again = fragment(IP(src=CLIENT, dst=SERVER, id=4) / UDP(sport=5060, dport=5060) / message)
    give(watcher, Ether() / again[0])
    give(watcher, Ether() / pieces[0], at=3600)
    (loss,) = watcher.losses(T0 + 3600 * 10**9)
    assert (loss.reason, loss.amount) == ("fragment-incomplete", 1)


def test_what_is_not_read_is_counted_by_rule() -> None:
    watcher = observer()
    packets = (
        Ether() / ARP(),
        Ether() / IP(src=CLIENT, dst=SERVER) / ICMP(),
        bytes(tcp(GET, 80))[:30],
        b"",
        udp(bytes(DNS(id=1, qd=DNSQR(qname="a.example"))), 53, 53),
        udp(b"\x00\x01\x80", 53, 40000),
        udp(b"\x01" * 300, 68, 67),
        udp(b"\x00" * 20, 5060, 5060),
        tcp(b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c" + b"\xff" * 60, 443),
    )
    assert give(watcher, *packets) == []
    counts = watcher.counts
    assert counts["frames"]["ignored.not-ip"] == 1
    assert counts["frames"]["malformed"] == 2
    assert counts["packets"]["ignored.no-route"] == 1
    assert (counts["dns"]["ignored.no-answer"], counts["dns"]["malformed"]) == (1, 1)
    assert counts["dhcp"]["ignored.no-lease"] == 1
    assert counts["sip"]["ignored.not-sip"] == 1
    assert counts["tls"]["malformed"] == 1


def test_nothing_past_the_host_is_in_an_event() -> None:
    events = give(observer(), tcp(GET, 80), Ether() / Dot1Q() / tcp(GET, 80, sport=2).payload)
    events += give(observer(), udp(invite("c1"), 5060, 5060))
    text = repr(events)
    assert len(events) == 3
    for secret in ("secret-path", "Cookie", "c=1", "v=body"):
        assert secret not in text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_frames_never_raise(data: st.DataObject) -> None:
    watcher = observer()
    seeds = [
        tcp(hello("a.example"), 443),
        tcp(GET, 80),
        udp(answer("b.example.", "192.0.2.7"), 53, 40000),
        udp(invite("c"), 5060, 5060),
        udp(accounting(), 40000, 1813),
        tcp(invite("d"), 5060),
        tcp(struct.pack(">H", 40) + answer("b.example."), 40000, 1, 53),
        Ether() / IPv6() / TCP(sport=1, dport=443) / hello("a.example"),
    ]
    for _ in range(6):
        frame = bytearray(bytes(data.draw(st.sampled_from(seeds))))
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=6)
        ):
            frame[at] = value
        give(watcher, bytes(frame[: data.draw(st.integers(0, len(frame)))]), interface=BOTH)


WITHHELD = {
    # VXLAN is a tunnel of the customer's and is not opened.
    "zeek_vxlan-encapsulated-http.pcap",
}


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="captures are not beside the repository")
@pytest.mark.parametrize("folder", ["dns", "http", "tls", "quic", "mixed", "pppoe"])
def test_captures(folder: str) -> None:
    """Every required host of the captures, and none that no oracle saw."""
    for path in sorted((CAPTURES / folder).glob("*.pcap")):
        found = observe_capture(path)
        lines = [
            json.loads(line)
            for line in path.with_name(path.name + ".expected.jsonl").read_text().splitlines()
        ]
        # Port numbers are no part of a host here, though some clients put them into SNI.
        known = {(e["proto"], e["client"], e["server"], bare(e["host"])) for e in lines}
        needed = {
            (e["proto"], e["client"], e["server"], bare(e["host"]))
            for e in lines
            if e.get("required", True)
        }
        if path.name not in WITHHELD:
            assert needed <= found, path.name
        assert found <= known, path.name


def bare(host: str) -> str:
    name, _, port = host.lower().rpartition(":")
    return (name if port.isdigit() and ":" not in name else host.lower()).strip("[].")


def observe_capture(path: Path) -> set[tuple[str, str, str, str]]:
    watcher = observer()
    found: set[tuple[str, str, str, str]] = set()
    reader = RawPcapReader(str(path))
    for data, about in reader:
        ts_ns = about.sec * 10**9 + about.usec * 1000
        for event in watcher.frame(Frame(ts_ns, data, reader.linktype, BOTH, False)):
            if isinstance(event, HostSeen | Resolution):
                kind = event.evidence if isinstance(event, HostSeen) else "dns"
                found.add((kind, unpack(event.client), unpack(event.server), event.host))
    reader.close()
    balanced(watcher)
    return found


def test_dhcp_answers_are_believed_from_where_only_the_operator_sends() -> None:
    message = ack(("relay_agent_information", b"\x01\x03olt"))
    answer = udp(message, 67, 68, SERVER, CLIENT)
    watcher = observer()
    assert give(watcher, answer, interface=ACCESS) == []
    assert watcher.counts["dhcp"]["ignored.not-from-the-operator"] == 1
    (lease,) = give(watcher, answer, interface=CONTROL)
    assert isinstance(lease, Lease)
    assert lease.names == ("olt",)
    sent = Frame(T0, bytes(answer), LINK_ETHERNET, ACCESS, outgoing=True)
    assert len(watcher.frame(sent)) == 1
    release = dhcp_message("release", ciaddr="100.64.0.7")
    (over,) = give(watcher, udp(release, 68, 67), interface=ACCESS)
    assert isinstance(over, Lease)
    assert (over.kind, over.names) == ("RELEASE", ())


def dhcp_message(kind: str, **fields: object) -> bytes:
    values = {"op": 1, "chaddr": bytes.fromhex("020000000007")} | fields
    return bytes(BOOTP(**values) / DHCP(options=[("message-type", kind), "end"]))


def test_lines_are_read_for_dhcp_and_pppoe_alone() -> None:
    watcher = Observer(ObserverConfig({9: frozenset({"lines"})}))
    assert give(watcher, udp(accounting(), 40000, 1813), tcp(GET, 80), interface=9) == []
    assert watcher.counts["radius"]["seen"] == watcher.counts["http"]["seen"] == 0
    sent = Frame(T0, bytes(udp(ack(), 67, 68, SERVER, CLIENT)), LINK_ETHERNET, 9, outgoing=True)
    assert len(watcher.frame(sent)) == 1
