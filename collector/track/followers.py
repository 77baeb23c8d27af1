"""Segments of TCP connections followed from end to end into whole messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from collector.parse import dns
from collector.parse.ip import SYN, Packet
from collector.parse.reader import ParseError
from collector.track.reassembly import FlowKey, flow_key

Message = tuple[Packet, bytes]
"""A message, and the segment in which it was complete: its time is when it happened."""

MAX_FOLLOWED: Final = 2_048
"""TCP connections followed for each of DNS and SIP; each may hold a message of 64 KiB, 128 MiB in
all at the worst. The one heard least recently goes; that matters only in mid-message."""
MAX_AHEAD: Final = 16
MAX_AHEAD_BYTES: Final = 65_536
"""Segments, and their bytes, that wait for one before them; more mean it was lost."""
FOLLOW_IDLE_NS: Final = 900 * 1_000_000_000
"""Silence after which a connection is forgotten. SIP over TCP is kept alive every two minutes (RFC
5626 section 4.4.1)."""

GAP_NS: Final = 3 * 1_000_000_000
"""How long segments wait for one before them. A sender repeats a lost one after one and after three
seconds at the latest (RFC 6298 section 2); what we did not capture nobody repeats."""

MAX_JUMP: Final = 4 * 1024 * 1024
"""A sequence number further off belongs to a new connection on the same ports."""

_WRAP: Final = 1 << 32
_HALF: Final = 1 << 31


class Framer(Protocol):
    """Cuts contiguous bytes into messages; `skipped` counts bytes that made none."""

    skipped: int

    def feed(self, data: bytes) -> list[bytes]: ...

    def gap(self) -> None: ...


class DnsFramer:
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
    framer: Framer
    ahead: dict[int, tuple[Packet, bytes]] = field(default_factory=dict)
    """By sequence number the segment, and what of its payload is new."""


class Follower:
    """Follows whole connections, picked up anywhere, each way on its own.

    `counts` are of segments: recorded ones reached the framer, lost ones were held when the
    connection was given up; a gap before them shows in the messages it broke.
    """

    def __init__(self, framer: Callable[[], Framer]) -> None:
        self._framer = framer
        self._table: dict[FlowKey, _Connection] = {}
        self._waiting: dict[FlowKey, int] = {}
        self.counts = dict.fromkeys(("seen", "recorded", "ignored", "lost", "gaps", "evicted"), 0)

    @property
    def open(self) -> int:
        """Segments that wait for one before them."""
        return sum(len(connection.ahead) for connection in self._table.values())

    def feed(self, packet: Packet) -> tuple[list[Message], int]:
        """The messages a segment completes, each with the segment in which it did, and how many
        were broken on the way."""
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
        if not packet.payload or not self._hold(connection, seq, packet):
            self.counts["ignored"] += 1
            return [], broken
        before = connection.framer.skipped
        messages = self._drain(connection)
        if not connection.ahead:
            self._waiting.pop(key, None)
        elif messages or key not in self._waiting:
            self._waiting[key] = packet.ts_ns
        return messages, broken + (connection.framer.skipped > before)

    def expire(self, now_ns: int) -> tuple[list[Message], int]:
        """Forgets silent connections, and gives up gaps that lasted too long; as `feed`."""
        messages: list[Message] = []
        broken = 0
        for key in [key for key, since in self._waiting.items() if now_ns - since > GAP_NS]:
            del self._waiting[key]
            connection = self._table.get(key)
            if connection is not None and connection.ahead:
                messages += self._drain(connection, past_gaps=True)
                broken += 1
        # The table is in order of last sight.
        while self._table:
            key, connection = next(iter(self._table.items()))
            if now_ns - connection.heard_ns <= FOLLOW_IDLE_NS:
                break
            del self._table[key]
            self._give_up(connection)
        return messages, broken

    def _give_up(self, connection: _Connection) -> int:
        """Counts what a connection held; 1 if that was part of a message, else 0."""
        self.counts["lost"] += len(connection.ahead)
        before = connection.framer.skipped
        connection.framer.gap()
        return int(bool(connection.ahead) or connection.framer.skipped > before)

    def _hold(self, connection: _Connection, seq: int, packet: Packet) -> bool:
        """Keeps what a segment has of new bytes; whether it had any."""
        payload = packet.payload
        behind = -_ahead(seq, connection.next_seq)
        if behind > 0:
            seq, payload = connection.next_seq, payload[behind:]
        held = connection.ahead.get(seq)
        if len(held[1] if held else b"") >= len(payload):
            return False
        connection.ahead[seq] = packet, payload
        # The shorter copy in its place is a repeat.
        self.counts["ignored"] += held is not None
        return True

    def _drain(self, connection: _Connection, past_gaps: bool = False) -> list[Message]:
        """Gives the framer what is contiguous; past a gap when too much waits behind it."""
        messages: list[Message] = []
        while connection.ahead:
            seq = min(connection.ahead, key=lambda at: _ahead(at, connection.next_seq))
            distance = _ahead(seq, connection.next_seq)
            if distance > 0:
                held = sum(len(payload) for _, payload in connection.ahead.values())
                few = len(connection.ahead) <= MAX_AHEAD and held <= MAX_AHEAD_BYTES
                if few and not past_gaps:
                    break
                self.counts["gaps"] += 1
                connection.framer.gap()
                connection.next_seq = seq
                continue
            packet, payload = connection.ahead.pop(seq)
            data = payload[-distance:]
            self.counts["recorded" if data else "ignored"] += 1
            connection.next_seq = (connection.next_seq + len(data)) % _WRAP
            messages += [(packet, message) for message in connection.framer.feed(data)]
        return messages


def _ahead(seq: int, reference: int) -> int:
    """How far a sequence number is ahead of another, negative behind (RFC 9293 section 3.4)."""
    return (seq - reference + _HALF) % _WRAP - _HALF
