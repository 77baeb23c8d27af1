"""Tunnels around one packet: what each opens to, and what must not be taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.ppp import PPP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet as Layers

from collector.parse.ip import Packet, parse
from collector.parse.link import LINK_ETHERNET, unwrap
from collector.parse.tunnel import inner_ip, inner_udp
from collector.wire.addr import pack
from tests.collector.parse.helpers import cuts, only_parse_error

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
INNER4 = IP(src="10.0.0.2", dst="192.0.2.1") / UDP(sport=40000, dport=9) / b"inside"
INNER6 = IPv6(src="2001:db8::2", dst="2001:db8:1::1") / UDP(sport=40000, dport=9) / b"inside"
FRAME4 = ETHER / INNER4
OUTER = IP(src="198.51.100.1", dst="198.51.100.2")
GRE_ONLY = IP(src="198.51.100.1", dst="198.51.100.2", proto=47)


def udp(dport: int, payload: Layers | bytes) -> Layers:
    return OUTER / UDP(sport=5000, dport=dport) / payload


def parsed(packet: Layers) -> Packet:
    found = unwrap(bytes(ETHER / packet), LINK_ETHERNET)
    assert found
    whole = parse(1, *found)
    assert isinstance(whole, Packet)
    return whole


def opened(packet: Packet) -> Packet | None:
    inner = inner_ip(packet) or inner_udp(packet)
    assert inner is None or isinstance(inner, Packet)
    return inner


L2TP_DATA = b"\0\2\0\7\0\1"
TUNNELS = {
    "ipip": OUTER / INNER4,
    "6in4": OUTER / INNER6,
    "gre": OUTER / GRE() / INNER4,
    "gre, all fields": OUTER
    / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=7, sequence_number=3)
    / INNER4,
    "gre ethernet": OUTER / GRE(proto=0x6558) / FRAME4,
    "gre mpls": OUTER / GRE(proto=0x8847) / (b"\0\1\1\x40" + bytes(INNER4)),
    "pptp": GRE_ONLY / (b"\x30\x81\x88\x0b\0\x40\0\1" + bytes(8) + b"\xff\3\0\x21" + bytes(INNER4)),
    "erspan 1": OUTER / GRE(proto=0x88BE) / ERSPAN_I() / FRAME4,
    "erspan 2": OUTER / GRE(seqnum_present=1, proto=0x88BE) / ERSPAN_II() / FRAME4,
    "erspan 3": OUTER / GRE(seqnum_present=1, proto=0x22EB) / ERSPAN_III() / FRAME4,
    "vxlan": udp(4789, VXLAN(vni=7) / ETHER / Dot1Q(vlan=3) / INNER4),
    "vxlan of linux": udp(8472, VXLAN(vni=7) / FRAME4),
    "geneve": udp(6081, GENEVE(vni=7) / FRAME4),
    "geneve ip": udp(6081, b"\x01\0\x08\0\0\0\7\0" + bytes(4) + bytes(INNER4)),
    "gtp": udp(2152, b"\x30\xff" + len(INNER4).to_bytes(2, "big") + bytes(4) + bytes(INNER4)),
    "gtp with extension": udp(
        2152, GTP_U_Header(teid=7, E=1, next_ex=0x85) / GTPPDUSessionContainer(QFI=1) / INNER4
    ),
    "l2tp": udp(1701, L2TP_DATA + bytes(PPP() / INNER4)),
    "l2tp, all fields": udp(
        1701, b"\x4a\2\0\x40" + bytes(8) + b"\0\2\0\0" + b"\xff\3" + bytes(PPP() / INNER4)
    ),
    "teredo": udp(3544, bytes(INNER6)),
    "teredo with indications": udp(
        3544, b"\0\1\2\1" + bytes(3 + 9) + b"\0\0" + bytes(6) + bytes(INNER6)
    ),
}


@pytest.mark.parametrize("name", TUNNELS)
def test_the_packet_inside(name: str) -> None:
    packet = parsed(TUNNELS[name])
    inner = opened(packet)
    assert inner is not None and inner.payload == b"inside"
    assert inner.src in (pack("10.0.0.2"), pack("2001:db8::2"))
    for found in cuts(lambda data: opened(replaced(packet, data)), packet.payload):
        assert not isinstance(found, Packet)


def replaced(packet: Packet, payload: bytes) -> Packet:
    ports = (packet.sport, packet.dport)
    return Packet(1, packet.src, packet.dst, packet.proto, *ports, payload, 0, 0)


@pytest.mark.parametrize(
    "packet",
    [
        udp(2152, bytes.fromhex("000181800001000100000000") + b"\1a\0\0\1\0\1"),  # DNS's answer
        udp(2152, b"\x32\x01" + bytes(10)),  # an echo request of GTP
        udp(1701, b"\xc8\2\0\x0c" + bytes(8)),  # control
        udp(3544, bytes(INNER4)),  # Teredo carries IPv6 only
        udp(4789, bytes(8) + bytes(FRAME4)),  # no network named
        udp(4789, b""),
        udp(6081, b"\x40" + bytes(7) + bytes(FRAME4)),  # a version to come
        udp(9, VXLAN(vni=7) / FRAME4),
        OUTER / GRE(proto=0x0805) / b"x25",
        GRE_ONLY / (b"\x40\0\x08\0" + bytes(INNER4)),  # source routed
    ],
    ids=lambda packet: packet.summary(),
)
def test_what_is_no_tunnel(packet: Layers) -> None:
    assert opened(parsed(packet)) is None


@given(
    st.sampled_from([4, 17, 41, 47]), st.sampled_from([4789, 6081, 2152, 1701, 3544]), st.binary()
)
def test_any_bytes(proto: int, port: int, data: bytes) -> None:
    address = pack("10.0.0.1")
    packet = Packet(1, address, address, proto, 5000, port, data, 0, 0)
    only_parse_error(lambda _: inner_ip(packet), data)
    inner_udp(packet)  # raises nothing: the port may be a client's own
