"""The same generated traffic read by other people's programs: they and we must say the same.

tshark reads a capture whole, dnspython, dpkt and scapy message by message, aioquic opens Initials.
Where an oracle is known to differ, the traffic leaves that out, and says why.
"""

from __future__ import annotations

import random
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import dpkt
import pytest
from aioquic._buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion, pull_quic_header
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet
from scapy.utils import PcapWriter

from collector.capture.replay import frames
from collector.parse import ip, link, tls
from collector.parse.dns import MAX_CHAIN, parse_answer
from collector.parse.http import parse_request_host
from collector.parse.quic_packet import ClientKeys, crypto_pieces, initials
from collector.replay import ReplayConfig, observations
from collector.wire.addr import pack, unpack
from tests.collector.parse.helpers import client_hello, many_protocols
from tests.collector.test_depth import quic

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # scapy asks the network otherwise
LABEL = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
ADDRESS4 = st.integers(1, 2**32 - 2).map(lambda n: str(dns.inet.inet_ntop(2, n.to_bytes(4, "big"))))
ADDRESS6 = st.integers(2**125, 2**126).map(lambda n: unpack(n.to_bytes(16, "big")))


# --- dnspython and dpkt: answers ----------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    NAME,
    st.lists(NAME, max_size=4, unique_by=str.lower),
    st.lists(ADDRESS4, max_size=4, unique=True),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_answers_as_dnspython_and_dpkt_read_them(
    asked: str, aliases: list[str], addresses: list[str], edns: bool, source: random.Random
) -> None:
    chain = [asked, *(each for each in aliases if each.lower() != asked.lower())]
    reply = dns.message.make_response(dns.message.make_query(f"{asked}.", "A", use_edns=edns))
    sets = [
        dns.rrset.from_text(f"{owner}.", 60, "IN", "CNAME", f"{target}.")
        for owner, target in zip(chain, chain[1:], strict=False)
    ]
    if addresses:
        sets.append(dns.rrset.from_text(f"{chain[-1]}.", 60, "IN", "A", *addresses))
    sets.append(dns.rrset.from_text("stranger.example.", 60, "IN", "A", "203.0.113.9"))
    source.shuffle(sets)  # a server may write them in any order
    reply.answer += sets
    wire = reply.to_wire()

    ours = parse_answer(wire)
    assert ours is not None and len(chain) <= MAX_CHAIN
    theirs: Any = dns.message.from_wire(wire)
    followed = theirs.resolve_chaining()
    assert ours.host == str(theirs.question[0].name).rstrip(".").lower()
    found = sorted(record.address for record in followed.answer or ())
    assert sorted(map(unpack, ours.addresses)) == found
    other: Any = dpkt.dns.DNS(wire)
    assert (ours.id, ours.host) == (other.id, other.qd[0].name.lower())
    assert ours.rcode == other.rcode and ours.qtype == other.qd[0].type


# --- dpkt and scapy: packets --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([4, 6]),
    st.sampled_from([TCP, UDP]),
    st.integers(1, 65_535),
    st.integers(1, 65_535),
    st.binary(max_size=64),
    st.integers(0, 2),
    st.integers(0, 18),
)
def test_packets_as_dpkt_and_scapy_read_them(
    family: int, upper: Any, sport: int, dport: int, payload: bytes, tags: int, padding: int
) -> None:
    made = ETHER.copy()
    for tag in range(tags):
        made /= Dot1AD(vlan=tag) if tag + 1 < tags else Dot1Q(vlan=tag)
    made /= IP(src="10.0.0.2", dst="192.0.2.1") if family == 4 else IPv6(src="::2", dst="::3")
    wire = bytes(made / upper(sport=sport, dport=dport) / payload) + bytes(padding)
    found = link.unwrap(wire, link.LINK_ETHERNET)
    assert found is not None
    ours = ip.parse(1, *found)
    assert isinstance(ours, ip.Packet)
    theirs: Any = dpkt.ethernet.Ethernet(wire).data
    assert (ours.sport, ours.dport) == (theirs.data.sport, theirs.data.dport)
    assert ours.payload == theirs.data.data
    scapys = Ether(wire)[upper]
    assert ours.proto == (6 if upper is TCP else 17)
    assert ours.seq == (scapys.seq if upper is TCP else 0)
    size = 4 if family == 4 else 16
    assert ours.src[-size:] == theirs.src[-size:] and ours.dst[-size:] == theirs.dst[-size:]


# --- dpkt: requests and hellos ------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    NAME,
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE"]),
    st.text(string.ascii_letters + "/?=&%", max_size=40),
    st.dictionaries(LABEL, st.text(string.ascii_letters + " ;=:", max_size=30), max_size=5),
)
def test_requests_as_dpkt_reads_them(
    host: str, method: str, path: str, headers: dict[str, str]
) -> None:
    lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() != "host"]
    safe = [line for line in lines if not line.lower().startswith(("content-", "transfer-"))]
    head = "\r\n".join([f"{method} /{path} HTTP/1.1", *safe, f"Host: {host}", "", ""]).encode()
    theirs: Any = dpkt.http.Request(head)
    assert parse_request_host(head) == theirs.headers["host"].lower()


def test_hellos_as_dpkt_reads_them() -> None:
    source = random.Random(1)
    for number in range(60):
        host = f"h{number}.{'x' * source.randrange(1, 40)}.example"
        wire = client_hello(host, many_protocols(source.randrange(1, 40)))
        ours = tls.parse_client_hello(wire)
        assert isinstance(ours, tls.ClientHello) and ours.host == host
        record: Any = dpkt.ssl.TLSRecord(wire)
        extensions = dict(dpkt.ssl.TLSHandshake(record.data).data.extensions)
        assert extensions[0][5:].decode() == host
        assert len(ours.alpn) == min(len(_strings(extensions[16][2:])), 16)


def _strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        found.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return found


# --- aioquic: Initials --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
@pytest.mark.parametrize("alpn", [1, 40, 110])
def test_initials_as_aioquic_opens_them(version: QuicProtocolVersion, alpn: int) -> None:
    for wire in quic("q.example", version, alpn):
        (initial,) = initials(wire)
        header = pull_quic_header(Buffer(data=wire), host_cid_length=8)
        server = CryptoPair()
        server.setup_initial(cid=header.destination_cid, is_client=False, version=version)
        _, plain, _ = server.decrypt_packet(wire[: initial.end], initial.number_at, 0)
        ours = ClientKeys(initial.version, initial.dcid).open(wire, initial)
        assert ours == plain and crypto_pieces(plain)


# --- tshark: a capture --------------------------------------------------------------------------

CLIENTS = [(f"10.0.0.{n}", f"2001:db8::{n:x}") for n in range(2, 40)]
SERVERS = [(f"192.0.2.{n}", f"2001:db8:1::{n:x}") for n in range(1, 20)]
Seen = set[tuple[str, str, str, str]]
FIELDS = (
    "frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "dns.flags.response",
    "dns.qry.name", "http.host", "tls.handshake.extensions_server_name",
)  # fmt: skip


def conversation(number: int, source: random.Random) -> Iterator[Packet]:
    """One of a client with a server: its host has the number in it."""
    client, server = source.choice(CLIENTS), source.choice(SERVERS)
    wide = source.random() < 0.4
    host, port = f"h{number}.example", 10_000 + number

    def out(upper: Packet) -> Packet:
        ends = {"src": client[wide], "dst": server[wide]}
        inner = (IPv6(**ends) if wide else IP(**ends, id=number)) / upper
        if wide and source.random() < 0.3:
            inner = (
                IPv6(**ends) / source.choice([IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()]) / upper
            )
        outer = source.choice(
            [ETHER, ETHER / Dot1Q(vlan=7), ETHER / Dot1AD(vlan=8) / Dot1Q(vlan=7)]
        )
        if source.random() < 0.2:
            outer = outer / PPPoE(sessionid=7) / PPP(proto=0x57 if wide else 0x21)
        return outer / inner

    def pieces(stream: bytes, dport: int) -> Iterator[Packet]:
        yield out(TCP(sport=port, dport=dport, seq=999, flags="S"))
        size = source.choice([90, 300, 700, 1400])
        for at in range(0, len(stream), size):
            segment = TCP(sport=port, dport=dport, seq=1000 + at, ack=1, flags="PA")
            yield out(segment / stream[at : at + size])

    kind = source.choice(["dns", "tls", "http", "quic", "dns-fragments"])
    if kind == "tls":
        yield from pieces(client_hello(host, many_protocols(source.randrange(1, 110))), 443)
    elif kind == "http":
        yield from pieces(
            f"GET /{'x' * source.randrange(200)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), 80
        )
    elif kind == "quic":
        version = source.choice([QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
        for data in quic(host, version):
            yield out(UDP(sport=port, dport=443) / data)
    else:
        reply = dns.message.make_response(dns.message.make_query(f"{host}.", "A"))
        count = 3 if kind == "dns" else 60
        addresses = [f"198.51.100.{n + 1}" for n in range(count)]
        reply.answer.append(dns.rrset.from_text(f"{host}.", 60, "IN", "A", *addresses))
        ends = IP(src=server[0], dst=client[0], id=number)
        answer = ETHER / ends / UDP(sport=53, dport=port) / reply.to_wire(max_size=65_535)
        yield from fragment(answer, 400)


def by_tshark(path: Path) -> Seen:
    words = ["tshark", "-r", str(path), "-T", "fields", "-E", "occurrence=l"]
    for preference in ("tcp.reassemble_out_of_order:TRUE", "ip.defragment:TRUE"):
        words += ["-o", preference]
    for field in FIELDS:
        words += ["-e", field]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found: Seen = set()
    for line in done.stdout.splitlines():
        stack, src4, dst4, src6, dst6, response, query, http, sni = line.split("\t")
        src, dst = src4 or src6, dst4 or dst6
        if query and response in ("1", "True"):
            found.add(("dns", _text(dst), _text(src), query))
        if http:
            found.add(("http", _text(src), _text(dst), http))
        if sni:
            proto = "quic" if "quic" in stack.split(":") else "tls"
            found.add((proto, _text(src), _text(dst), sni))
    return found


def _text(address: str) -> str:
    return unpack(pack(address))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_capture_as_tshark_reads_it(tmp_path: Path, seed: int) -> None:
    """Conversations lie side by side; segments of one stay in order, as tshark 4.0 loses a stream
    whose beginning is overtaken."""
    source = random.Random(seed)
    queues = [list(conversation(number, source)) for number in range(150)]
    path = tmp_path / "day.pcap"
    with PcapWriter(str(path), linktype=1) as writer:
        now = 1_700_000_000.0
        while queues := [queue for queue in queues if queue]:
            packet = source.choice(queues).pop(0)
            now += 0.001
            packet.time = now
            writer.write(packet)
    ours = {
        (line["proto"], line["client"], line["server"], line["host"])
        for line in observations(frames([path]), ReplayConfig())
    }
    theirs = by_tshark(path)
    assert len(ours) == 150
    assert ours == theirs
