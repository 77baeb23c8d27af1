"""Classic BPF: turns the ports to watch into the program that keeps bulk data in the kernel.

The program sees one packet at a time and remembers nothing, so each rule below must hold for a
packet on its own. It passes, for IPv4 and IPv6, below up to two VLAN tags and one PPPoE session:

- UDP: answers of resolvers (source port), RADIUS and SIP (either port), DHCP (destination port),
  QUIC Initials of versions 1 and 2 (destination port, long header, type), and every fragment.
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

Not seen: IPv6 behind two or more extension headers, a chain of MPLS labels, fragments of TCP.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from collector.parse.link import IPV4, IPV6, LINK_ETHERNET, LINK_RAW
from collector.track.observer import Ports

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

SHORT_BYTES: Final = 1200
"""Below the segment of any path that IPv6 may use: 1,280 less 40, 20 and 12 of timestamps is
1,208 (RFC 8200 section 5), so a bulk sender's segments are longer."""

TAIL_BYTES: Final = 2920
"""Two Ethernet segments, as GRO may merge the middle and the end of a hello."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter of linux/filter.h: code, jt, jf, k in the machine's byte order."""

# Codes as in linux/bpf_common.h; "x" loads are relative to the index register.
LDB_X: Final = 0x50
LDH_ABS: Final = 0x28
LDH_X: Final = 0x48
LDW_X: Final = 0x40
LD_MEM: Final = 0x60
LDX_IMM: Final = 0x01
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
ADD_K: Final = 0x04
ADD_X: Final = 0x0C
SUB_X: Final = 0x1C
AND_K: Final = 0x54
LSH_K: Final = 0x64
RSH_K: Final = 0x74
JA: Final = 0x05
JEQ: Final = 0x15
JGT: Final = 0x25
JGT_X: Final = 0x2D
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06
TAX: Final = 0x07
TXA: Final = 0x87

# Scratch memory: what each slot holds once its section has run.
_TRANSPORT: Final = 0  # offset of the TCP or UDP header
_KEEP: Final = 1  # a value kept over an address computation
_END: Final = 2  # offset just after the IP packet, which Ethernet padding may follow
_PAYLOAD: Final = 3  # offset of the TCP payload
_LENGTH: Final = 4  # bytes of the TCP payload, at least 1

_VLANS: Final = (0x8100, 0x88A8, 0x9100)
_PPPOE_SESSION: Final = 0x8864
_TCP: Final = 6
_UDP: Final = 17
_FRAGMENT: Final = 44
_EXTENSIONS: Final = (0, 43, 60)
_PSH: Final = 0x08
_METHODS: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")
"""First four bytes of the methods of RFC 9110 section 9.1 and RFC 5789."""


class BpfError(ValueError):
    """The program cannot be written: a label is missing, too far, or it is too long."""


@dataclass(slots=True)
class Assembler:
    """Collects instructions whose jumps name labels, then writes them as the kernel takes them."""

    _lines: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> None:
        """Names the next instruction."""
        if name in self._labels:
            raise BpfError(f"label {name} twice")
        self._labels[name] = len(self._lines)

    def op(self, code: int, k: int = 0) -> None:
        """An instruction without a jump."""
        self._lines.append((code, k, "", "", ""))

    def go(self, target: str) -> None:
        """An unconditional jump, however far."""
        self._lines.append((JA, 0, "", "", target))

    def when(self, code: int, k: int, yes: str = "", no: str = "") -> None:
        """A conditional jump; an empty label falls through to the next instruction."""
        self._lines.append((code, k, yes, no, ""))

    def any_of(self, values: tuple[int, ...], yes: str) -> None:
        """Jumps to `yes`, however far, where the accumulator is one of the values."""
        if not values:
            return
        here = f"any.{len(self._lines)}"
        for value in values:
            self.when(JEQ, value, f"{here}.yes")
        self.go(f"{here}.no")
        self.label(f"{here}.yes")
        self.go(yes)
        self.label(f"{here}.no")

    def assemble(self) -> bytes:
        """The program, 8 bytes an instruction; raises BpfError."""
        if len(self._lines) > MAX_INSTRUCTIONS:
            raise BpfError(f"{len(self._lines)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
        return b"".join(
            _INSTRUCTION.pack(
                code,
                self._distance(at, yes, 255),
                self._distance(at, no, 255),
                self._distance(at, target, MAX_INSTRUCTIONS) if target else k,
            )
            for at, (code, k, yes, no, target) in enumerate(self._lines)
        )

    def _distance(self, at: int, label: str, limit: int) -> int:
        """Instructions between a jump and its target; the kernel takes forward jumps only."""
        if not label:
            return 0
        if label not in self._labels:
            raise BpfError(f"no label {label}")
        distance = self._labels[label] - at - 1
        if not 0 <= distance <= limit:
            raise BpfError(f"label {label} is {distance} instructions away")
        return distance


def program(ports: Ports, linktype: int = LINK_ETHERNET, snaplen: int = 65_535) -> bytes:
    """The filter for frames of `linktype` that gives at most `snaplen` bytes of what it passes.

    LINK_ETHERNET takes frames from their Ethernet header on, LINK_RAW from their IP header on.
    An empty port list switches its protocol off. Raises BpfError for another link type.
    """
    asm = Assembler()
    if linktype == LINK_ETHERNET:
        _ethernet(asm)
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
    _ip4(asm, snaplen)
    _ip6(asm, snaplen)
    _udp(asm, ports, snaplen)
    _tcp(asm, ports, snaplen)
    return asm.assemble()


def _verdicts(asm: Assembler, section: str, snaplen: int) -> None:
    """Ends a section with returns of its own, as conditional jumps reach 255 instructions only."""
    asm.label(f"{section}.reject")
    asm.op(RET, 0)
    asm.label(f"{section}.accept")
    asm.op(RET, snaplen)


def _ethernet(asm: Assembler) -> None:
    """Leaves X at the IP header. The kernel has taken off the outer tag of most tagged frames."""
    for header in (14, 18, 22):
        asm.op(LDX_IMM, header)
        asm.op(LDH_ABS, header - 2)
        asm.any_of((IPV4,), "ip4")
        asm.any_of((IPV6,), "ip6")
        asm.any_of((_PPPOE_SESSION,), "pppoe")
        if header < 22:
            asm.any_of(_VLANS, f"tagged.{header}")
            asm.op(RET, 0)
            asm.label(f"tagged.{header}")
    asm.op(RET, 0)
    # RFC 2516 section 4: six bytes of header, then the PPP protocol in two bytes, or in an odd one
    # where the field is compressed (RFC 1661 section 6.5), which some concentrators do.
    asm.label("pppoe")
    asm.op(LDB_X, 6)
    asm.when(JSET, 1, "pppoe.compressed")
    asm.op(LDH_X, 6)
    _move(asm, 8)
    asm.go("pppoe.protocol")
    asm.label("pppoe.compressed")
    _move(asm, 7)
    asm.label("pppoe.protocol")
    asm.any_of((0x0021,), "ip4")
    asm.any_of((0x0057,), "ip6")
    asm.op(RET, 0)


def _move(asm: Assembler, count: int) -> None:
    """Moves X on by `count` bytes and keeps the accumulator."""
    asm.op(ST, _KEEP)
    asm.op(TXA)
    asm.op(ADD_K, count)
    asm.op(TAX)
    asm.op(LD_MEM, _KEEP)


def _ip4(asm: Assembler, snaplen: int) -> None:
    """X at the IPv4 header; leaves X at the transport header and the packet's end in _END."""
    asm.label("ip4")
    asm.op(LDH_X, 2)
    asm.op(ADD_X)
    asm.op(ST, _END)
    asm.op(LDH_X, 6)
    asm.op(ST, _KEEP)
    asm.op(LDB_X, 9)
    asm.when(JEQ, _UDP, "ip4.udp")
    asm.when(JEQ, _TCP, "ip4.tcp", "ip4.reject")
    asm.label("ip4.udp")
    asm.op(LD_MEM, _KEEP)
    asm.when(JSET, 0x3FFF, "ip4.accept")  # more fragments, or an offset
    _ip4_skip(asm)
    asm.go("udp")
    asm.label("ip4.tcp")
    asm.op(LD_MEM, _KEEP)
    asm.when(JSET, 0x3FFF, "ip4.reject")
    _ip4_skip(asm)
    asm.go("tcp")
    _verdicts(asm, "ip4", snaplen)


def _ip4_skip(asm: Assembler) -> None:
    """Moves X over an IPv4 header and its options."""
    asm.op(LDB_X, 0)
    asm.op(AND_K, 0x0F)
    asm.op(LSH_K, 2)
    asm.op(ADD_X)
    asm.op(TAX)


def _ip6(asm: Assembler, snaplen: int) -> None:
    """X at the IPv6 header; leaves what `_ip4` leaves. One extension header is passed over."""
    asm.label("ip6")
    asm.op(LDH_X, 4)
    asm.op(ADD_X)
    asm.op(ADD_K, 40)
    asm.op(ST, _END)
    asm.op(LDB_X, 6)
    _move(asm, 40)
    for level in (0, 1):
        asm.any_of((_UDP,), "udp")
        asm.any_of((_TCP,), "tcp")
        asm.when(JEQ, _FRAGMENT, "ip6.fragment")
        if level == 0:
            asm.any_of(_EXTENSIONS, "ip6.extension")
            asm.go("ip6.reject")
            asm.label("ip6.extension")
            asm.op(LDB_X, 0)
            asm.op(ST, _KEEP)
            asm.op(LDB_X, 1)  # in 8 bytes, the first 8 not counted (RFC 8200 section 4)
            asm.op(ADD_K, 1)
            asm.op(LSH_K, 3)
            asm.op(ADD_X)
            asm.op(TAX)
            asm.op(LD_MEM, _KEEP)
    asm.go("ip6.reject")
    asm.label("ip6.fragment")
    asm.op(LDB_X, 0)
    asm.when(JEQ, _UDP, "ip6.accept")
    _verdicts(asm, "ip6", snaplen)


def _udp(asm: Assembler, ports: Ports, snaplen: int) -> None:
    """X at the UDP header."""
    asm.label("udp")
    either = (*ports.radius, *ports.sip)
    asm.op(LDH_X, 0)
    asm.any_of((*ports.dns, *either), "udp.accept")
    asm.op(LDH_X, 2)
    asm.any_of((*ports.dhcp, *either), "udp.accept")
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
    _verdicts(asm, "udp", snaplen)


def _tcp(asm: Assembler, ports: Ports, snaplen: int) -> None:
    """X at the TCP header. Every load into the payload stands behind a test of its length."""
    asm.label("tcp")
    asm.op(STX, _TRANSPORT)
    asm.op(LDB_X, 12)
    asm.op(AND_K, 0xF0)
    asm.op(RSH_K, 2)
    asm.op(ADD_X)
    asm.op(ST, _PAYLOAD)
    asm.op(LDX_MEM, _PAYLOAD)
    asm.op(LD_MEM, _END)
    # The kernel demands that a slot is written on every way to its use, and lets a way run on past
    # a return: so this jump goes to the end.
    asm.when(JGT_X, 0, "", "tcp.reject")
    asm.op(SUB_X)
    asm.op(ST, _LENGTH)
    if ports.tls:
        asm.when(JGE, 6, "", "tcp.ports")
        asm.op(LDH_X, 0)
        asm.when(JEQ, 0x1603, "", "tcp.ports")
        asm.op(LDB_X, 5)
        asm.when(JEQ, 1, "tcp.hello")
        asm.label("tcp.ports")
    asm.op(LDX_MEM, _TRANSPORT)
    asm.op(LDH_X, 0)
    asm.any_of((*ports.dns, *ports.sip), "tcp.accept")
    asm.op(LDH_X, 2)
    asm.any_of(ports.sip, "tcp.accept")
    asm.op(LDX_MEM, _PAYLOAD)
    asm.any_of(ports.tls, "tcp.tls")
    asm.any_of(ports.http, "tcp.http")
    asm.op(RET, 0)
    asm.label("tcp.hello")
    asm.op(RET, snaplen)
    _tails(asm)
    _verdicts(asm, "tcp", snaplen)


def _tails(asm: Assembler) -> None:
    """X at the payload: starts of records and requests, then what may continue one."""
    asm.label("tcp.tls")
    asm.op(LD_MEM, _LENGTH)
    asm.when(JGE, 2, "", "tcp.accept")
    asm.op(LDH_X, 0)
    asm.when(JEQ, 0x1603, "tcp.accept")
    asm.op(AND_K, 0xFCFF)  # change cipher spec 0x14, alert 0x15, application data 0x17
    asm.when(JEQ, 0x1403, "tcp.reject", "tcp.tail")
    asm.label("tcp.http")
    asm.op(LD_MEM, _LENGTH)
    asm.when(JGE, 4, "", "tcp.accept")
    asm.op(LDW_X, 0)
    for method in _METHODS:
        asm.when(JEQ, int.from_bytes(method, "big"), "tcp.accept")
    asm.label("tcp.tail")
    asm.op(LD_MEM, _LENGTH)
    asm.when(JGE, SHORT_BYTES, "", "tcp.accept")
    asm.when(JGT, TAIL_BYTES, "tcp.reject")
    asm.op(LDX_MEM, _TRANSPORT)
    asm.op(LDB_X, 13)
    asm.when(JSET, _PSH, "tcp.accept")
