"""Scripts of SIP calls: turns what two ends say, and when, into Ethernet frames.

A `Hop` is one hop of one call: it makes the messages of both ends and puts them on the wire over
UDP or TCP, IPv4 or IPv6. Times are seconds after `T0`. Packets are scapy's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

T0: Final = 1_800_000_000
"""2027-01-15 08:00:00 UTC."""
SECOND_NS: Final = 1_000_000_000
LINE, LINE6 = "100.64.0.7", "2001:db8:64::7"
CORE, CORE6 = "192.0.2.10", "2001:db8:c0::10"
ALICE, BOB = "sip:+442079460001@example.net", "sip:+442079460002@example.net"
REASONS: Final = {
    100: "Trying", 180: "Ringing", 183: "Session Progress", 199: "Early Dialog Terminated",
    200: "OK", 202: "Accepted", 301: "Moved Permanently", 302: "Moved Temporarily",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 407: "Proxy Authentication Required",
    408: "Request Timeout", 422: "Session Interval Too Small", 480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist", 486: "Busy Here", 487: "Request Terminated",
    488: "Not Acceptable Here", 491: "Request Pending", 494: "Security Agreement Required",
    503: "Service Unavailable", 600: "Busy Everywhere", 603: "Decline",
}  # fmt: skip
SECRET: Final = "aSecretThatIsNobodys"
"""In the bodies of messages; it must be in no record."""
SDP: Final = (
    "v=0\r\no=- %s 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    f"m=audio 4000 RTP/AVP 8\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{SECRET}\r\n"
)
Frames = list[tuple[int, bytes]]
Wrap = Callable[[Packet], Packet]


class Hop:
    """One hop of one call between a caller's and a callee's address.

    dialled: Request-URI of the INVITE. branch: of the INVITE's Via, so that forks and hops differ.
    mtu: longer packets go as IP fragments. segment: bytes of a TCP segment. origin: of the
    session description, of its own for each call by default. wrap: what to put around each packet.
    `frames` holds what was said so far, in order of time.
    """

    def __init__(
        self,
        caller: str = LINE,
        callee: str = CORE,
        *,
        call_id: str = "c1@example.net",
        a: str = ALICE,
        b: str = BOB,
        dialled: str = "",
        transport: str = "UDP",
        port: int = 5060,
        branch: str = "b1",
        from_tag: str = "alice",
        to_tag: str = "bob",
        mtu: int = 1500,
        segment: int = 1400,
        origin: str = "",
        wrap: Wrap | None = None,
    ) -> None:
        self.caller, self.callee, self.call_id, self.a, self.b = caller, callee, call_id, a, b
        self.dialled = dialled or b
        self.transport, self.port, self.branch = transport, port, branch
        self.from_tag, self.to_tag, self.mtu, self.segment = from_tag, to_tag, mtu, segment
        self.wrap = wrap
        self.sdp = SDP % (origin or zlib.crc32(call_id.encode()))
        self.frames: Frames = []
        self._seq = {True: 1_000, False: 9_000}

    # What is said

    def request(
        self,
        at: float,
        method: str,
        cseq: int = 1,
        *headers: str,
        to_tag: str | None = None,
        branch: str = "",
        body: str = "",
        back: bool = False,
        uri: str = "",
    ) -> str:
        """A request inside the dialog; `back` for one of the callee's. Says it and gives it."""
        to_tag = self.to_tag if to_tag is None else to_tag
        mine, theirs = (self.a, self.from_tag), (self.b, to_tag)
        if back:
            mine, theirs = theirs, mine
        sender = self.callee if back else self.caller
        lines = [
            f"{method} {uri or self.dialled} SIP/2.0",
            self._via(sender, branch or f"{self.branch}-{method}-{cseq}{'-b' if back else ''}"),
            f"From: <{mine[0]}>;tag={mine[1]}",
            f"To: <{theirs[0]}>" + (f";tag={theirs[1]}" if theirs[1] else ""),
            f"CSeq: {cseq} {method}",
        ]
        return self.say(at, self._text(lines, headers, body), back=back)

    def invite(self, at: float, cseq: int = 1, *headers: str, branch: str = "") -> str:
        """The INVITE that begins the call, or tries again with another CSeq."""
        branch = branch or f"{self.branch}-INVITE-{cseq}"
        return self.request(at, "INVITE", cseq, *headers, to_tag="", branch=branch, body=self.sdp)

    def reply(
        self,
        at: float,
        status: int,
        cseq: int = 1,
        *headers: str,
        method: str = "INVITE",
        to_tag: str | None = None,
        branch: str = "",
        back: bool = False,
    ) -> str:
        """A response; `back` for one that the caller gives to a request of the callee."""
        to_tag = ("" if status == 100 else self.to_tag) if to_tag is None else to_tag
        mine, theirs = (self.a, self.from_tag), (self.b, to_tag)
        if back:
            mine, theirs = theirs, mine
        sender = self.callee if back else self.caller
        lines = [
            f"SIP/2.0 {status} {REASONS[status]}",
            self._via(sender, branch or f"{self.branch}-{method}-{cseq}{'-b' if back else ''}"),
            f"From: <{mine[0]}>;tag={mine[1]}",
            f"To: <{theirs[0]}>" + (f";tag={theirs[1]}" if theirs[1] else ""),
            f"CSeq: {cseq} {method}",
        ]
        body = self.sdp if status == 200 and method == "INVITE" else ""
        return self.say(at, self._text(lines, headers, body), back=not back)

    def ack(self, at: float, cseq: int = 1, *, to_tag: str | None = None, branch: str = "") -> str:
        return self.request(at, "ACK", cseq, to_tag=to_tag, branch=branch or f"a-{cseq}-{to_tag}")

    def cancel(self, at: float, *headers: str) -> str:
        branch = f"{self.branch}-INVITE-1"
        return self.request(at, "CANCEL", 1, *headers, to_tag="", branch=branch)

    def bye(self, at: float, cseq: int = 2, *headers: str, back: bool = False) -> str:
        return self.request(at, "BYE", cseq, *headers, back=back)

    def answered(self, at: float, ring: float, answer: float, cseq: int = 1) -> None:
        """INVITE, 100, 180, 200 and ACK, the simplest way to a conversation."""
        self.invite(at, cseq)
        self.reply(at + 0.01, 100, cseq)
        self.reply(ring, 180, cseq)
        self.reply(answer, 200, cseq)
        self.ack(answer + 0.05, cseq)

    def hung_up(self, at: float, cseq: int = 2, *, back: bool = False) -> None:
        """BYE and the 200 to it."""
        self.bye(at, cseq, back=back)
        self.reply(at + 0.02, 200, cseq, method="BYE", back=back)

    # How it is carried

    def say(self, at: float, text: str, *, back: bool = False) -> str:
        """Put a text on the wire at a time, from the callee's end where `back`."""
        self.carry(at, text.encode(), back=back)
        return text

    def carry(self, at: float, data: bytes, *, back: bool = False, sequence: int = -1) -> None:
        """Put bytes on the wire: one datagram, or segments from `sequence` or the next on."""
        src, dst = (self.callee, self.caller) if back else (self.caller, self.callee)
        network = IPv6 if ":" in src else IP
        head = network(src=src, dst=dst)
        if self.transport == "UDP":
            packets = self._fragments(head / UDP(sport=self.port, dport=self.port) / data)
        else:
            begin = self._seq[back] if sequence < 0 else sequence
            cut = [data[k : k + self.segment] for k in range(0, len(data), self.segment)]
            packets = [
                head / TCP(sport=self.port, dport=self.port, flags="PA", seq=begin + k) / part
                for k, part in zip(range(0, len(data), self.segment), cut, strict=True)
            ]
            if sequence < 0:
                self._seq[back] += len(data)
        ends = ("02:00:00:00:00:09", "02:00:00:00:00:0a")
        src_mac, dst_mac = ends[::-1] if back else ends
        for number, packet in enumerate(packets):
            whole = self.wrap(packet) if self.wrap else packet
            frame = bytes(Ether(src=src_mac, dst=dst_mac) / whole)
            # Nanoseconds apart, so that the order of one message's packets is that of their times.
            self.frames.append((T0 * SECOND_NS + round(at * SECOND_NS) + number, frame))

    def _fragments(self, packet: Packet) -> list[Packet]:
        if len(packet) <= self.mtu:
            return [packet]
        if isinstance(packet, IP):
            packet.id = len(self.frames) + 1
            return list(fragment(packet, self.mtu - 20))
        ext = IPv6ExtHdrFragment(id=len(self.frames) + 1)
        whole = IPv6(src=packet.src, dst=packet.dst) / ext / packet.payload
        return list(fragment6(whole, self.mtu))

    def _via(self, host: str, branch: str) -> str:
        host = f"[{host}]" if ":" in host else host
        return f"Via: SIP/2.0/{self.transport} {host}:{self.port};branch=z9hG4bK-{branch}"

    def _text(self, lines: Sequence[str], headers: Iterable[str], body: str) -> str:
        kind = ["Content-Type: application/sdp"] if body else []
        head = [*lines, f"Call-ID: {self.call_id}", "Max-Forwards: 70", *headers, *kind]
        return "\r\n".join([*head, f"Content-Length: {len(body)}", "", body])


def through_agent(one: Hop, two: Hop, *more: str) -> Frames:
    """A call by way of a back-to-back agent, answered after 3 s and ended 10 s later: `one` is the
    leg before it and `two` the one behind; `more` are headers of both INVITEs."""
    one.invite(0, 1, *more)
    two.invite(0.2, 1, *more)
    two.reply(3, 200)
    one.reply(3.05, 200)
    one.ack(3.1)
    two.ack(3.15)
    one.hung_up(13.05)
    two.hung_up(13.1)
    return merged(one, two)


def merged(*hops: Hop) -> Frames:
    """The frames of several hops in order of time."""
    return sorted((each for hop in hops for each in hop.frames), key=lambda each: each[0])
