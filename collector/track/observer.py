"""Observer: routes captured frames to the parsers and gives the events they make.

frame -> IP packet -> datagram (fragments put together) -> protocol, by port and by the role of the
interface: host names, DHCP and SIP on access interfaces, RADIUS and SIP on control interfaces.
RADIUS on an access interface is never read: a subscriber could forge the accounting of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from collector.parse import dns, http, ip, link, radius, sip, tls
from collector.parse.ip import SYN, TCP, UDP, Fragment, Packet
from collector.parse.link import Frame
from collector.parse.quic import QuicInitials
from collector.parse.radius import Accounting, AccountingAck
from collector.parse.reader import Incomplete, ParseError
from collector.parse.sip import SipEvent
from collector.track.fragments import FragmentTable
from collector.track.hosts import HostSeen, Resolution
from collector.track.reassembly import StreamTable, flow_key
from collector.wire.loss import Loss

Event = HostSeen | Resolution | Accounting | AccountingAck | SipEvent
Role = Literal["access", "control"]
Counts = dict[str, int]

MAX_PORTS: Final = 16
"""Ports a protocol: the capture filter tests them one by one."""
MAX_FOLLOWED: Final = 2_048
"""TCP connections followed for each of DNS and SIP; each may hold a message of 64 KiB, 128 MiB in
all at the worst. The one heard least recently goes; that matters only in mid-message."""
MAX_AHEAD: Final = 16
MAX_AHEAD_BYTES: Final = 65_536
"""Segments, and their bytes, that wait for one before them; more mean it was lost."""
FOLLOW_IDLE_NS: Final = 900 * 1_000_000_000
"""Silence after which a connection is forgotten. SIP over TCP is kept alive every two minutes (RFC
5626 section 4.4.1)."""

MAX_JUMP: Final = 4 * 1024 * 1024
"""A sequence number further off belongs to a new connection on the same ports."""

_HANDSHAKE: Final = 0x16
_STAGES: Final = (
    "frames",
    "packets",
    "dns",
    "tls",
    "http",
    "quic",
    "radius",
    "sip",
    "dhcp",
)
_LOSSES: Final = (
    ("fragments", "fragment-incomplete", "packets", ("visit", "call", "session", "binding")),
    ("streams", "stream-incomplete", "packets", ("visit",)),
    ("initials", "quic-incomplete", "packets", ("visit",)),
    ("dns", "dns-cut", "events", ("visit",)),
    ("sip", "sip-cut", "events", ("call",)),
)
"""Stage, reason, unit and record classes of each loss. A cut message stands for its segments."""

_WRAP: Final = 1 << 32
_HALF: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on which each protocol is looked for; an empty tuple switches it off.

    Raises ValueError for more than MAX_PORTS of a protocol, or for what is no port.
    """

    dns: tuple[int, ...] = (53,)
    tls: tuple[int, ...] = (443,)
    http: tuple[int, ...] = (80,)
    quic: tuple[int, ...] = (443,)
    radius: tuple[int, ...] = (1812, 1813)
    sip: tuple[int, ...] = (5060,)
    dhcp: tuple[int, ...] = (67, 68, 546, 547)

    def __post_init__(self) -> None:
        for name in ("dns", "tls", "http", "quic", "radius", "sip", "dhcp"):
            ports = getattr(self, name)
            if len(ports) > MAX_PORTS:
                raise ValueError(f"{name}: {len(ports)} ports, at most {MAX_PORTS}")
            if any(not 0 < port < 65_536 for port in ports):
                raise ValueError(f"{name}: ports are 1 to 65535")


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """`roles`: what each interface is read for, by its index as `Frame.interface` gives it.
    `secrets`: RADIUS shared secret by the sender's address in 16 bytes."""

    roles: Mapping[int, frozenset[Role]]
    ports: Ports = Ports()
    secrets: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


class Observer:
    """The state between frames: streams, fragments, QUIC handshakes and followed connections.

    Time is that of the frames. What cannot be parsed is counted, never raised.
    """

    def __init__(self, config: ObserverConfig) -> None:
        self._ports = config.ports
        self._secrets = config.secrets
        self._roles = dict(config.roles)
        self._fragments = FragmentTable()
        self._streams = StreamTable()
        self._initials = QuicInitials()
        self._dns_tcp = _Follower(_DnsFramer)
        self._sip_tcp = _Follower(sip.Framer)
        self._stages: dict[str, Counter[str]] = {
            name: Counter(seen=0, recorded=0, ignored=0, lost=0, malformed=0) for name in _STAGES
        }
        self._told: dict[str, int] = {}
        self._told_ns = 0

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage; in each, seen = recorded + ignored + lost + open.

        frames: recorded ones held a packet or fragment. fragments. packets: recorded ones were
        routed to a protocol. streams (segments of clients), initials (datagrams), dns-segments and
        sip-segments: what messages are put together from. dns, tls, http, quic, radius, sip,
        dhcp: messages; recorded ones became an event. Malformed ones are among the ignored, which
        are also counted by rule as "ignored.RULE". dhcp is not read yet, so all of it is ignored.
        """
        return {
            **{name: {**counts, "open": 0} for name, counts in self._stages.items()},
            "fragments": {**self._fragments.counts, "open": self._fragments.open},
            "streams": {**self._streams.counts, "open": self._streams.open},
            "initials": {**self._initials.counts, "open": self._initials.open},
            "dns-segments": {**self._dns_tcp.counts, "open": self._dns_tcp.open},
            "sip-segments": {**self._sip_tcp.counts, "open": self._sip_tcp.open},
        }

    def assign(self, interface: int, roles: frozenset[Role]) -> None:
        """Sets what an interface is read for, as its index changes when it is made anew; the empty
        set forgets it."""
        if roles:
            self._roles[interface] = roles
        else:
            self._roles.pop(interface, None)

    def frame(self, frame: Frame) -> list[Event]:
        """The events a frame completes, in order."""
        counts = self._stages["frames"]
        counts["seen"] += 1
        roles = self._roles.get(frame.interface)
        if roles is None:
            _ignore(counts, "interface")
            return []
        try:
            found = link.unwrap(frame.data, frame.linktype)
            packet = ip.parse(frame.ts_ns, *found) if found else None
        except ParseError:
            _malformed(counts)
            return []
        if packet is None:
            _ignore(counts, "not-ip")
            return []
        counts["recorded"] += 1
        if isinstance(packet, Fragment):
            try:
                packet = self._fragments.add(packet, frame.ts_ns)
            except ParseError:
                return []  # counted by the table
            if packet is None:
                return []
        return self._route(packet, roles)

    def tick(self, now_ns: int) -> None:
        """Forgets connections that fell silent. The other tables do so with each packet."""
        self._dns_tcp.expire(now_ns)
        self._sip_tcp.expire(now_ns)

    def losses(self, now_ns: int) -> list[Loss]:
        """What was given up half-way since the last call."""
        counts = self.counts
        found = []
        for stage, reason, unit, classes in _LOSSES:
            lost = counts[stage]["lost"]
            if lost > self._told.get(stage, 0):
                amount = lost - self._told.get(stage, 0)
                since = self._told_ns or now_ns
                found.append(Loss(since, now_ns, "track", reason, amount, unit, classes))
                self._told[stage] = lost
        self._told_ns = now_ns
        return found

    def _route(self, packet: Packet, roles: frozenset[Role]) -> list[Event]:
        ports = self._ports
        sport, dport = packet.sport, packet.dport
        counts = self._stages["packets"]
        counts["seen"] += 1
        counts["recorded"] += 1
        access = "access" in roles
        # Servers' ports come before those of SIP, which a client may have picked for itself.
        if packet.proto == UDP:
            if access and sport in ports.dns:
                return self._dns(packet, packet.payload)
            if access and dport in ports.quic:
                return self._quic(packet)
            if access and dport in ports.dhcp:
                self._stages["dhcp"]["seen"] += 1
                _ignore(self._stages["dhcp"], "unread")
                return []
            if "control" in roles and (sport in ports.radius or dport in ports.radius):
                return self._radius(packet)
            if sport in ports.sip or dport in ports.sip:
                return self._sip(packet, packet.payload)
        elif packet.proto == TCP:
            if access and (dport in ports.tls or dport in ports.http):
                return self._stream(packet)
            if access and sport in ports.dns:
                return self._dns_segment(packet)
            if sport in ports.sip or dport in ports.sip:
                return self._sip_segment(packet)
            if access and ports.tls and tls.looks_like_client_hello(packet.payload):
                return self._elsewhere(packet)
        counts["recorded"] -= 1
        _ignore(counts, "no-route")
        return []

    def _dns(self, packet: Packet, message: bytes) -> list[Event]:
        counts = self._stages["dns"]
        counts["seen"] += 1
        try:
            answer = dns.parse_answer(message)
        except ParseError:
            _malformed(counts)
            return []
        if answer is None:
            _ignore(counts, "no-answer")
            return []
        counts["recorded"] += 1
        return [Resolution(packet.ts_ns, packet.dst, packet.src, answer.host, answer.addresses)]

    def _dns_segment(self, packet: Packet) -> list[Event]:
        messages, broken = self._dns_tcp.feed(packet)
        self._broken("dns", broken)
        return [event for message in messages for event in self._dns(packet, message)]

    def _sip(self, packet: Packet, message: bytes) -> list[Event]:
        counts = self._stages["sip"]
        counts["seen"] += 1
        try:
            event = sip.parse(
                message,
                packet.ts_ns,
                packet.src,
                packet.sport,
                packet.dst,
                packet.dport,
                packet.proto,
            )
        except ParseError:
            _malformed(counts)
            return []
        if event is None:
            _ignore(counts, "not-sip")
            return []
        counts["recorded"] += 1
        return [event]

    def _sip_segment(self, packet: Packet) -> list[Event]:
        if tls.looks_like_client_hello(packet.payload):
            # Encrypted signalling is counted, so that it is not mistaken for no calls.
            self._stages["sip"]["seen"] += 1
            _ignore(self._stages["sip"], "blind")
            return []
        messages, broken = self._sip_tcp.feed(packet)
        self._broken("sip", broken)
        return [event for message in messages for event in self._sip(packet, message)]

    def _broken(self, stage: str, messages: int) -> None:
        """Messages that a gap or an eviction cut in two."""
        self._stages[stage]["seen"] += messages
        self._stages[stage]["lost"] += messages

    def _radius(self, packet: Packet) -> list[Event]:
        counts = self._stages["radius"]
        counts["seen"] += 1
        try:
            event = radius.parse(packet, self._secrets)
        except ParseError:
            _malformed(counts)
            return []
        if event is None:
            _ignore(counts, "other-code")
            return []
        counts["recorded"] += 1
        return [event]

    def _quic(self, packet: Packet) -> list[Event]:
        try:
            hello = self._initials.datagram(packet)
        except ParseError:
            return []  # counted by the table
        if hello is None:
            return []
        self._stages["quic"]["seen"] += 1
        return self._name(packet, "quic", hello.host, hello.ech)

    def _stream(self, packet: Packet) -> list[Event]:
        """A segment towards a port of TLS or HTTP; which of them it is the first byte says."""
        stream = self._streams.feed(packet, packet.ts_ns)
        if stream is None:
            return []
        evidence: Literal["tls", "http"] = "tls" if stream[0] == _HANDSHAKE else "http"
        key = flow_key(packet)
        host, ech = "", False
        try:
            if evidence == "tls":
                hello = tls.parse_client_hello(stream)
                if isinstance(hello, Incomplete):
                    self._streams.expect(key, hello.need)
                    return []
                host, ech = hello.host, hello.ech
            else:
                head = http.parse_request_host(stream)
                if isinstance(head, Incomplete):
                    self._streams.expect(key, head.need)
                    return []
                host = head
        except ParseError:
            self._streams.finish(key)
            self._stages[evidence]["seen"] += 1
            _malformed(self._stages[evidence])
            return []
        self._streams.finish(key)
        self._stages[evidence]["seen"] += 1
        return self._name(packet, evidence, host, ech)

    def _elsewhere(self, packet: Packet) -> list[Event]:
        """A ClientHello to a port that is not listed. The filter passes no tail there, so only one
        that is whole can be read."""
        counts = self._stages["tls"]
        counts["seen"] += 1
        try:
            hello = tls.parse_client_hello(packet.payload)
        except ParseError:
            _malformed(counts)
            return []
        if isinstance(hello, Incomplete):
            _ignore(counts, "unlisted-port")
            return []
        return self._name(packet, "tls", hello.host, hello.ech)

    def _name(
        self, packet: Packet, evidence: Literal["tls", "quic", "http"], host: str, ech: bool
    ) -> list[Event]:
        """The event of a name, where there is one; the stage has it as seen."""
        counts = self._stages[evidence]
        if not host:
            _ignore(counts, "no-name")
            return []
        counts["recorded"] += 1
        return [
            HostSeen(
                packet.ts_ns,
                evidence,
                packet.src,
                packet.dst,
                packet.proto,
                packet.sport,
                packet.dport,
                host,
                ech,
            )
        ]


class _Framer(Protocol):
    """Cuts contiguous bytes into messages; `skipped` counts bytes that made none."""

    skipped: int

    def feed(self, data: bytes) -> list[bytes]: ...

    def gap(self) -> None: ...


class _DnsFramer:
    """DNS over TCP (RFC 7766 section 8). After a gap the next segment is taken to begin a message,
    as servers write one at a time; where it does not, its bytes are skipped."""

    __slots__ = ("_rest", "skipped")

    def __init__(self) -> None:
        self._rest = b""
        self.skipped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole."""
        out: list[bytes] = []
        self._rest += data
        try:
            while True:
                messages, self._rest = dns.split_tcp(self._rest)
                if not messages:
                    return out
                out += messages
        except ParseError:
            self.gap()
        return out

    def gap(self) -> None:
        """Bytes are missing here."""
        self.skipped += len(self._rest)
        self._rest = b""


@dataclass(slots=True)
class _Connection:
    """One direction: the next sequence number and the segments that came ahead of it."""

    next_seq: int
    heard_ns: int
    framer: _Framer
    ahead: dict[int, bytes] = field(default_factory=dict)


class _Follower:
    """Follows whole connections, picked up anywhere, each way on its own.

    `counts` are of segments: recorded ones reached the framer, lost ones were held when the
    connection was given up; a gap before them shows in the messages it broke.
    """

    def __init__(self, framer: Callable[[], _Framer]) -> None:
        self._framer = framer
        self._table: dict[tuple[bytes, bytes, int, int], _Connection] = {}
        self.counts = dict.fromkeys(("seen", "recorded", "ignored", "lost", "gaps", "evicted"), 0)

    @property
    def open(self) -> int:
        """Segments that wait for one before them."""
        return sum(len(connection.ahead) for connection in self._table.values())

    def feed(self, packet: Packet) -> tuple[list[bytes], int]:
        """The messages a segment completes, and how many were broken on the way."""
        self.counts["seen"] += 1
        key = flow_key(packet)
        connection = self._table.pop(key, None)
        seq = (packet.seq + bool(packet.flags & SYN)) % _WRAP
        fresh = connection is None or bool(packet.flags & SYN)
        broken = 0
        if connection is None or fresh:
            if connection is not None:
                broken = self._give_up(connection)
            connection = _Connection(seq, packet.ts_ns, self._framer())
        elif _ahead(seq, connection.next_seq) not in range(-MAX_JUMP, MAX_JUMP):
            broken = self._give_up(connection)
            connection = _Connection(seq, packet.ts_ns, self._framer())
        self._table[key] = connection
        connection.heard_ns = packet.ts_ns
        if len(self._table) > MAX_FOLLOWED:
            self.counts["evicted"] += 1
            broken += self._give_up(self._table.pop(next(iter(self._table))))
        if not packet.payload or not self._hold(connection, seq, packet.payload):
            self.counts["ignored"] += 1
            return [], broken
        before = connection.framer.skipped
        messages = self._drain(connection)
        return messages, broken + (connection.framer.skipped > before)

    def expire(self, now_ns: int) -> None:
        """Forgets silent connections; the table is in order of last sight."""
        while self._table:
            key, connection = next(iter(self._table.items()))
            if now_ns - connection.heard_ns <= FOLLOW_IDLE_NS:
                return
            del self._table[key]
            self._give_up(connection)

    def _give_up(self, connection: _Connection) -> int:
        """Counts what a connection held; 1 if that was part of a message, else 0."""
        self.counts["lost"] += len(connection.ahead)
        before = connection.framer.skipped
        connection.framer.gap()
        return int(bool(connection.ahead) or connection.framer.skipped > before)

    def _hold(self, connection: _Connection, seq: int, payload: bytes) -> bool:
        """Keeps what a segment has of new bytes; whether it had any."""
        behind = -_ahead(seq, connection.next_seq)
        if behind > 0:
            seq, payload = connection.next_seq, payload[behind:]
        held = connection.ahead.get(seq, b"")
        if len(held) >= len(payload):
            return False
        connection.ahead[seq] = payload
        # The shorter copy in its place is a repeat.
        self.counts["ignored"] += bool(held)
        return True

    def _drain(self, connection: _Connection) -> list[bytes]:
        """Gives the framer what is contiguous; past a gap when too much waits behind it."""
        messages: list[bytes] = []
        while connection.ahead:
            seq = min(connection.ahead, key=lambda at: _ahead(at, connection.next_seq))
            distance = _ahead(seq, connection.next_seq)
            if distance > 0:
                held = sum(map(len, connection.ahead.values()))
                if len(connection.ahead) <= MAX_AHEAD and held <= MAX_AHEAD_BYTES:
                    break
                self.counts["gaps"] += 1
                connection.framer.gap()
                connection.next_seq = seq
                continue
            data = connection.ahead.pop(seq)[-distance:]
            self.counts["recorded" if data else "ignored"] += 1
            connection.next_seq = (connection.next_seq + len(data)) % _WRAP
            messages += connection.framer.feed(data)
        return messages


def _ahead(seq: int, reference: int) -> int:
    """How far a sequence number is ahead of another, negative behind (RFC 9293 section 3.4)."""
    return (seq - reference + _HALF) % _WRAP - _HALF


def _ignore(counts: Counter[str], rule: str) -> None:
    counts["ignored"] += 1
    counts[f"ignored.{rule}"] += 1


def _malformed(counts: Counter[str]) -> None:
    counts["malformed"] += 1
    _ignore(counts, "malformed")
