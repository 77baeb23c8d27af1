"""Hosts in real captures, read by the parsers and compared with what other tools found.

The captures lie beside the project (their licences differ) and are not needed to build it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.utils import RawPcapNgReader, RawPcapReader

from collector.parse import dns, http, tls
from collector.parse.ip import UDP, Fragment, Packet, parse
from collector.parse.link import unwrap
from collector.parse.quic import QuicInitials
from collector.parse.reader import Incomplete, ParseError
from collector.track.fragments import FragmentTable
from collector.track.reassembly import StreamTable, flow_key
from collector.wire.addr import pack

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures"
FOLDERS = ("dns", "http", "tls", "quic", "mixed", "pppoe")
NAMES = sorted(
    str(path.relative_to(CAPTURES))
    for folder in FOLDERS
    for path in (CAPTURES / folder).glob("*.pcap*")
    if path.suffix in (".pcap", ".pcapng")
)
KNOWN_MISSES = {
    # The inner packet of a VXLAN tunnel: tunnels in UDP are not taken off.
    "http/zeek_vxlan-encapsulated-http.pcap": {("http", "eu.httpbin.org")},
}

Seen = tuple[str, bytes, bytes, str]
"""Protocol, client, server, host."""


def _frames(path: Path) -> Iterator[tuple[bytes, int]]:
    """The frames of a capture with their link types, without scapy's own dissection."""
    with RawPcapReader(str(path)) as reader:
        for data, metadata in reader:
            ng = isinstance(reader, RawPcapNgReader)
            yield data, metadata.linktype if ng else reader.linktype


class Observer:
    """The least that joins the parsers: enough to say who asked whom for which host."""

    def __init__(self) -> None:
        self.seen: set[Seen] = set()
        self.broken = 0
        self._fragments = FragmentTable()
        self._streams = StreamTable()
        self._quic = QuicInitials()
        self._tcp_dns: dict[tuple[bytes, bytes, int, int], tuple[int, bytes]] = {}

    def frame(self, ts_ns: int, data: bytes, linktype: int) -> None:
        try:
            inside = unwrap(data, linktype)
            found = parse(ts_ns, *inside) if inside else None
            if isinstance(found, Fragment):
                found = self._fragments.add(found, ts_ns)
            if found is not None:
                self._packet(found)
        except ParseError:
            self.broken += 1

    def _packet(self, packet: Packet) -> None:
        if packet.sport == 53:
            self._dns(packet)
        elif packet.proto == UDP:
            hello = self._quic.datagram(packet)
            if hello is not None:
                self._add("quic", packet, hello.host)
        else:
            self._stream(packet)

    def _dns(self, packet: Packet) -> None:
        messages = [packet.payload]
        if packet.proto != UDP:
            key = flow_key(packet)
            expected, rest = self._tcp_dns.get(key, (packet.seq, b""))
            if packet.seq != expected or not packet.payload:
                return
            messages, rest = dns.split_tcp(rest + packet.payload)
            self._tcp_dns[key] = (packet.seq + len(packet.payload), rest)
        for message in messages:
            answer = dns.parse_answer(message)
            if answer is not None:
                self.seen.add(("dns", packet.dst, packet.src, answer.host))

    def _stream(self, packet: Packet) -> None:
        stream = self._streams.feed(packet, packet.ts_ns)
        if stream is None:
            return
        key = flow_key(packet)
        try:
            if http.looks_like_request(stream):
                evidence, outcome = "http", http.parse_request_host(stream)
            else:
                hello = tls.parse_client_hello(stream)
                evidence = "tls"
                outcome = hello if isinstance(hello, Incomplete) else hello.host
        except ParseError:
            self._streams.finish(key)
            raise
        if isinstance(outcome, Incomplete):
            self._streams.expect(key, outcome.need)
        else:
            self._streams.finish(key)
            self._add(evidence, packet, outcome)

    def _add(self, evidence: str, packet: Packet, host: str) -> None:
        if host:
            self.seen.add((evidence, packet.src, packet.dst, host))


def _expected(path: Path) -> tuple[set[Seen], set[Seen]]:
    """What must be found, and what may be."""
    required: set[Seen] = set()
    allowed: set[Seen] = set()
    for line in path.with_name(path.name + ".expected.jsonl").read_text().splitlines():
        row = json.loads(line)
        # A server name with a port in it is recorded without: hosts have no ports here.
        host = row["host"].lower().rstrip(".").strip("[]")
        if ":" in host and host.rpartition(":")[2].isdigit() and host.count(":") == 1:
            host = host.rpartition(":")[0]
        seen = (row["proto"], pack(row["client"]), pack(row["server"]), host)
        allowed.add(seen)
        if row["required"]:
            required.add(seen)
    return required, allowed


@pytest.mark.skipif(not NAMES, reason="the captures beside the project are not here")
@pytest.mark.parametrize("name", NAMES)
def test_hosts_of_a_capture(name: str) -> None:
    observer = Observer()
    for number, (data, linktype) in enumerate(_frames(CAPTURES / name)):
        observer.frame(number * 1_000_000, data, linktype)
    required, allowed = _expected(CAPTURES / name)
    missed = {(seen[0], seen[3]) for seen in required - observer.seen}
    assert missed == KNOWN_MISSES.get(name, set())
    assert observer.seen <= allowed
