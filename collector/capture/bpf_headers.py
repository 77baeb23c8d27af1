"""The parts of the filter that walk over link and IP headers to those of TCP and UDP."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from collector.capture.bpf_assembler import (
    ADD_K,
    ADD_X,
    AND_K,
    JEQ,
    JSET,
    LD_MEM,
    LDB_X,
    LDH_ABS,
    LDH_X,
    LDW_X,
    LDX_IMM,
    LSH_K,
    RET,
    ST,
    TAX,
    TXA,
    Assembler,
)
from collector.parse.link import IPV4, IPV6
from collector.parse.pppoe import DISCOVERY, PPP_CHAP, PPP_IPCP, PPP_PAP, SESSION
from collector.wire.addr import MAPPED

# Scratch memory: what each slot holds once its section has run.
TRANSPORT: Final = 0  # offset of the TCP or UDP header
KEEP: Final = 1  # a value kept over an address computation
END: Final = 2  # offset just after the IP packet, which Ethernet padding may follow
PAYLOAD: Final = 3  # offset of the TCP payload
LENGTH: Final = 4  # bytes of the TCP payload, at least 1

_VLANS: Final = (0x8100, 0x88A8, 0x9100)
_TCP: Final = 6
_UDP: Final = 17
_FRAGMENT: Final = 44
_IN_IP: Final = ((4, "4"), (41, "6"))
"""IPv4 and IPv6 in IP (RFC 2003, RFC 2473, RFC 4213), and the section that reads them."""
_CUT: Final = 0x3FFF
"""More fragments, or an offset."""
_EXTENSIONS: Final = (0, 43, 60)
_MAX_EXTENSIONS: Final = 3
"""Each of the kinds once, which is what RFC 8200 section 4.1 recommends but for destinations."""
_MPLS: Final = (0x8847, 0x8848)
_LABELS: Final = 4
"""Labels of a stack that are passed over: transport, service, and two for protection or entropy."""


def verdicts(asm: Assembler, section: str, snaplen: int) -> None:
    """Ends a section with returns of its own, as conditional jumps reach 255 instructions only."""
    asm.label(f"{section}.reject")
    asm.op(RET, 0)
    asm.label(f"{section}.accept")
    asm.op(RET, snaplen)


def ethernet(asm: Assembler, snaplen: int) -> None:
    """Passes the control of PPPoE, else leaves X at the IP header.

    The kernel has taken off the outer tag of most tagged frames.
    """
    for header in (14, 18, 22):
        asm.op(LDX_IMM, header)
        asm.op(LDH_ABS, header - 2)
        asm.any_of((IPV4,), "ip4")
        asm.any_of((IPV6,), "ip6")
        asm.any_of((SESSION,), "pppoe")
        asm.any_of(_MPLS, "mpls")
        asm.any_of((DISCOVERY,), "pppoe.accept")
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
    asm.any_of((PPP_IPCP, PPP_PAP, PPP_CHAP), "pppoe.accept")
    verdicts(asm, "pppoe", snaplen)
    _mpls(asm)


def _mpls(asm: Assembler) -> None:
    """X at the first label of a stack (RFC 3032); IP follows the last one, Ethernet is not read."""
    asm.label("mpls")
    for _ in range(_LABELS):
        asm.op(LDB_X, 2)
        _move(asm, 4)
        asm.when(JSET, 1, "mpls.bottom")
    asm.op(RET, 0)
    asm.label("mpls.bottom")
    asm.op(LDB_X, 0)
    asm.op(AND_K, 0xF0)
    asm.any_of((0x40,), "ip4")
    asm.any_of((0x60,), "ip6")
    asm.op(RET, 0)


def _move(asm: Assembler, count: int) -> None:
    """Moves X on by `count` bytes and keeps the accumulator."""
    asm.op(ST, KEEP)
    asm.op(TXA)
    asm.op(ADD_K, count)
    asm.op(TAX)
    asm.op(LD_MEM, KEEP)


def ip4(
    asm: Assembler, snaplen: int, unheard: Sequence[bytes], name: str = "ip4", inside: str = ""
) -> None:
    """X at the IPv4 header; leaves X at the transport header and the packet's end in END.

    Refuses what is sent to an address of `unheard`, 16 bytes each. `name` is the section's. IP
    that it carries goes on at the sections "4" and "6" of `inside`, nowhere where that is empty;
    fragments of such a packet do not, as no port is in most of them.
    """
    asm.label(name)
    short = [each[12:] for each in unheard if each[:12] == MAPPED]
    if short:
        asm.op(LDW_X, 16)
        asm.any_of(tuple(int.from_bytes(each, "big") for each in short), f"{name}.unheard")
        asm.go(f"{name}.heard")
        asm.label(f"{name}.unheard")
        asm.op(RET, 0)
        asm.label(f"{name}.heard")
    asm.op(LDH_X, 2)
    asm.op(ADD_X)
    asm.op(ST, END)
    asm.op(LDH_X, 6)
    asm.op(ST, KEEP)
    asm.op(LDB_X, 9)
    asm.when(JEQ, _UDP, f"{name}.udp")
    onward = {_TCP: "tcp"} | ({number: inside + kind for number, kind in _IN_IP} if inside else {})
    for number in onward:
        asm.when(JEQ, number, f"{name}.to.{number}")
    asm.go(f"{name}.reject")
    asm.label(f"{name}.udp")
    asm.op(LD_MEM, KEEP)
    asm.when(JSET, _CUT, f"{name}.accept")
    _ip4_skip(asm)
    asm.go("udp")
    for number, target in onward.items():
        asm.label(f"{name}.to.{number}")
        asm.op(LD_MEM, KEEP)
        asm.when(JSET, _CUT, f"{name}.reject")
        _ip4_skip(asm)
        asm.go(target)
    verdicts(asm, name, snaplen)


def _ip4_skip(asm: Assembler) -> None:
    """Moves X over an IPv4 header and its options."""
    asm.op(LDB_X, 0)
    asm.op(AND_K, 0x0F)
    asm.op(LSH_K, 2)
    asm.op(ADD_X)
    asm.op(TAX)


def ip6(
    asm: Assembler, snaplen: int, unheard: Sequence[bytes], name: str = "ip6", inside: str = ""
) -> None:
    """X at the IPv6 header; does what `ip4` does. Three extension headers are passed over."""
    asm.label(name)
    for number, address in enumerate(each for each in unheard if each[:12] != MAPPED):
        for at, word in zip((24, 28, 32, 36), struct.unpack(">4I", address), strict=True):
            asm.op(LDW_X, at)
            asm.when(JEQ, word, "", f"{name}.heard.{number}")
        asm.op(RET, 0)
        asm.label(f"{name}.heard.{number}")
    asm.op(LDH_X, 4)
    asm.op(ADD_X)
    asm.op(ADD_K, 40)
    asm.op(ST, END)
    asm.op(LDB_X, 6)
    _move(asm, 40)
    for level in range(_MAX_EXTENSIONS + 1):
        asm.any_of((_UDP,), "udp")
        asm.any_of((_TCP,), "tcp")
        for number, kind in _IN_IP if inside else ():
            asm.any_of((number,), inside + kind)
        asm.when(JEQ, _FRAGMENT, f"{name}.fragment")
        if level < _MAX_EXTENSIONS:
            asm.any_of(_EXTENSIONS, f"{name}.extension.{level}")
            asm.go(f"{name}.reject")
            asm.label(f"{name}.extension.{level}")
            asm.op(LDB_X, 0)
            asm.op(ST, KEEP)
            asm.op(LDB_X, 1)  # in 8 bytes, the first 8 not counted (RFC 8200 section 4)
            asm.op(ADD_K, 1)
            asm.op(LSH_K, 3)
            asm.op(ADD_X)
            asm.op(TAX)
            asm.op(LD_MEM, KEEP)
    asm.go(f"{name}.reject")
    asm.label(f"{name}.fragment")
    asm.op(LDB_X, 0)
    asm.when(JEQ, _UDP, f"{name}.accept")
    verdicts(asm, name, snaplen)
