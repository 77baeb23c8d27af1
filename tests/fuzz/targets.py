"""Every parser as a function of bytes, with seeds: a parser may raise ParseError and nothing else.

What a parser gives must also be what its type promises, so that an answer made of bytes beyond its
end, or a text no column holds, is a finding too.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from collector.capture.pcapfile import Damaged, packets
from collector.parse import (
    conntrack,
    conntrack_walk,
    detail,
    dhcp,
    dhcpv6,
    dns,
    host,
    http,
    ip,
    link,
    pppoe,
    quic,
    quic_packet,
    radius,
    sip,
    sip_framer,
    tls,
    tunnel,
)
from collector.parse.ip import TCP, UDP, Packet
from collector.parse.link import IPV4, IPV6, Frame
from collector.parse.reader import Incomplete, ParseError
from collector.track.exporters import Exported, Exporters
from collector.track.observer import Observer, ObserverConfig
from tests.fuzz import seeds

LINKTYPES: Final = (1, 101, 0, 9, 12, 50, 51, 104, 105, 108, 113, 127, 192, 219, 239, 258, 274, 276)
T0: Final = 1_700_000_000 * 10**9
ADDRESS: Final = bytes(10) + b"\xff\xff\x0a\x00\x00\x02"
OTHER: Final = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes; it raises what a caller of the parser must not see."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _packet(data: bytes, proto: int = UDP, sport: int = 40_000, dport: int = 443) -> Packet:
    return Packet(T0, ADDRESS, OTHER, proto, sport, dport, data, 1, 0x18)


def _host(text: str) -> None:
    assert text == text.lower() and len(text) <= host.MAX_HOST_BYTES
    assert text.isascii() and text.isprintable() and not set(text) & set("/?#@ ")


def _link(data: bytes) -> None:
    linktype = LINKTYPES[data[0] % len(LINKTYPES)] if data else 1
    found = link.unwrap(data[1:], linktype)
    assert found is None or (found[0] in (IPV4, IPV6) and found[1] in data)


def _ip(data: bytes) -> None:
    for kind in (IPV4, IPV6):
        with contextlib.suppress(ParseError):
            found = ip.parse(T0, kind, data)
            assert found is None or len(found.src) == len(found.dst) == 16
            if isinstance(found, Packet):
                assert found.payload in data


def _tunnel(data: bytes) -> None:
    for port in (4789, 6081, 2152, 1701, 3544):
        tunnel.inner_udp(_packet(data, dport=port))
    for proto in (4, 41, 47):
        with contextlib.suppress(ParseError):
            tunnel.inner_ip(_packet(data, proto))


def _dns(data: bytes) -> None:
    answer = dns.parse_answer(data)
    if answer:
        _host(answer.host)
        assert all(len(address) == 16 for address in answer.addresses)


def _dns_tcp(data: bytes) -> None:
    messages, rest = dns.split_tcp(data)
    assert sum(len(message) + 2 for message in messages) + len(rest) == len(data)


def _hello(found: tls.ClientHello | Incomplete, size: int) -> None:
    if isinstance(found, Incomplete):
        assert found.need > size
    elif found.host:
        _host(found.host)


def _tls(data: bytes) -> None:
    tls.looks_like_client_hello(data)
    _hello(tls.parse_client_hello(data), len(data))


def _tls_handshake(data: bytes) -> None:
    _hello(tls.parse_handshake(data), len(data))


def _http(data: bytes) -> None:
    http.looks_like_request(data)
    assert http.request_end(data) >= 0
    found = http.parse_request_host(data)
    if isinstance(found, Incomplete):
        assert found.need > len(data)
    elif found:
        _host(found)


def _quic(data: bytes) -> None:
    table = quic.QuicInitials()
    with contextlib.suppress(ParseError):
        found = table.datagram(_packet(data))
        if found and found.host:
            _host(found.host)
    for each in quic_packet.initials(data):
        assert 0 <= each.start < each.number_at < each.end <= len(data)


def _quic_frames(data: bytes) -> None:
    for _, piece in quic_packet.crypto_pieces(data):
        assert piece in data


def _sip(data: bytes) -> None:
    for proto in (UDP, TCP):
        sip.parse(data, T0, ADDRESS, 5060, OTHER, 5060, proto)


def _sip_stream(data: bytes) -> None:
    framer = sip_framer.Framer()
    for at in range(0, len(data), 61):
        for message in framer.feed(data[at : at + 61]):
            with contextlib.suppress(ParseError):
                _sip(message)


def _radius(data: bytes) -> None:
    for sport, dport in ((40_000, 1813), (1813, 40_000)):
        with contextlib.suppress(ParseError):
            radius.parse(_packet(data, sport=sport, dport=dport), {ADDRESS: b"secret"})


def _conntrack(data: bytes) -> None:
    """The fast decoder takes what the walk takes, and counts the rest."""
    with contextlib.suppress(ParseError):
        conntrack_walk.walk(data)
    conntrack.Decoder().decode(conntrack.Messages.split(data))


def _name(data: bytes) -> None:
    _host(host.clean_host(data))


def _authority(data: bytes) -> None:
    _host(host.authority_host(data))


def _pppoe(data: bytes) -> None:
    pppoe.parse(T0, data, 1)


def _dhcp(data: bytes) -> None:
    dhcp.parse(T0, data)


def _dhcpv6(data: bytes) -> None:
    dhcpv6.parse(T0, data)


def _detail(data: bytes) -> None:
    detail.parse(data)


def _export(data: bytes) -> None:
    """Datagrams of two bytes of length each, from one exporter."""
    exporters, at = Exporters(), 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "big") % 2048
        event = Exported(T0 + at, ADDRESS, data[at + 2 : at + 2 + length])
        for rows in exporters.datagram(event):
            assert (rows["last_ns"] >= 0).all() and (rows["first_ns"] >= 0).all()
        at += 2 + length
    counts = exporters.counts
    assert counts["seen"] >= counts["ignored"] + counts["lost"]


def _pcap(data: bytes) -> None:
    with contextlib.suppress(Damaged):
        for found in packets(io.BytesIO(data)):
            assert found.data in data


def _observer(data: bytes) -> None:
    """Frames of two bytes of length each: all parsers behind their routing and reassembly."""
    watcher = Observer(ObserverConfig({1: frozenset(("access", "control"))}, unfiltered=True))
    at, now = 0, T0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "big") % 2048
        now += 1_000_000
        watcher.frame(Frame(now, data[at + 2 : at + 2 + length], 1, 1, False))
        at += 2 + length
    watcher.tick(now + 10**12)
    for stage, counts in watcher.counts.items():
        total = sum(counts[name] for name in ("recorded", "ignored", "lost", "open"))
        assert counts["seen"] == total, stage


TARGETS: Final[dict[str, Target]] = {
    "authority": Target(_authority, seeds.AUTHORITIES),
    "conntrack": Target(_conntrack, seeds.CONNTRACK),
    "detail": Target(_detail, seeds.DETAIL),
    "dhcp": Target(_dhcp, seeds.DHCP),
    "dhcpv6": Target(_dhcpv6, seeds.DHCPV6),
    "dns": Target(_dns, seeds.DNS),
    "dns-tcp": Target(_dns_tcp, seeds.DNS_TCP),
    "export": Target(_export, seeds.EXPORT),
    "host": Target(_name, seeds.NAMES),
    "http": Target(_http, seeds.HTTP),
    "ip": Target(_ip, seeds.IP),
    "link": Target(_link, seeds.LINK),
    "observer": Target(_observer, seeds.OBSERVER),
    "pcap": Target(_pcap, seeds.PCAP),
    "pppoe": Target(_pppoe, seeds.PPPOE),
    "quic": Target(_quic, seeds.QUIC),
    "quic-frames": Target(_quic_frames, seeds.QUIC_FRAMES),
    "radius": Target(_radius, seeds.RADIUS),
    "sip": Target(_sip, seeds.SIP),
    "sip-stream": Target(_sip_stream, seeds.SIP),
    "tls": Target(_tls, seeds.TLS),
    "tls-handshake": Target(_tls_handshake, seeds.TLS_HANDSHAKE),
    "tunnel": Target(_tunnel, seeds.TUNNEL),
}


def every(data: bytes) -> None:
    """All of them in one, by the first byte: for a run of seconds."""
    names = list(TARGETS)
    name = names[data[0] % len(names)] if data else names[0]
    TARGETS[name].run(data[1:])


def every_seed() -> tuple[bytes, ...]:
    """The seeds of all, for `every`."""
    return tuple(
        bytes((number,)) + seed
        for number, target in enumerate(TARGETS.values())
        for seed in target.seeds
    )
