"""Well-formed messages from which the fuzzer starts, made by programs that are not ours."""

from __future__ import annotations

import struct
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from scapy.layers.dhcp import BOOTP
from scapy.layers.dhcp import DHCP as DHCP4
from scapy.layers.dhcp6 import DHCP6_Reply, DHCP6OptIA_NA, DHCP6OptIAAddress
from scapy.layers.dns import DNS as Message
from scapy.layers.dns import DNSQR, DNSRR
from scapy.layers.inet import IP as IPv4
from scapy.layers.inet import TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPP_PAP_Request, PPPoE, PPPoED
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from tests.collector.capture import test_pcapfile as pcapfile
from tests.collector.parse import test_export as exports
from tests.collector.parse.helpers import client_hello, many_protocols
from tests.collector.parse.test_conntrack import RECORDED
from tests.collector.parse.test_detail import FULL


def _initials(alpn: int) -> tuple[bytes, ...]:
    """aioquic's first flight."""
    configuration = QuicConfiguration(
        is_client=True, server_name="a.example", alpn_protocols=list(many_protocols(alpn))
    )
    client = QuicConnection(configuration=configuration)
    client.connect(("192.0.2.1", 443), now=0.0)
    return tuple(data for data, _ in client.datagrams_to_send(now=0.0))


def _framed(*packets: Packet) -> bytes:
    return b"".join(len(p).to_bytes(2, "big") + bytes(p) for p in packets)


ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
ENDS4, ENDS6 = IPv4(src="10.0.0.2", dst="192.0.2.1"), IPv6(src="2001:db8::2", dst="2001:db8::1")
V4 = ENDS4 / UDP(sport=1, dport=2) / b"four"
V6 = ENDS6 / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=2) / b"six"

ANSWER: Final = bytes(
    Message(
        id=1,
        qr=1,
        qd=DNSQR(qname="www.example"),
        an=[
            DNSRR(rrname="www.example", type="CNAME", rdata="a.example"),
            DNSRR(rrname="a.example", type="A", rdata="192.0.2.1"),
            DNSRR(rrname="a.example", type="AAAA", rdata="2001:db8::1"),
        ],
    )
)
CALL: Final = (
    b"INVITE sip:b@example.com SIP/2.0\r\nv: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1\r\n"
    b'From: "A, \\"B" <sip:a@example.com;user=phone>;tag=1\r\nTo: <tel:+442079460000>\r\n'
    b"i: c1@h\r\nCSeq: 1 INVITE\r\nP-Asserted-Identity: <sip:+442079460001@h>\r\n"
    b"Diversion: <sip:d@h>;reason=no-answer\r\nSession-Expires: 90\r\nContent-Length: 3\r\n\r\nv=0"
)
RINGING: Final = CALL.replace(b"INVITE sip:b@example.com SIP/2.0", b"SIP/2.0 180 Ringing")
REQUEST: Final = b"GET /p?q HTTP/1.1\r\nHost: www.example:80\r\nCookie: c\r\n\r\n"

CONNTRACK: Final = tuple(RECORDED)
DHCP: Final = (
    bytes(
        BOOTP(op=2, yiaddr="10.0.0.2", chaddr=b"\2\0\0\0\0\1")
        / DHCP4(options=[("message-type", "ack"), ("lease_time", 600), "end"])
    ),
)
DHCPV6: Final = (
    bytes(
        DHCP6_Reply(trid=1)
        / DHCP6OptIA_NA(ianaopts=[DHCP6OptIAAddress(addr="2001:db8::2", validlft=600)])
    ),
)
DETAIL: Final = (FULL.rstrip(b"\n"),)
DNS: Final = (ANSWER, bytes(Message(id=1, qd=DNSQR(qname="a.example"))))
DNS_TCP: Final = (len(ANSWER).to_bytes(2, "big") + ANSWER,)
NAMES: Final = (b"WWW.Example.", b"_sip._udp.example", b"192.0.2.1")
AUTHORITIES: Final = (b"user:pw@h.example:80", b"[2001:DB8::1%eth0]:80", b"2001:db8::1")
EXPORT: Final = tuple(
    b"".join(len(one).to_bytes(2, "big") + one for one in datagrams)
    for datagrams in (
        (exports.v5(exports.v5_record("10.0.0.2", "192.0.2.1", 500)),),
        (
            exports.ipfix(exports.record_set(2, exports.template(256, (8, 4), (1, 65_535)))),
            exports.ipfix(exports.record_set(256, b"\x0a\0\0\2\2\1\0"), sequence=0),
        ),
        (
            exports.v9(exports.record_set(0, exports.template(256, (8, 4), (22, 4), (361, 2)))),
            exports.v9(exports.record_set(256, bytes(20)), sequence=1),
            exports.v9(exports.record_set(1, struct.pack(">7H", 258, 4, 4, 1, 4, 34, 4))),
        ),
    )
)
HTTP: Final = (
    REQUEST,
    b"POST http://u@h.example/x HTTP/1.0\nContent-Length: 3\n\nabc" + REQUEST,
    b"CONNECT h.example:443 HTTP/1.1\r\n\r\n",
)
IP: Final = (bytes(V4), bytes(V6), bytes(ENDS6 / IPv6ExtHdrFragment(id=1, m=1) / bytes(16)))
LINK: Final = tuple(
    b"\0" + bytes(frame)
    for frame in (
        ETHER / V4,
        ETHER / Dot1AD() / Dot1Q() / PPPoE() / PPP() / V4,
        Ether(bytes(ETHER)[:12] + b"\x88\x47") / (b"\0\1\1\x40" + bytes(V4)),
    )
)
OBSERVER: Final = (
    _framed(
        ETHER / IPv4(src="192.0.2.53", dst="10.0.0.2") / UDP(sport=53, dport=4000) / ANSWER,
        ETHER / ENDS4 / TCP(sport=4000, dport=443, seq=1) / client_hello("a.example"),
        ETHER / ENDS4 / TCP(sport=4001, dport=80, seq=1) / REQUEST,
        ETHER / ENDS4 / UDP(sport=5060, dport=5060) / CALL,
    ),
    _framed(*fragment(ETHER / ENDS4 / UDP(sport=53, dport=4000) / ANSWER, 40)),
)
PCAP: Final = (
    pcapfile.pcap("<", 0xA1B2C3D4, 1, (1_700_000_000, 5, b"packet")),
    pcapfile.section(">") + pcapfile.interface(">", 1) + pcapfile.enhanced(">", 0, 5),
)
PPPOE: Final = (
    bytes(ETHER / PPPoED(code=0x65, sessionid=7) / b"\1\1\0\0\1\3\0\2ab"),
    bytes(ETHER / PPPoE(sessionid=7) / PPP() / PPP_PAP_Request(username="u", password="p")),
    bytes(ETHER / PPPoE(sessionid=7) / PPP(proto=0x8021) / b"\2\1\0\x0a\3\6\x0a\0\0\2"),
)
QUIC: Final = (*_initials(1), *_initials(110))
QUIC_FRAMES: Final = (b"\x06\0\x04\1\0\0\0", b"\2\0\0\1\0\1\0\6\1\1a\0\0\x1c\0\0\1x")
RADIUS: Final = tuple(
    struct.pack(">BBH", code, 1, 20 + len(attributes)) + bytes(16) + attributes
    for code in (1, 2, 4, 5, 40, 41)
    for attributes in (b"\x28\6\0\0\0\1\x2c\x04s1\4\6\x0a\0\0\1\x08\6\x0a\0\0\2\x61\4\0\0",)
)
SIP: Final = (CALL, RINGING, b"\r\n\r\n" + CALL * 2)
TLS: Final = (client_hello("a.example"), client_hello(None))
TLS_HANDSHAKE: Final = tuple(hello[5:] for hello in TLS)
TUNNEL: Final = (
    bytes(VXLAN(vni=7) / ETHER / V4),
    bytes(GRE() / V4),
    bytes(GRE(key_present=1, proto=0x6558) / ETHER / V4),
    bytes(V4),
    b"\x34\xff\0\0" + bytes(7) + b"\x85\1\0\0\0" + bytes(V4),
)
