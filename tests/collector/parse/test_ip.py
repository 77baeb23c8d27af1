from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)

from collector.parse.ip import Fragment, Packet, parse
from collector.parse.link import IPV4, IPV6
from collector.parse.reader import ParseError
from collector.wire.addr import pack
from tests.collector.parse.helpers import cuts, only_parse_error

V4 = IP(src="10.0.0.1", dst="192.0.2.1", id=77)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
SEGMENT = TCP(sport=40000, dport=443, seq=0xFFFFFFF0, flags="PA", options=[("NOP", None)] * 4)
DATAGRAM = UDP(sport=40000, dport=53)
ENDS4 = (pack("10.0.0.1"), pack("192.0.2.1"))
ENDS6 = (pack("2001:db8::1"), pack("2001:db8::2"))


@pytest.mark.parametrize(
    ("header", "kind", "ends"),
    [
        (V4, IPV4, ENDS4),
        (
            IP(src="10.0.0.1", dst="192.0.2.1", options=[IPOption_Timestamp()]),
            IPV4,
            ENDS4,
        ),
        (V6, IPV6, ENDS6),
        (V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(), IPV6, ENDS6),
        (V6 / IPv6ExtHdrRouting(addresses=["2001:db8::9"]), IPV6, ENDS6),
        (V6 / IPv6ExtHdrFragment(offset=0, m=0), IPV6, ENDS6),
    ],
    ids=["IPv4", "options", "IPv6", "extensions", "routing", "atomic"],
)
def test_headers(header: IP, kind: int, ends: tuple[bytes, bytes]) -> None:
    tcp = bytes(header / SEGMENT / b"payload")
    found = parse(5, kind, tcp)
    assert found == Packet(5, *ends, 6, 40000, 443, b"payload", 0xFFFFFFF0, 0x18)
    udp = bytes(header / DATAGRAM / b"payload")
    expected = Packet(5, *ends, 17, 40000, 53, b"payload", 0, 0)
    assert parse(5, kind, udp) == expected
    # Ethernet pads short frames: the packet's own length decides.
    assert parse(5, kind, udp + b"\0" * 18) == expected
    # A cut packet is never taken for a whole one.
    for data in (tcp, udp):
        assert all(isinstance(cut, ParseError) for cut in cuts(lambda d: parse(5, kind, d), data))


def test_the_authentication_header_counts_in_four_octets() -> None:
    header = b"\x11\x04" + bytes(10) + b"integrity..."
    data = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2", nh=51) / (header + bytes(DATAGRAM)))
    assert parse(5, IPV6, data) == Packet(5, *ENDS6, 17, 40000, 53, b"", 0, 0)


def test_other_protocols_have_no_ports() -> None:
    found = parse(5, IPV4, bytes(V4 / ICMP() / b"ping"))
    assert isinstance(found, Packet)
    assert (found.proto, found.sport, found.dport, found.payload[-4:]) == (1, 0, 0, b"ping")
    assert parse(5, IPV6, bytes(IPv6(src="2001:db8::1", dst="2001:db8::2", nh=59))) is None
    assert parse(5, 0x0806, bytes(V4 / DATAGRAM)) is None


def test_fragments_of_ipv4() -> None:
    whole = bytes(V4 / DATAGRAM / (bytes(range(250)) * 8))
    parts = [parse(5, IPV4, bytes(part)) for part in fragment(IP(whole), 800)]
    assert len(parts) == 3
    for part in parts:
        assert isinstance(part, Fragment)
        assert (part.src, part.dst, part.proto, part.ident) == (*ENDS4, 17, 77)
    assert [part.offset for part in parts if isinstance(part, Fragment)] == [0, 800, 1600]
    assert [part.more for part in parts if isinstance(part, Fragment)] == [True, True, False]
    joined = b"".join(part.data for part in parts if isinstance(part, Fragment))
    assert joined == whole[20:]


def test_fragments_of_ipv6() -> None:
    packet = V6 / IPv6ExtHdrFragment(offset=3, m=1, id=9, nh=17) / bytes(16)
    assert parse(5, IPV6, bytes(packet)) == Fragment(5, *ENDS6, 17, 9, 24, True, bytes(16))


def test_a_length_of_zero_means_all() -> None:
    data = bytearray(bytes(V4 / SEGMENT / b"payload"))
    data[2:4] = b"\0\0"
    found = parse(5, IPV4, bytes(data))
    assert isinstance(found, Packet)
    assert found.payload == b"payload"


def _changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (IPV4, _changed(bytes(V4 / DATAGRAM), 0, b"\x65"), "version"),
        (IPV4, _changed(bytes(V4 / DATAGRAM), 0, b"\x44"), "length"),
        (IPV4, _changed(bytes(V4 / DATAGRAM), 2, b"\0\x13"), "length"),
        (IPV4, _changed(bytes(V4 / DATAGRAM / b"x"), 24, b"\0\x07"), "length"),
        (IPV4, _changed(bytes(V4 / DATAGRAM / b"x"), 24, b"\0\x0a"), "length"),
        (IPV4, _changed(bytes(V4 / SEGMENT), 32, b"\x40"), "length"),
        (IPV4, _changed(bytes(V4 / SEGMENT), 32, b"\xf0"), "length"),
        (IPV4, _changed(bytes(V4 / DATAGRAM / bytes(9)), 6, b"\x20\0"), "fragment"),
        (IPV4, _changed(bytes(V4 / DATAGRAM / bytes(8)), 6, b"\x1f\xff"), "fragment"),
        (IPV6, bytes(IPv6(src="::ffff:10.0.0.1", dst="2001:db8::2") / DATAGRAM), "mapped"),
        (IPV6, _changed(bytes(V6 / ((b"\x3c\0" + bytes(6)) * 20)), 6, b"\x3c"), "nesting"),
        (IPV6, bytes(V6 / IPv6ExtHdrDestOpt(len=9) / DATAGRAM), "truncated"),
    ],
)
def test_contradictions(kind: int, data: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(5, kind, data)
    assert caught.value.reason == reason


@settings(max_examples=300)
@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([IPV4, IPV6]))
    only_parse_error(lambda d: parse(1, kind, d), data.draw(st.binary(max_size=120)))
    valid = bytearray(bytes((V4 if kind == IPV4 else V6 / IPv6ExtHdrDestOpt()) / SEGMENT / b"xyz"))
    for _ in range(3):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    only_parse_error(lambda d: parse(1, kind, d), bytes(valid))
