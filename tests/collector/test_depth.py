"""Hosts in traffic as it comes: each case is a capture, replayed, and exactly the hosts in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import dns.message
import dns.rrset
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet

from collector.parse.link import LINK_ETHERNET, Frame
from collector.replay import ReplayConfig, observations
from tests.collector.parse.helpers import client_hello, many_protocols

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
CLIENT, SERVER, RESOLVER = "10.0.0.2", "192.0.2.1", "192.0.2.53"
CLIENT6, SERVER6 = "2001:db8::2", "2001:db8:1::1"
Seen = set[tuple[str, str]]
T0 = 1_700_000_000 * 10**9


def seen(packets: Iterable[Packet | bytes]) -> Seen:
    """(protocol, host) of what a replay observes; every end is the client's or the server's."""
    frames = [
        Frame(T0 + number * 1_000_000, bytes(packet), LINK_ETHERNET, 1, False)
        for number, packet in enumerate(packets)
    ]
    found = list(observations(frames, ReplayConfig()))
    assert all(line["client"] in (CLIENT, CLIENT6) for line in found)
    assert all(line["server"] in (SERVER, SERVER6, RESOLVER) for line in found)
    return {(line["proto"], line["host"]) for line in found}


def tcp(payload: bytes, dport: int, seq: int = 1, flags: str = "PA", sport: int = 4000) -> Packet:
    ends = IP(src=CLIENT, dst=SERVER)
    return ETHER / ends / TCP(sport=sport, dport=dport, seq=seq, flags=flags) / payload


def udp(payload: bytes, dport: int, sport: int = 4000) -> Packet:
    return ETHER / IP(src=CLIENT, dst=SERVER) / UDP(sport=sport, dport=dport) / payload


def segments(stream: bytes, size: int, dport: int = 443, seq: int = 1000) -> list[Packet]:
    return [
        tcp(stream[at : at + size], dport, (seq + at) % 2**32) for at in range(0, len(stream), size)
    ]


def _absolute(name: str) -> str:
    return name if name[-1] in ".0123456789" else f"{name}."


def altered(data: bytes) -> bytes:
    """With one bit of what is encrypted flipped."""
    return data[:300] + bytes([data[300] ^ 1]) + data[301:]


def answer(host: str, rdtype: str = "A", *values: str, edns: bool = False, **more: Any) -> bytes:
    query = dns.message.make_query(host, rdtype, use_edns=edns)
    reply = dns.message.make_response(query)
    if values:
        reply.answer.append(dns.rrset.from_text(_absolute(host), 60, "IN", rdtype, *values))
    for name, kind, value in more.get("chain", ()):
        reply.answer.append(dns.rrset.from_text(_absolute(name), 60, "IN", kind, _absolute(value)))
    return reply.to_wire()


def resolved(message: bytes, sport: int = 53) -> Packet:
    ends = IP(src=RESOLVER, dst=CLIENT)
    return ETHER / ends / UDP(sport=sport, dport=40000) / message


def resolved_tcp(stream: bytes, size: int) -> list[Packet]:
    ends = IP(src=RESOLVER, dst=CLIENT)
    return [
        ETHER / ends / TCP(sport=53, dport=40000, seq=1 + at, flags="A") / stream[at : at + size]
        for at in range(0, len(stream), size)
    ]


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


LONG_ANSWER = answer("a.example", "TXT", *[f"{i:0200}" for i in range(9)])
HELLO = client_hello("tls.example")
BIG = client_hello("pq.example", many_protocols(110))
"""As long as hellos with post-quantum shares are, and longer than a segment."""
assert len(BIG) > 2000


def records(size: int) -> bytes:
    """The hello in records of their own."""
    body = HELLO[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in pieces)


def overlapping(stream: bytes, size: int, overlap: int) -> list[Packet]:
    return [
        tcp(stream[max(at - overlap, 0) : at + size], 443, 1000 + max(at - overlap, 0))
        for at in range(0, len(stream), size)
    ]


def shuffled(packets: list[Packet], seed: int) -> list[Packet]:
    """In another order, after a SYN, as nothing else says which comes first."""
    random.Random(seed).shuffle(packets)
    return [tcp(b"", 443, 999, "S"), *packets]


def get(host: str, target: str = "/", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def quic(host: str, version: int = QuicProtocolVersion.VERSION_1, alpn: int = 1) -> list[bytes]:
    """aioquic's first flight."""
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            server_name=host,
            alpn_protocols=list(many_protocols(alpn)),
            supported_versions=[version],
            original_version=version,
        )
    )
    client.connect((SERVER, 443), now=0.0)
    return [data for data, _ in client.datagrams_to_send(now=0.0)]


V6 = ETHER / IPv6(src=CLIENT6, dst=SERVER6)
TCP6 = TCP(sport=4000, dport=443, seq=1, flags="PA")
LATE_BODY = b"POST / HTTP/1.1\r\nHost: post.example\r\nContent-Length: 40\r\n\r\n"
CHAIN = [
    ("www.example", "CNAME", "a.cdn.example"),
    ("a.cdn.example", "CNAME", "b.cdn.example"),
    ("b.cdn.example", "A", SERVER),
]

CASES: dict[str, tuple[Callable[[], Iterable[Packet]], Seen]] = {
    # DNS
    "dns": (lambda: [resolved(answer("a.example", "A", SERVER))], {("dns", "a.example")}),
    "dns mixed case": (lambda: [resolved(answer("wWw.ExAmPlE."))], {("dns", "www.example")}),
    "dns edns": (lambda: [resolved(answer("a.example", edns=True))], {("dns", "a.example")}),
    "dns chain": (lambda: [resolved(answer("www.example", chain=CHAIN))], {("dns", "www.example")}),
    "dns https record": (
        lambda: [resolved(answer("a.example", "HTTPS", "1 . alpn=h3 ipv4hint=192.0.2.9"))],
        {("dns", "a.example")},
    ),
    "dns fragments": (
        lambda: fragment(resolved(LONG_ANSWER), 400),
        {("dns", "a.example")},
    ),
    "dns over tcp, cut anywhere": (
        lambda: resolved_tcp(framed(*map(answer, ("a.example", "b.example", "c.example"))), 7),
        {("dns", "a.example"), ("dns", "b.example"), ("dns", "c.example")},
    ),
    "dns from the middle": (
        lambda: [*resolved_tcp(framed(answer("a.example")), 99), resolved(answer("b.example"))][1:],
        {("dns", "b.example")},
    ),
    # TLS
    "tls": (lambda: [tcp(HELLO, 443)], {("tls", "tls.example")}),
    "tls on any port": (lambda: segments(BIG, 1400, 12345), {("tls", "pq.example")}),
    "tls after starttls": (
        lambda: [tcp(b"EHLO me\r\n", 587), tcp(b"STARTTLS\r\n", 587, 10), tcp(HELLO, 587, 20)],
        {("tls", "tls.example")},
    ),
    "tls in small segments": (lambda: segments(BIG, 150), {("tls", "pq.example")}),
    "tls reversed": (
        lambda: [tcp(b"", 443, 999, "S"), *reversed(segments(BIG, 700))],
        {("tls", "pq.example")},
    ),
    "tls twice each": (
        lambda: [each for each in segments(BIG, 700) for _ in range(2)],
        {("tls", "pq.example")},
    ),
    "tls overlapping": (lambda: overlapping(BIG, 500, 40), {("tls", "pq.example")}),
    "tls shuffled": (lambda: shuffled(segments(BIG, 300), 1), {("tls", "pq.example")}),
    "tls across the wrap": (
        lambda: segments(BIG, 500, seq=2**32 - 700),
        {("tls", "pq.example")},
    ),
    "tls in many records": (lambda: [tcp(records(16), 443)], {("tls", "tls.example")}),
    "tls in records and segments": (lambda: segments(records(16), 13), {("tls", "tls.example")}),
    "tls with data on the SYN": (
        lambda: [tcp(HELLO[:100], 443, 999, "S"), tcp(HELLO[100:], 443, 1100)],
        {("tls", "tls.example")},
    ),
    "tls in IP fragments": (lambda: fragment(tcp(BIG, 443), 600), {("tls", "pq.example")}),
    "tls upper case": (lambda: [tcp(client_hello("Tls.EXAMPLE"), 443)], {("tls", "tls.example")}),
    # HTTP
    "http": (lambda: [tcp(get("http.example"), 80)], {("http", "http.example")}),
    "http on 8080": (lambda: [tcp(get("http.example:8080"), 8080)], {("http", "http.example")}),
    "http in single bytes": (
        lambda: [tcp(b"", 80, 999, "S"), *segments(get("http.example"), 1, 80)],
        {("http", "http.example")},
    ),
    "http pipelined in one segment": (
        lambda: [tcp(get("a.example") + get("b.example") + get("c.example"), 80)],
        {("http", "a.example"), ("http", "b.example"), ("http", "c.example")},
    ),
    "http pipelined and split": (
        lambda: segments(get("a.example") + get("b.example") + get("c.example"), 50, 80),
        {("http", "a.example"), ("http", "b.example"), ("http", "c.example")},
    ),
    "http after a body": (
        lambda: [tcp(LATE_BODY + b"x" * 40 + get("b.example"), 80)],
        {("http", "post.example"), ("http", "b.example")},
    ),
    "http absolute form": (
        lambda: [tcp(get("abs.example", "http://user:secret@abs.example:8080/p?q"), 3128)],
        {("http", "abs.example")},
    ),
    "http connect": (
        lambda: [
            tcp(b"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n", 3128),
            tcp(HELLO, 3128, 500),
        ],
        {("http", "far.example"), ("tls", "tls.example")},
    ),
    "http literals": (
        lambda: [tcp(get("[2001:DB8::1]:80"), 80), tcp(get("192.0.2.80"), 80, sport=4001)],
        {("http", "[2001:db8::1]"), ("http", "192.0.2.80")},
    ),
    "http bare line feeds": (
        lambda: [tcp(b"GET / HTTP/1.0\nHOST:\tlf.example \n\n", 80)],
        {("http", "lf.example")},
    ),
    "http of WebDAV": (
        lambda: [tcp(b"PROPFIND /x HTTP/1.1\r\nHost: dav.example\r\n\r\n", 80)],
        {("http", "dav.example")},
    ),
    # QUIC
    "quic": (lambda: [udp(each, 443) for each in quic("quic.example")], {("quic", "quic.example")}),
    "quic 2": (
        lambda: [udp(each, 443) for each in quic("quic.example", QuicProtocolVersion.VERSION_2)],
        {("quic", "quic.example")},
    ),
    "quic on any port": (
        lambda: [udp(each, 4433) for each in quic("quic.example")],
        {("quic", "quic.example")},
    ),
    "quic in several datagrams": (
        lambda: [udp(each, 443) for each in quic("big.example", alpn=110)],
        {("quic", "big.example")},
    ),
    "quic reversed": (
        lambda: [udp(each, 443) for each in reversed(quic("big.example", alpn=110))],
        {("quic", "big.example")},
    ),
    # What carries it
    "vlan": (lambda: [ETHER / Dot1Q(vlan=3) / tcp(HELLO, 443)[IP]], {("tls", "tls.example")}),
    "qinq and pppoe": (
        lambda: [ETHER / Dot1AD() / Dot1Q(vlan=4) / PPPoE() / PPP() / tcp(HELLO, 443)[IP]],
        {("tls", "tls.example")},
    ),
    "ipv6": (lambda: [V6 / TCP6 / HELLO], {("tls", "tls.example")}),
    "ipv6 extension headers": (
        lambda: [V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP6 / HELLO],
        {("tls", "tls.example")},
    ),
    "ipv6 fragments": (
        lambda: fragment6(V6 / IPv6ExtHdrFragment(id=7) / TCP6 / BIG, 700),
        {("tls", "pq.example")},
    ),
    "ethernet padding": (
        lambda: [bytes(tcp(HELLO, 443)) + bytes(18)],
        {("tls", "tls.example")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_hosts_of_a_capture(name: str) -> None:
    packets, expected = CASES[name]
    assert seen(packets()) == expected


NEGATIVES: dict[str, Callable[[], Iterable[Packet | bytes]]] = {
    "no server name": lambda: [tcp(client_hello(None), 443)],
    "half a hello": lambda: [tcp(HELLO[:100], 443)],
    "a hole": lambda: segments(BIG, 700)[::2],
    "no host header": lambda: [tcp(b"GET / HTTP/1.0\r\nUser-Agent: x\r\n\r\n", 80)],
    "host elsewhere": lambda: [tcp(b"GET / HTTP/1.0\r\nX: y\r\n\r\nHost: no.example\r\n", 80)],
    "host in a header": lambda: [tcp(b"GET / HTTP/1.0\r\nX-Host: no.example\r\n\r\n", 80)],
    "request in a body": lambda: [
        tcp(LATE_BODY.replace(b"Host: post.example\r\n", b""), 80),
        tcp(get("no.example")[:40], 80, 1 + len(LATE_BODY) - 20),
    ],
    "response": lambda: [tcp(b"HTTP/1.1 200 OK\r\nHost: no.example\r\n\r\n", 80)],
    "smtp": lambda: [tcp(b"EHLO mail.example\r\nSTARTTLS\r\n", 25)],
    "rtsp": lambda: [tcp(b"SETUP rtsp://no.example/1 RTSP/1.0\r\nHost: no.example\r\n\r\n", 554)],
    "sip": lambda: [tcp(b"OPTIONS sip:no.example SIP/2.0\r\nHost: no.example\r\n\r\n", 5060)],
    "icap": lambda: [tcp(b"REQMOD icap://no.example/x ICAP/1.0\r\nHost: no.example\r\n\r\n", 1344)],
    "ssdp": lambda: [udp(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n", 1900)],
    "query": lambda: [udp(dns.message.make_query("no.example", "A").to_wire(), 53)],
    "mdns": lambda: [resolved(answer("no.local", "A", SERVER), sport=5353)],
    "llmnr": lambda: [resolved(answer("no", "A", SERVER), sport=5355)],
    "nbns": lambda: [resolved(answer("no", "A", SERVER), sport=137)],
    "server hello": lambda: [tcp(HELLO.replace(b"\x01", b"\x02", 2), 443)],
    "datagram tls": lambda: [udp(b"\x16\xfe\xfd" + bytes(8) + HELLO[3:], 443)],
    "quic altered": lambda: [udp(altered(each), 443) for each in quic("no.example")],
    "quic version negotiation": lambda: [udp(b"\xc3" + bytes(4) + quic("no.example")[0][5:], 443)],
    "no name": lambda: [tcp(get("exa mple"), 80), tcp(get("a..example"), 80, sport=4001)],
    "cut by snaplen": lambda: [bytes(tcp(HELLO, 443))[:96], bytes(tcp(get("no.example"), 80))[:60]],
    "overlapping IP fragments": lambda: [
        *fragment(tcp(HELLO, 443), 200)[:1], *fragment(tcp(HELLO, 443), 104)[1:]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NEGATIVES)
def test_no_host_where_there_is_none(name: str) -> None:
    assert seen(NEGATIVES[name]()) == set()
