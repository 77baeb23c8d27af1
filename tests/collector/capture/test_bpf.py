"""The filter as bytes: run by a small interpreter on scapy's frames, and taken by the kernel."""

from __future__ import annotations

import ctypes
import socket
import struct
from pathlib import Path

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.dhcp import BOOTP
from scapy.layers.dns import DNS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapReader

from collector.capture.bpf import SHORT_BYTES, TAIL_BYTES, program
from collector.capture.bpf_assembler import MAX_INSTRUCTIONS, Assembler, BpfError
from collector.parse.link import LINK_ETHERNET, LINK_RAW, Frame
from collector.track.observer import Observer, ObserverConfig, Ports, Role
from collector.wire.addr import pack

SNAPLEN = 65_535
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
APPLICATION_DATA = b"\x17\x03\x03\x40\x00" + bytes(range(256)) * 5
INITIAL_V1 = b"\xc3\x00\x00\x00\x01" + bytes(1200)
INITIAL_V2 = b"\xd3\x6b\x33\x43\xcf" + bytes(1200)
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
CLIENT = {"src": "10.0.0.2", "dst": "192.0.2.1"}
CLIENT6 = {"src": "2001:db8:1::2", "dst": "2001:db8:2::1"}


class Trap(Exception):
    """The program left what the kernel allows."""


def load(frame: bytes, at: int, size: int) -> int | None:
    """A value in network order; None out of bounds, where the kernel returns 0 to the caller."""
    if at < 0 or at + size > len(frame):
        return None
    return int.from_bytes(frame[at : at + size], "big")


def run(code: bytes, frame: bytes) -> int:
    """What the program returns for a frame: net/core/filter.c, classic instructions only."""
    lines: list[tuple[int, ...]] = list(struct.iter_unpack("=HBBI", code))
    a = x = pc = 0
    memory: dict[int, int] = {}
    for _ in range(len(lines)):
        op, jt, jf, k = lines[pc]
        pc += 1
        if op in (0x50, 0x48, 0x40, 0x28):  # loads
            size = {0x50: 1, 0x48: 2, 0x40: 4, 0x28: 2}[op]
            value = load(frame, k if op == 0x28 else x + k, size)
            if value is None:
                return 0
            a = value
        elif op == 0x60:
            a = memory[k]
        elif op == 0x61:
            x = memory[k]
        elif op == 0x01:
            x = k
        elif op == 0x02:
            memory[k] = a
        elif op == 0x03:
            memory[k] = x
        elif op == 0x04:
            a = (a + k) & 0xFFFFFFFF
        elif op == 0x0C:
            a = (a + x) & 0xFFFFFFFF
        elif op == 0x1C:
            a = (a - x) & 0xFFFFFFFF
        elif op == 0x54:
            a &= k
        elif op == 0x64:
            a = (a << k) & 0xFFFFFFFF
        elif op == 0x74:
            a >>= k
        elif op == 0x05:
            pc += k
        elif op in (0x15, 0x25, 0x2D, 0x35, 0x45):
            other = x if op == 0x2D else k
            true = {0x15: a == k, 0x25: a > k, 0x2D: a > other, 0x35: a >= k, 0x45: a & k != 0}[op]
            pc += jt if true else jf
        elif op == 0x07:
            x = a
        elif op == 0x87:
            a = x
        elif op == 0x06:
            return k
        else:
            raise Trap(f"code {op:#x}")
    raise Trap("ran off the end")


FILTER = program(Ports(), LINK_ETHERNET, SNAPLEN)
RAW_FILTER = program(Ports(), LINK_RAW, SNAPLEN)
TUNNELS = program(Ports(), LINK_ETHERNET, SNAPLEN, tunnels=True)
OUTER = {"src": "203.0.113.1", "dst": "203.0.113.2"}
OUTER6 = {"src": "2001:db8:f::1", "dst": "2001:db8:f::2"}


def passes(packet: Packet | bytes, code: bytes = FILTER) -> bool:
    """Whether a frame passes, and then whole."""
    result = run(code, bytes(packet))
    assert result in (0, SNAPLEN)
    return result > 0


def tcp4(payload: bytes, dport: int = 443, flags: str = "A", **fields: object) -> Packet:
    return (
        Ether(**MAC) / IP(**CLIENT) / TCP(sport=40000, dport=dport, flags=flags, **fields) / payload
    )


def udp4(payload: bytes, sport: int, dport: int) -> Packet:
    return Ether(**MAC) / IP(**CLIENT) / UDP(sport=sport, dport=dport) / payload


def compressed(protocol: int, inner: bytes) -> bytes:
    """A PPPoE session packet whose PPP protocol field is one byte (RFC 1661 section 6.5)."""
    return struct.pack(">BBHHB", 0x11, 0, 3, len(inner) + 1, protocol) + inner


def labels(count: int) -> Packet:
    """A stack of MPLS labels."""
    stack = MPLS(label=16, s=int(count == 1))
    for number in range(1, count):
        stack /= MPLS(label=16 + number, s=int(number == count - 1))
    return stack


def both_families(packet: Packet) -> list[Packet]:
    """The frame, and the same over IPv6."""
    return [packet, Ether(**MAC) / IPv6(**CLIENT6) / packet[IP].payload.copy()]


ANSWER = bytes(DNS(id=1, qr=1))
WANTED = {
    "dns-answer": udp4(ANSWER, 53, 40000),
    "dns-answer-tcp": Ether(**MAC)
    / IP(**CLIENT)
    / TCP(sport=53, dport=40000)
    / (b"\0\x0c" + ANSWER),
    "radius-request": udp4(b"\x04" * 20, 40000, 1813),
    "radius-response": udp4(b"\x05" * 20, 1813, 40000),
    "radius-access": udp4(b"\x01" * 20, 40000, 1812),
    "sip": udp4(b"INVITE sip:a@b SIP/2.0\r\n", 5060, 5060),
    "sip-to-any": udp4(b"SIP/2.0 200 OK\r\n", 5060, 40000),
    "sip-tcp": tcp4(b"INVITE sip:a@b SIP/2.0\r\n", 5060),
    "sip-tcp-back": Ether(**MAC) / IP(**CLIENT) / TCP(sport=5060, dport=40000) / b"SIP/2.0 200",
    "dhcp-request": udp4(bytes(BOOTP(op=1)), 68, 67),
    "dhcp-answer": udp4(bytes(BOOTP(op=2)), 67, 68),
    "quic-v1": udp4(INITIAL_V1, 40000, 443),
    "quic-v2": udp4(INITIAL_V2, 40000, 443),
    "tls-start": tcp4(HELLO),
    "tls-start-pushed": tcp4(HELLO, flags="PA"),
    "tls-any-port": tcp4(HELLO, 9999),
    "tls-record-of-two": tcp4(b"\x16\x03\x01\x00\x40" + bytes(64)),
    "http-get": tcp4(b"GET / HTTP/1.1\r\n" + bytes(1400), 80),
    "http-post": tcp4(b"POST /x HTTP/1.1\r\n" + bytes(1400), 80),
    "http-other-method": tcp4(b"PROPFIND /x HTTP/1.1\r\n", 80, "PA"),
    "tail-1": tcp4(b"x", flags="PA"),
    "tail-1-of-app-data-type": tcp4(b"\x17", flags="PA"),
    "tail-2": tcp4(b"xy", flags="PA"),
    "tail-3-http": tcp4(b"xyz", 80),
    "tail-short": tcp4(b"x" * (SHORT_BYTES - 1)),
    "tail-pushed": tcp4(b"x" * 1448, flags="PA"),
    "tail-merged": tcp4(b"x" * TAIL_BYTES, flags="PA"),
}
UNWANTED = {
    "arp": Ether(**MAC) / ARP(),
    "ping": Ether(**MAC) / IP(**CLIENT) / ICMP(),
    "dns-query": udp4(bytes(DNS(id=1)), 40000, 53),
    "quic-short-header": udp4(b"\x43" + bytes(1200), 40000, 443),
    "quic-handshake": udp4(b"\xe3\x00\x00\x00\x01" + bytes(1200), 40000, 443),
    "quic-0rtt-v2": udp4(b"\xe3\x6b\x33\x43\xcf" + bytes(1200), 40000, 443),
    "quic-v2-type-in-v1": udp4(b"\xd3\x00\x00\x00\x01" + bytes(1200), 40000, 443),
    "quic-v1-type-in-v2": udp4(b"\xc3\x6b\x33\x43\xcf" + bytes(1200), 40000, 443),
    "quic-from-server": udp4(INITIAL_V1, 443, 40000),
    "udp-bulk": udp4(bytes(1400), 40000, 50000),
    "ack": tcp4(b""),
    "syn": tcp4(b"", flags="S", options=[("MSS", 1460)]),
    "app-data": tcp4(APPLICATION_DATA),
    "app-data-pushed": tcp4(APPLICATION_DATA, flags="PA"),
    "alert": tcp4(b"\x15\x03\x03\x00\x02\x01\x00", flags="PA"),
    "change-cipher": tcp4(b"\x14\x03\x03\x00\x01\x01", flags="PA"),
    "upload": tcp4(b"x" * 1448),
    "upload-least-mtu": tcp4(b"x" * 1208),
    "upload-merged": tcp4(b"x" * (TAIL_BYTES + 1), flags="PA"),
    "upload-http": tcp4(b"x" * 1448, 80),
    "download": Ether(**MAC)
    / IP(**CLIENT)
    / TCP(sport=443, dport=40000, flags="PA")
    / (b"x" * 100),
    "server-hello": Ether(**MAC)
    / IP(**CLIENT)
    / TCP(sport=443, dport=40000)
    / (b"\x16\x03\x03\x00\x7a\x02" + bytes(200)),
    "other-port": tcp4(b"GET / HTTP/1.1\r\n", 9999, "PA"),
    "dns-tcp-ack": Ether(**MAC) / IP(**CLIENT) / TCP(sport=53, dport=40000, flags="A"),
}
FRAMES = [(name, frame, True) for name, frame in WANTED.items()] + [
    (name, frame, False) for name, frame in UNWANTED.items()
]


@pytest.mark.parametrize(("name", "frame", "wanted"), FRAMES, ids=[f[0] for f in FRAMES])
def test_verdict_in_every_encapsulation(name: str, frame: Packet, wanted: bool) -> None:
    frames = both_families(frame) if IP in frame else [frame]
    for plain in frames:
        assert passes(plain) is wanted
        inner = plain.payload.copy()
        if ARP in plain:
            continue
        assert passes(inner, RAW_FILTER) is wanted
        protocol = 0x21 if IP in plain else 0x57
        for wrapped in (
            Ether(**MAC) / Dot1Q(vlan=7) / inner,
            Ether(**MAC) / Dot1AD(vlan=9) / Dot1Q(vlan=7) / inner,
            Ether(**MAC) / PPPoE(sessionid=3) / PPP(proto=protocol) / inner,
            Ether(**MAC) / Dot1Q(vlan=7) / PPPoE(sessionid=3) / PPP(proto=protocol) / inner,
            Ether(**MAC, type=0x8864) / compressed(protocol, bytes(inner)),
            Ether(**MAC) / MPLS(label=16, s=1) / inner,
            Ether(**MAC) / Dot1Q(vlan=7) / labels(4) / inner,
        ):
            assert passes(wrapped) is wanted


@pytest.mark.parametrize(("name", "frame", "wanted"), FRAMES, ids=[f[0] for f in FRAMES])
def test_verdict_on_what_is_in_a_tunnel(name: str, frame: Packet, wanted: bool) -> None:
    """The same inside as outside, where tunnels are opened; nothing where they are not."""
    if ARP in frame:
        return
    for plain in both_families(frame):
        assert passes(plain, TUNNELS) is wanted
        packet = plain.payload.copy()
        options = IP(**OUTER, options=[IPOption_NOP()] * 8)
        for outer in (IP(**OUTER), options, IPv6(**OUTER6), IPv6(**OUTER6) / IPv6ExtHdrHopByHop()):
            tunnelled = Ether(**MAC) / outer / packet
            assert passes(tunnelled, TUNNELS) is wanted
            assert passes(Ether(**MAC) / Dot1Q(vlan=7) / outer / packet, TUNNELS) is wanted
            assert not passes(tunnelled)
            assert not passes(Ether(**MAC) / IP(**OUTER) / outer / packet, TUNNELS)


def test_of_fragments_in_tunnels_only_whole_packets_are_looked_into() -> None:
    datagram = IP(**CLIENT, id=77) / UDP(sport=5060, dport=5060) / Raw(b"x" * 4000)
    inner = fragment(datagram, 1400)
    assert len(inner) == 3
    assert all(passes(Ether(**MAC) / IP(**OUTER) / each, TUNNELS) for each in inner)
    for each in fragment(IP(**OUTER, id=78) / datagram, 1400):
        assert not passes(Ether(**MAC) / each, TUNNELS)
    cut = IPv6(**OUTER6) / IPv6ExtHdrFragment(nh=4, m=1, id=5) / datagram
    assert not passes(Ether(**MAC) / cut, TUNNELS)


@pytest.mark.parametrize("name", ["tls-start", "tail-2", "tail-pushed", "dns-answer", "quic-v1"])
def test_header_options_and_extension_headers(name: str) -> None:
    packet = WANTED[name]
    with_options = packet.copy()
    with_options[IP].options = [IPOption_NOP()] * 8
    assert passes(Ether(bytes(with_options)))
    upper = packet[IP].payload.copy()
    hop, route, options = IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(), IPv6ExtHdrDestOpt()
    for extension in (hop, options, hop / options, hop / options / route):
        assert passes(Ether(**MAC) / IPv6(**CLIENT6) / extension / upper)
    assert not passes(Ether(**MAC) / IPv6(**CLIENT6) / hop / options / route / options / upper)
    assert not passes(Ether(**MAC) / labels(5) / packet[IP])


def test_tcp_options_move_the_payload() -> None:
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    assert passes(tcp4(HELLO, options=options))
    assert passes(tcp4(b"x", flags="PA", options=options))
    assert not passes(tcp4(APPLICATION_DATA, flags="PA", options=options))
    assert not passes(tcp4(b"", options=options))


@pytest.mark.parametrize("payload", [b"", b"x", b"xy", b"\x16", b"\x16\x03"])
def test_ethernet_padding_is_no_payload(payload: bytes) -> None:
    """A 40-byte packet is padded to 46; padding that looks like a tail must not pass."""
    frame = bytes(tcp4(payload, flags="PA"))
    padded = frame + b"\x16\x03\x01\x00\x05\x01"[: 60 - len(frame)].ljust(60 - len(frame), b"\x16")
    assert len(padded) == 60
    assert passes(padded) is bool(payload)


def test_every_udp_fragment_passes_and_no_other() -> None:
    datagram = IP(**CLIENT, id=77) / UDP(sport=40000, dport=50000) / Raw(b"x" * 4000)
    pieces = fragment(datagram, 1400)
    assert len(pieces) == 3
    assert all(passes(Ether(**MAC) / piece) for piece in pieces)
    stream = IP(**CLIENT, id=78) / TCP(sport=40000, dport=443) / Raw(b"GET " * 1000)
    assert not any(passes(Ether(**MAC) / piece) for piece in fragment(stream, 1400))
    for offset, more in ((0, 1), (170, 1), (340, 0)):
        head = IPv6ExtHdrFragment(nh=17, offset=offset, m=more, id=5)
        part = Ether(**MAC) / IPv6(**CLIENT6) / head / Raw(b"x" * 1360)
        assert passes(part)
        tcp = IPv6ExtHdrFragment(nh=6, offset=offset, m=more, id=5)
        assert not passes(Ether(**MAC) / IPv6(**CLIENT6) / tcp / Raw(b"x" * 1360))
    hop = IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=5)
    assert passes(Ether(**MAC) / IPv6(**CLIENT6) / hop / Raw(b"x" * 1360))


PAGES = ["203.0.113.7", "203.0.113.8", "2001:db8:b10c::7", "2001:db8:b10c::8"]
PAGE_FILTERS = {
    linktype: program(Ports(), linktype, SNAPLEN, [pack(each) for each in PAGES])
    for linktype in (LINK_ETHERNET, LINK_RAW)
}


@pytest.mark.parametrize("page", PAGES)
def test_nothing_to_an_unheard_address_passes(page: str) -> None:
    """Neither handshakes nor fragments, in any encapsulation; what comes from there does."""
    wide = ":" in page
    ends = {"src": "2001:db8::9" if wide else "10.0.0.9", "dst": page}
    net, near = IPv6 if wide else IP, page[:-1] + "9"
    pieces = (
        TCP(sport=40000, dport=443, flags="PA") / HELLO,
        TCP(sport=40000, dport=8443, flags="PA") / HELLO,
        TCP(sport=40000, dport=80, flags="PA") / b"GET / HTTP/1.1",
        UDP(sport=40000, dport=443) / INITIAL_V1,
    )
    for piece in pieces:
        there, elsewhere = net(**ends) / piece, net(**{**ends, "dst": near}) / piece
        assert passes(elsewhere, PAGE_FILTERS[LINK_RAW])
        assert not passes(there, PAGE_FILTERS[LINK_RAW])
        for link in (Ether(**MAC), Ether(**MAC) / Dot1Q(vlan=7), Ether(**MAC) / PPPoE() / PPP()):
            assert passes(link / elsewhere, PAGE_FILTERS[LINK_ETHERNET])
            assert not passes(link / there, PAGE_FILTERS[LINK_ETHERNET])
    answer = net(src=page, dst=ends["src"]) / UDP(sport=53, dport=40000) / b"answer"
    assert passes(Ether(**MAC) / answer, PAGE_FILTERS[LINK_ETHERNET])
    opened = program(Ports(), LINK_RAW, SNAPLEN, [pack(each) for each in PAGES], tunnels=True)
    for outer in (IP(**OUTER), IPv6(**OUTER6)):
        assert passes(outer / net(**{**ends, "dst": near}) / pieces[0], opened)
        assert not passes(outer / net(**ends) / pieces[0], opened)
    if not wide:
        parts = fragment(IP(**ends) / UDP(sport=1, dport=2) / bytes(3000), 1000)
        assert not any(passes(Ether(**MAC) / part, PAGE_FILTERS[LINK_ETHERNET]) for part in parts)


def test_truncated_frames_never_trap_and_starts_are_refused() -> None:
    for packet in (*WANTED.values(), *UNWANTED.values()):
        for family in both_families(packet) if IP in packet else [packet]:
            frame = bytes(family)
            for size in range(min(len(frame), 90)):
                run(FILTER, frame[:size])
                run(RAW_FILTER, frame[14 : 14 + size])
    for outer in (IP(**OUTER), IPv6(**OUTER6)):
        frame = bytes(Ether(**MAC) / outer / WANTED["sip-tcp"][IP])
        needed = 14 + len(outer) + 20 + 20 + 2  # up to the first two bytes of payload
        passed = [size for size in range(len(frame)) if run(TUNNELS, frame[:size])]
        assert passed == [*range(needed, len(frame))]
    for size in range(14 + 20 + 4):
        assert not passes(bytes(WANTED["dns-answer"])[:size][: 14 + 20 + 1])


def test_empty_lists_switch_protocols_off() -> None:
    none = program(Ports((), (), (), (), (), (), ()), LINK_ETHERNET)
    assert not any(passes(frame, none) for frame in WANTED.values())
    only = program(Ports(dns=(), tls=(), http=(), quic=(), dhcp=()), LINK_ETHERNET)
    passed = {name for name, frame in WANTED.items() if passes(frame, only)}
    assert passed == {name for name in WANTED if name.startswith(("sip", "radius"))}


def test_configured_ports_and_the_most_of_them() -> None:
    many = tuple(range(20_000, 20_016))
    code = program(Ports(many, many, many, many, many, many, many))
    assert len(code) // 8 < MAX_INSTRUCTIONS // 8
    assert passes(udp4(ANSWER, 20_015, 40000), code)
    assert passes(udp4(INITIAL_V1, 1, 20_000), program(Ports(quic=(20_000,))))
    assert not passes(udp4(INITIAL_V1, 1, 443), program(Ports(quic=(20_000,))))
    with pytest.raises(ValueError, match="at most 16"):
        Ports(dns=tuple(range(1, 18)))
    with pytest.raises(ValueError, match="1 to 65535"):
        Ports(sip=(0,))


def test_snaplen_is_what_is_given() -> None:
    assert run(program(Ports(), LINK_ETHERNET, 2048), bytes(tcp4(HELLO))) == 2048


def test_assembler_refuses_what_the_kernel_would() -> None:
    asm = Assembler()
    asm.when(0x15, 1, "nowhere")
    with pytest.raises(BpfError, match="no label"):
        asm.assemble()
    asm = Assembler()
    asm.label("back")
    asm.op(0x06, 0)
    asm.when(0x15, 1, "back")
    with pytest.raises(BpfError, match="away"):
        asm.assemble()
    asm = Assembler()
    asm.when(0x15, 1, "far")
    for _ in range(300):
        asm.op(0x87)
    asm.label("far")
    asm.op(0x06, 0)
    with pytest.raises(BpfError, match="300 instructions away"):
        asm.assemble()
    with pytest.raises(BpfError, match="twice"):
        asm.label("far")
    for _ in range(MAX_INSTRUCTIONS):
        asm.op(0x87)
    with pytest.raises(BpfError, match="the kernel takes"):
        asm.assemble()
    with pytest.raises(BpfError, match="link type"):
        program(Ports(), 9)


CAPTURES = Path(__file__).parents[4] / "shared/data/captures"
FRAGMENTED_TCP = "pcpp_frag_http_req.pcap"
"""A request in IP fragments of TCP, which the filter's documentation gives up."""


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="captures are not beside the repository")
@pytest.mark.parametrize(
    "folder", ["dns", "http", "tls", "quic", "mixed", "pppoe", "sip", "radius"]
)
def test_the_filter_costs_no_event_of_the_captures(folder: str) -> None:
    roles: frozenset[Role] = frozenset(("access", "control"))
    codes = {LINK_ETHERNET: FILTER, LINK_RAW: RAW_FILTER}
    compared = 0
    for path in sorted((CAPTURES / folder).glob("*.pcap")):
        with RawPcapReader(str(path)) as reader:
            code = codes.get(reader.linktype)
            if code is None or path.name == FRAGMENTED_TCP:
                continue
            whole, filtered = (Observer(ObserverConfig({1: roles})) for _ in range(2))
            expected, found = set(), set()
            for number, (data, about) in enumerate(reader):
                ts_ns = about.sec * 10**9 + about.usec * 1000
                frame = Frame(ts_ns + number, data, reader.linktype, 1, False)
                expected |= {repr(event) for event in whole.frame(frame)}
                if run(code, data):
                    found |= {repr(event) for event in filtered.frame(frame)}
        assert found == expected, path.name
        compared += len(expected)
    assert compared


MANY = tuple(range(20_000, 20_016))


UNHEARD = [pack(f"203.0.113.{n}") for n in range(64)] + [pack(f"2001:db8::{n}") for n in range(64)]


@pytest.mark.parametrize("unheard", [[], UNHEARD], ids=["none", "128"])
@pytest.mark.parametrize("linktype", [LINK_ETHERNET, LINK_RAW])
@pytest.mark.parametrize(
    "ports", [Ports(), Ports((), (), (), (), (), (), ()), Ports(MANY, MANY, MANY, MANY, MANY, MANY)]
)
@pytest.mark.parametrize("tunnels", [False, True])
def test_the_kernel_takes_it(
    linktype: int, ports: Ports, unheard: list[bytes], tunnels: bool
) -> None:
    """The kernel checks every jump, every scratch slot and the end; any socket will do for that."""
    code = program(ports, linktype, unheard=unheard, tunnels=tunnels)
    buffer = ctypes.create_string_buffer(code, len(code))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        sock.setsockopt(socket.SOL_SOCKET, 26, fprog)


def test_the_control_of_pppoe_passes_and_the_rest_of_it_does_not() -> None:
    discovery = bytes(Ether(type=0x8863, **MAC)) + b"\x11\x09\x00\x00\x00\x00" + bytes(40)
    tagged = bytes(Ether(**MAC) / Dot1Q(vlan=7, type=0x8863)) + discovery[14:]
    assert passes(discovery) and passes(tagged)
    for protocol, wanted in ((0xC023, True), (0xC223, True), (0x8021, True), (0xC021, False)):
        head = b"\x11\x00\x00\x03\x00\x0b" + protocol.to_bytes(2, "big")
        assert passes(bytes(Ether(type=0x8864, **MAC)) + head + bytes(9)) == wanted
    only = program(Ports(dns=(), tls=(), http=(), quic=(), radius=(), sip=()))
    assert passes(udp4(b"x", 68, 67), only) and passes(discovery, only)
    assert not passes(udp4(b"x", 53, 40_000), only) and not passes(tcp4(HELLO), only)
