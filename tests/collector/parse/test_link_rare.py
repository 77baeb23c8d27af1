"""Link types and tags that only captures hold, each around the same two packets."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.dot11 import Dot11, Dot11QoS, RadioTap
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import LLC, SNAP, CookedLinux, Dot3, Ether

from collector.parse.link import IPV4, IPV6, LINK_ETHERNET, unwrap
from collector.parse.reader import ParseError
from tests.collector.parse.helpers import cuts

V4 = bytes(IP(src="10.0.0.1", dst="192.0.2.1") / UDP(sport=1, dport=2) / b"four")
V6 = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / b"six!")
MACS = bytes(12)
SNAP_HEADER = LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x800)
ETHER4 = MACS + b"\x08\0" + V4


def wireless(control: bytes, header: int, qos: bytes = b"") -> bytes:
    """A data frame with LLC and SNAP around an IPv4 packet."""
    return control + bytes(header - 2) + qos + b"\xaa\xaa\x03\0\0\0\x08\0" + V4


def pktap(inner: int, frame: bytes) -> bytes:
    return struct.pack("<III", 108, 1, inner) + bytes(96) + frame


def nflog(*attributes: tuple[int, bytes]) -> bytes:
    parts = [struct.pack("<HH", 4 + len(value), kind) + value for kind, value in attributes]
    return b"\x02\0\0\0" + b"".join(part + bytes(-len(part) % 4) for part in parts)


FRAMES = {
    "vn-tag": (1, MACS + b"\x89\x26" + bytes(4) + b"\x08\0" + V4),
    "e-tag": (1, MACS + b"\x89\x3f" + bytes(6) + b"\x08\0" + V4),
    "metadata over vlan": (1, MACS + b"\x89\x09" + bytes(6) + b"\x81\0\0\7\x08\0" + V4),
    "second qinq": (1, MACS + b"\x92\0\0\7\x81\0\0\7\x08\0" + V4),
    "backbone bridge": (1, MACS + b"\x88\xe7" + bytes(4) + ETHER4),
    "fabricpath": (1, MACS + b"\x89\x03" + bytes(2) + ETHER4),
    "snap": (1, bytes(Dot3() / SNAP_HEADER / V4)),
    "pseudowire": (1, MACS + b"\x88\x47\0\1\1\x40\0\0\0\0" + ETHER4),
    "pseudowire, numbered": (1, MACS + b"\x88\x47\0\1\1\x40\0\0\x12\x34" + ETHER4),
    "null": (0, b"\2\0\0\0" + V4),
    "loop": (108, b"\0\0\0\2" + V4),
    "raw of OpenBSD": (14, V4),
    "raw IPv4": (228, V4),
    "ppp": (9, b"\0\x21" + V4),
    "ppp in hdlc": (50, b"\xff\3\0\x21" + V4),
    "pppoe": (51, struct.pack(">BBHHH", 0x11, 0, 9, len(V4) + 2, 0x21) + V4),
    "cisco hdlc": (104, b"\x0f\0\x08\0" + V4),
    "mpls": (219, b"\0\1\1\x40" + V4),
    "enc": (109, bytes(12) + V4),
    "preamble": (274, bytes(8) + ETHER4),
    "cooked": (113, bytes(CookedLinux(proto=0x800)) + V4),
    "cooked, tagged": (113, bytes(CookedLinux(proto=0x8100)) + b"\0\7\x08\0" + V4),
    "cooked 2": (276, b"\x08\0" + bytes(18) + V4),
    "802.11": (105, wireless(b"\x08\x01", 24)),
    "802.11 qos": (105, wireless(b"\x88\x02", 24, b"\0\0")),
    "802.11 four addresses": (105, wireless(b"\x08\x03", 30)),
    "802.11 ht control": (105, wireless(b"\x88\x82", 24, bytes(6))),
    "radiotap": (127, bytes(RadioTap()) + wireless(b"\x08\x01", 24)),
    "radiotap qos": (
        127,
        bytes(RadioTap() / Dot11(type=2, subtype=8, FCfield=1) / Dot11QoS() / SNAP_HEADER) + V4,
    ),
    "ppi": (192, struct.pack("<BBHI", 0, 0, 8, 105) + wireless(b"\x08\x01", 24)),
    "pktap": (258, pktap(1, ETHER4)),
    "pktap raw": (258, pktap(12, V4)),
    "nflog": (239, nflog((1, bytes(4)), (10, b"odd"), (9, V4))),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_packet_is_found(name: str) -> None:
    linktype, frame = FRAMES[name]
    assert unwrap(frame, linktype) == (IPV4, V4)
    if frame.count(V4) == 1 and b"\x08\0" + V4 in frame:
        six = frame.replace(b"\x08\0" + V4, b"\x86\xdd" + V6)
        assert unwrap(six, linktype) == (IPV6, V6)
    for found in cuts(lambda data: unwrap(data, linktype), frame):
        # A cut frame is an error, nothing, or a shorter packet, which the IP length then refuses.
        assert found is None or isinstance(found, ParseError) or V4.startswith(found[1])


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (105, b"\x80\0" + bytes(60)),  # a beacon
        (105, b"\x48\0" + bytes(60)),  # null data
        (105, wireless(b"\x08\x41", 24)),  # encrypted
        (105, wireless(b"\x88\x01", 24, b"\x80\0")),  # several frames in one
        (239, nflog((1, bytes(4)))),
        (LINK_ETHERNET, bytes(Ether(type=0x88CC)) + bytes(40)),  # LLDP
        (LINK_ETHERNET, bytes(Dot3(len=40)) + b"\x42\x42\x03" + bytes(40)),  # spanning tree
        (113, bytes(CookedLinux(proto=4)) + b"\x42\x42\x03" + bytes(40)),
        (104, b"\x8f\0\x80\x35" + bytes(20)),  # SLARP
    ],
)
def test_what_carries_no_ip(linktype: int, frame: bytes) -> None:
    assert unwrap(frame, linktype) is None


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (192, struct.pack("<BBHI", 0, 0, 8, 192) + bytes(40)),  # a header in itself
        (192, struct.pack("<BBHI", 0, 0, 900, 105) + bytes(40)),
        (258, pktap(258, V4)),
        (239, b"\x02\0\0\0\2\0\0\0"),  # an attribute without its own header
        (239, b"\x02\0\0\0" + b"\4\0\1\0" * 65),
        (147, V4),
    ],
)
def test_what_contradicts_itself(linktype: int, frame: bytes) -> None:
    with pytest.raises(ParseError):
        unwrap(frame, linktype)
