"""Classic BPF: turns the ports to watch into the program that keeps bulk data in the kernel.

The program sees one packet at a time and remembers nothing, so each rule below must hold for a
packet on its own. It passes PPPoE discovery and, of PPPoE sessions, PAP, CHAP and IPCP; and for
IPv4 and IPv6, below up to two VLAN tags, and one PPPoE session or four MPLS labels:

- UDP: answers of resolvers (source port), RADIUS and SIP (either port), DHCP and exports
  (destination port), QUIC Initials of versions 1 and 2 (destination port, long header, type), and
  every fragment.
- TCP: all payload of resolvers' answers and of SIP (either port).
- TCP to any port: a payload that begins with a ClientHello in a TLS handshake record.
- TCP towards a TLS port: a payload that begins with a handshake record. Towards an HTTP port: one
  that begins with a method.
- Tails, towards a TLS or HTTP port: a payload that does not begin with a later TLS record and that
  either is shorter than `SHORT_BYTES`, or carries PSH and is no longer than `TAIL_BYTES`.

Why the tail rule is sound: a sender writes its ClientHello (or request) in one piece and then waits
for an answer, so the last segment carries PSH (RFC 9293 section 3.9.1.2) however long it is, and
where the segments are short the ones in the middle are shorter than SHORT_BYTES. What is lost is
the middle of a hello over three or more full-size segments, above 2.4 to 2.9 kB. Why it keeps bulk
out: all but the last segment of a write in an upload is full-size and has no PSH, a merged segment
(GRO) is longer than TAIL_BYTES, small requests begin with an application data record, and
downloads go towards other ports. Of uploads of 256 MiB over a veth pair without offloads, 2 to 5 %
of the packets passed (TLS: 2.9 % in writes of 16 KiB, 5.2 % of 1 MiB; without TLS 2.3 and 4.2 %),
with GRO 0.01 to 0.2 % of the bytes; none was dropped. The worst common case, TLS in writes of
4,000 bytes, was 21 %. Short segments of neither protocol to these ports pass whole.

With `tunnels`, the same rules look at the packet inside IPv4 or IPv6 in IP, one tunnel deep, so
that signalling of a voice network is heard and bulk in a tunnel stays in the kernel like any other.
It is for interfaces where only the operator sends: what is inside is what the sender says it is.

Nothing that is sent to an address of `unheard` passes: SafeGuard's block pages, so that not even a
counter of packets tells who was led there.

Not seen: IPv6 behind four or more extension headers, longer stacks of labels and Ethernet behind
them, fragments of TCP and of tunnels' packets, tunnels within tunnels, other tunnels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from collector.capture.bpf_assembler import (
    ADD_X,
    AND_K,
    JEQ,
    JGE,
    JGT,
    JGT_X,
    JSET,
    LD_MEM,
    LDB_X,
    LDH_X,
    LDW_X,
    LDX_IMM,
    LDX_MEM,
    RET,
    RSH_K,
    ST,
    STX,
    SUB_X,
    Assembler,
    BpfError,
)
from collector.capture.bpf_headers import (
    END,
    LENGTH,
    PAYLOAD,
    TRANSPORT,
    ethernet,
    ip4,
    ip6,
    verdicts,
)
from collector.parse.link import LINK_ETHERNET, LINK_RAW
from collector.track.ports import Ports

SHORT_BYTES: Final = 1200
"""Below the segment of any path that IPv6 may use: 1,280 less 40, 20 and 12 of timestamps is
1,208 (RFC 8200 section 5), so a bulk sender's segments are longer."""

TAIL_BYTES: Final = 2920
"""Two Ethernet segments, as GRO may merge the middle and the end of a hello."""

_PSH: Final = 0x08
_METHODS: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")
"""First four bytes of the methods of RFC 9110 section 9.1 and RFC 5789."""


def program(
    ports: Ports,
    linktype: int = LINK_ETHERNET,
    snaplen: int = 65_535,
    unheard: Sequence[bytes] = (),
    *,
    tunnels: bool = False,
) -> bytes:
    """The filter for frames of `linktype` that gives at most `snaplen` bytes of what it passes.

    LINK_ETHERNET takes frames from their Ethernet header on, LINK_RAW from their IP header on.
    An empty port list switches its protocol off. unheard: addresses, 16 bytes each. tunnels:
    look into IP in IP. Raises BpfError for another link type.
    """
    asm = Assembler()
    if linktype == LINK_ETHERNET:
        ethernet(asm, snaplen)
    elif linktype == LINK_RAW:
        asm.op(LDX_IMM, 0)
        asm.op(LDB_X, 0)
        asm.op(AND_K, 0xF0)
        asm.when(JEQ, 0x40, "raw.4")
        asm.when(JEQ, 0x60, "raw.6")
        asm.op(RET, 0)
        asm.label("raw.6")
        asm.go("ip6")
        asm.label("raw.4")
        asm.go("ip4")
    else:
        raise BpfError(f"no filter for link type {linktype}")
    inside = "inside." if tunnels else ""
    ip4(asm, snaplen, unheard, inside=inside)
    ip6(asm, snaplen, unheard, inside=inside)
    if tunnels:
        ip4(asm, snaplen, unheard, f"{inside}4")
        ip6(asm, snaplen, unheard, f"{inside}6")
    _udp(asm, ports, snaplen)
    _tcp(asm, ports, snaplen)
    return asm.assemble()


def _udp(asm: Assembler, ports: Ports, snaplen: int) -> None:
    """X at the UDP header."""
    asm.label("udp")
    either = (*ports.radius, *ports.sip)
    asm.op(LDH_X, 0)
    asm.any_of((*ports.dns, *either), "udp.accept")
    asm.op(LDH_X, 2)
    asm.any_of((*ports.dhcp, *ports.exports, *either), "udp.accept")
    asm.any_of(ports.quic, "udp.quic")
    asm.go("udp.reject")
    asm.label("udp.quic")  # RFC 9000 section 17.2.2; RFC 9369 section 3.2 renumbers the types
    asm.op(LDB_X, 8)
    asm.op(AND_K, 0xF0)
    asm.when(JEQ, 0xC0, "udp.v1")
    asm.when(JEQ, 0xD0, "", "udp.reject")
    asm.op(LDW_X, 9)
    asm.when(JEQ, 0x6B3343CF, "udp.accept", "udp.reject")
    asm.label("udp.v1")
    asm.op(LDW_X, 9)
    asm.when(JEQ, 1, "udp.accept")
    verdicts(asm, "udp", snaplen)


def _tcp(asm: Assembler, ports: Ports, snaplen: int) -> None:
    """X at the TCP header. Every load into the payload stands behind a test of its length."""
    asm.label("tcp")
    asm.op(STX, TRANSPORT)
    asm.op(LDB_X, 12)
    asm.op(AND_K, 0xF0)
    asm.op(RSH_K, 2)
    asm.op(ADD_X)
    asm.op(ST, PAYLOAD)
    asm.op(LDX_MEM, PAYLOAD)
    asm.op(LD_MEM, END)
    # The kernel demands that a slot is written on every way to its use, and lets a way run on past
    # a return: so this jump goes to the end.
    asm.when(JGT_X, 0, "", "tcp.reject")
    asm.op(SUB_X)
    asm.op(ST, LENGTH)
    if ports.tls:
        asm.when(JGE, 6, "", "tcp.ports")
        asm.op(LDH_X, 0)
        asm.when(JEQ, 0x1603, "", "tcp.ports")
        asm.op(LDB_X, 5)
        asm.when(JEQ, 1, "tcp.hello")
        asm.label("tcp.ports")
    asm.op(LDX_MEM, TRANSPORT)
    asm.op(LDH_X, 0)
    asm.any_of((*ports.dns, *ports.sip), "tcp.accept")
    asm.op(LDH_X, 2)
    asm.any_of(ports.sip, "tcp.accept")
    asm.op(LDX_MEM, PAYLOAD)
    asm.any_of(ports.tls, "tcp.tls")
    asm.any_of(ports.http, "tcp.http")
    asm.op(RET, 0)
    asm.label("tcp.hello")
    asm.op(RET, snaplen)
    _tails(asm)
    verdicts(asm, "tcp", snaplen)


def _tails(asm: Assembler) -> None:
    """X at the payload: starts of records and requests, then what may continue one."""
    asm.label("tcp.tls")
    asm.op(LD_MEM, LENGTH)
    asm.when(JGE, 2, "", "tcp.accept")
    asm.op(LDH_X, 0)
    asm.when(JEQ, 0x1603, "tcp.accept")
    asm.op(AND_K, 0xFCFF)  # change cipher spec 0x14, alert 0x15, application data 0x17
    asm.when(JEQ, 0x1403, "tcp.reject", "tcp.tail")
    asm.label("tcp.http")
    asm.op(LD_MEM, LENGTH)
    asm.when(JGE, 4, "", "tcp.accept")
    asm.op(LDW_X, 0)
    for method in _METHODS:
        asm.when(JEQ, int.from_bytes(method, "big"), "tcp.accept")
    asm.label("tcp.tail")
    asm.op(LD_MEM, LENGTH)
    asm.when(JGE, SHORT_BYTES, "", "tcp.accept")
    asm.when(JGT, TAIL_BYTES, "tcp.reject")
    asm.op(LDX_MEM, TRANSPORT)
    asm.op(LDB_X, 13)
    asm.when(JSET, _PSH, "tcp.accept")
