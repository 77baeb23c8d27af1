from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, CookedLinux, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import HDLC, PPP, PPPoE

from collector.parse.link import IPV4, IPV6, LINK_ETHERNET, LINK_RAW, unwrap
from collector.parse.reader import ParseError
from tests.collector.parse.helpers import cuts, only_parse_error

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="10.0.0.1", dst="192.0.2.1") / UDP(sport=1, dport=2) / b"four"
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / b"six!"


@pytest.mark.parametrize("inner", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    "outer",
    [
        ETHER,
        ETHER / Dot1Q(vlan=0),
        ETHER / Dot1Q(vlan=100),
        ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=100),
        ETHER / PPPoE(sessionid=9) / PPP(),
        ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=100) / PPPoE(sessionid=9) / PPP(),
        ETHER / MPLS(label=16, s=0) / MPLS(label=17, s=1),
        ETHER / Dot1Q(vlan=3) / MPLS(label=17, s=1),
    ],
    ids=lambda outer: outer.summary(),
)
def test_encapsulations(outer: Ether, inner: IP) -> None:
    frame = bytes(outer / inner)
    kind = IPV4 if inner is V4 else IPV6
    assert unwrap(frame, LINK_ETHERNET) == (kind, bytes(inner))
    for end, found in enumerate(cuts(lambda data: unwrap(data, LINK_ETHERNET), frame)):
        # A cut frame is an error or a shorter packet, which the IP length then refuses.
        assert isinstance(found, ParseError) or found == (kind, bytes(inner)[: end - len(frame)])


def test_pppoe_drops_padding() -> None:
    frame = bytes(ETHER / PPPoE(sessionid=9) / PPP() / V4)
    assert unwrap(frame + b"\0" * 9, LINK_ETHERNET) == (IPV4, bytes(V4))


def test_a_compressed_ppp_protocol_field() -> None:
    session = b"\x11\0\0\x09" + (len(V6) + 1).to_bytes(2, "big") + b"\x57"
    frame = bytes(ETHER)[:12] + b"\x88\x64" + session + bytes(V6)
    assert unwrap(frame, LINK_ETHERNET) == (IPV6, bytes(V6))
    assert unwrap(b"\x21" + bytes(V4), 9) == (IPV4, bytes(V4))


def test_raw_and_replayed_link_types() -> None:
    assert unwrap(bytes(V4), LINK_RAW) == (IPV4, bytes(V4))
    assert unwrap(bytes(V6), LINK_RAW) == (IPV6, bytes(V6))
    assert unwrap(bytes(V6), 12) == (IPV6, bytes(V6))
    assert unwrap(b"\x1e\0\0\0" + bytes(V6), 0) == (IPV6, bytes(V6))
    assert unwrap(bytes(PPP() / V4), 9) == (IPV4, bytes(V4))
    assert unwrap(bytes(HDLC() / PPP() / V4), 9) == (IPV4, bytes(V4))
    assert unwrap(bytes(CookedLinux(proto=0x86DD) / V6), 113) == (IPV6, bytes(V6))
    assert unwrap(b"\x08\0" + bytes(18) + bytes(V4), 276) == (IPV4, bytes(V4))


def test_what_carries_no_ip() -> None:
    arp = ETHER / ARP(pdst="10.0.0.1")
    lcp = ETHER / PPPoE(sessionid=9) / PPP(proto=0xC021) / b"\1\1\0\4"
    pseudowire = ETHER / MPLS(label=17, s=1) / (b"\0\0\0\0" + bytes(arp))
    spanning_tree = Dot3(src="02:00:00:00:00:01", dst="01:80:c2:00:00:00") / bytes(40)
    for frame in (arp, lcp, pseudowire, spanning_tree):
        assert unwrap(bytes(frame), LINK_ETHERNET) is None
    assert unwrap(b"\x50" + bytes(40), LINK_RAW) is None


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (bytes(12) + b"\x81\0\0\1" * 9 + b"\x08\0" + bytes(V4), "nesting"),
        (bytes(12) + b"\x88\x47" + b"\0\1\0\x40" * 9 + bytes(V4), "nesting"),
        (bytes(12) + b"\x88\x64\x21\0\0\1\0\x30\0\x21" + bytes(48), "pppoe"),
        (bytes(12) + b"\x88\x64\x11\0\0\1\0\x30\0\x21" + bytes(5), "truncated"),
        (b"", "truncated"),
    ],
)
def test_broken_frames(frame: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        unwrap(frame, LINK_ETHERNET)
    assert caught.value.reason == reason


def test_unknown_link_type() -> None:
    with pytest.raises(ParseError, match="linktype"):
        unwrap(bytes(V4), 147)


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"\x81\0", b"\x88\xa8", b"\x88\x64", b"\x88\x47", b"\x08\0", b"\x88\xe7", b"\x89\x03"]
    ),
    st.sampled_from([0, 1, 9, 12, 101, 104, 105, 113, 127, 192, 219, 239, 258, 276, 5]),
)
def test_fuzz(data: bytes, kind: bytes, linktype: int) -> None:
    only_parse_error(lambda frame: unwrap(frame, linktype), data)
    only_parse_error(lambda frame: unwrap(frame, linktype), bytes(12) + kind + data)
