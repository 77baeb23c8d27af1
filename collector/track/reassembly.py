"""TCP reassembly: turns the segments of clients into the first bytes of their streams.

Only beginnings are wanted: a ClientHello or a request head. Once those are read, `finish` drops
the bytes, and nothing of the stream is kept that is content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.parse.http import looks_like_request
from collector.parse.ip import ACK, SYN, TCP, Packet
from collector.parse.prefix import Prefix
from collector.parse.reader import ParseError
from collector.parse.tls import looks_like_client_hello

FlowKey = tuple[bytes, bytes, int, int]
"""Client, server, client port, server port."""

_WRAP: Final = 1 << 32
_HALF: Final = 1 << 31
_MAX_SEGMENTS: Final = 512
"""Segments taken for one beginning: 64 KiB in the 128-byte segments of a crippled path."""
_MAX_EARLY: Final = 8
"""Segments kept for a flow whose beginning was not seen: the tail that overtook a first segment."""
_MAX_EARLY_FLOWS: Final = 4096
_EARLY_NS: Final = 1_000_000_000
"""Overtaking is over in milliseconds, so few flows wait at a time; the rest is other traffic."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of `StreamTable`.

    65,536 flows are the beginnings of 2,000 connections a second over 30 s, the time in which a
    client sends its first bytes several times (RFC 6298 doubles from 1 s). 64 KiB is the longest
    head or hello the parsers read; 64 MiB are 1 KiB for each flow, the mean of a first flight.
    """

    flows: int = 65_536
    flow_bytes: int = 65_536
    held_bytes: int = 64 * 1024 * 1024
    age_ns: int = 30_000_000_000


@dataclass(slots=True)
class _Flow:
    """One client's stream.

    `start` is the sequence number of its offset 0 or, once it is `done`, of the first byte that
    was not read. `open` segments are neither recorded nor lost yet. The reader wants the bytes
    when there are `need` of them.
    """

    started_ns: int
    start: int
    data: Prefix
    need: int = 1
    open: int = 0
    held: int = 0
    done: bool = False


@dataclass(slots=True)
class _Early:
    """Segments (sequence number, payload) of a flow whose beginning was not seen."""

    started_ns: int
    segments: list[tuple[int, bytes]]


def flow_key(packet: Packet) -> FlowKey:
    """The key of the flow that a packet from its client belongs to."""
    return packet.src, packet.dst, packet.sport, packet.dport


class StreamTable:
    """The beginnings of client streams, put together until the observer has read them.

    `counts` are of segments with payload: seen = recorded + ignored + lost + `open`. Recorded ones
    made up a beginning that was finished. Lost ones were held for a flow that was given up before,
    which `evicted`, `expired`, `replaced` (its ports were used again) and `overflow` count by
    flow. Ignored ones repeat what is there or belong to no beginning.
    """

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self._limits = limits or StreamLimits()
        self._flows: dict[FlowKey, _Flow] = {}
        self._early: dict[FlowKey, _Early] = {}
        self._syns: dict[FlowKey, tuple[int, int]] = {}
        self._held = 0
        names = ("seen", "recorded", "ignored", "lost")
        self.counts = dict.fromkeys((*names, "evicted", "expired", "replaced", "overflow"), 0)

    def __len__(self) -> int:
        """Flows in the table, those already read among them."""
        return len(self._flows)

    @property
    def held_bytes(self) -> int:
        """Bytes of streams in memory."""
        return self._held

    @property
    def open(self) -> int:
        """Segments held for beginnings that are not finished."""
        early = sum(len(early.segments) for early in self._early.values())
        return early + sum(flow.open for flow in self._flows.values())

    def feed(self, packet: Packet, now_ns: int) -> bytes | None:
        """Takes one segment; the bytes of its flow's beginning, if there are more than before.

        With a SYN the beginning is what follows it. Without one it is the first segment that looks
        like a ClientHello or a request. None where there is nothing new to read.
        """
        if packet.proto != TCP:
            return None
        self._expire(now_ns)
        key = flow_key(packet)
        seq = packet.seq
        if packet.flags & SYN:
            if packet.flags & ACK:
                return None
            seq = (seq + 1) % _WRAP
            self._begin(key, seq, now_ns)
        payload = packet.payload
        if not payload:
            return None
        self.counts["seen"] += 1
        flow = self._flow(key, seq, payload, now_ns)
        if flow is None or not self._add(flow, seq, payload):
            return None
        found = None
        if len(flow.data.data) >= flow.need:
            found = bytes(flow.data.data)
            # Until the reader says otherwise, any further byte is worth another look.
            flow.need = len(found) + 1
        self._bound()
        return found

    def expect(self, key: FlowKey, need: int) -> None:
        """Gives the flow's bytes only once there are `need` of them: a reader knows what it lacks.

        A flow that needs more than its limit is given up.
        """
        flow = self._flows.get(key)
        if flow is None or flow.done:
            return
        flow.need = max(flow.need, need)
        if need > self._limits.flow_bytes:
            self._give_up(flow)

    def finish(self, key: FlowKey, read: int = 0) -> None:
        """Drops the flow's bytes, of which the first `read` were needed, more perhaps than are
        there: the rest of those is passed over when it comes.

        Its position stays for a while, so that a repeated segment is not read twice. A segment
        after it that looks like a beginning is one: the next request on a kept connection.
        """
        flow = self._flows.get(key)
        if flow is None or flow.done:
            return
        self.counts["recorded"] += flow.open
        ahead = read - len(flow.data.data)
        self._close(flow)
        if 0 < ahead < _HALF // 2:
            flow.start = (flow.start + ahead) % _WRAP

    def advance(self, key: FlowKey, read: int) -> None:
        """Drops the flow's first `read` bytes and goes on with what follows them."""
        flow = self._flows.get(key)
        if flow is None or flow.done:
            return
        rest = bytes(flow.data.data[read:])
        self.counts["recorded"] += flow.open
        self._held -= flow.held
        flow.start = (flow.start + read) % _WRAP
        flow.data = Prefix(self._limits.flow_bytes)
        flow.data.add(0, rest)
        flow.held = flow.data.held
        self._held += flow.held
        flow.need, flow.open = len(rest) + 1, 0

    def _begin(self, key: FlowKey, start: int, now_ns: int) -> None:
        """Notes a SYN. It costs no flow, so a flood of them evicts nobody's bytes."""
        flow = self._flows.get(key)
        if flow is not None:
            if flow.start == start:
                return
            self._forget(key, "replaced")
        self._ignore_early(key)
        self._syns.pop(key, None)
        while len(self._syns) >= self._limits.flows:
            del self._syns[next(iter(self._syns))]
        self._syns[key] = (start, now_ns)

    def _flow(self, key: FlowKey, seq: int, payload: bytes, now_ns: int) -> _Flow | None:
        """The flow a segment belongs to, a new one perhaps; None, and counted, if there is none."""
        flow = self._flows.get(key)
        if flow is not None and not flow.done:
            return flow
        begins = looks_like_client_hello(payload) or looks_like_request(payload)
        if flow is not None:
            if not begins or (seq - flow.start) % _WRAP >= _HALF:
                self.counts["ignored"] += 1
                return None
            # The next request on a connection whose first was read.
            self._forget(key, "replaced")
        elif (key[1], key[0], key[3], key[2]) in self._flows:  # the server's side
            self.counts["ignored"] += 1
            return None
        syn = self._syns.pop(key, None)
        if syn is not None and (seq - syn[0]) % _WRAP < self._limits.flow_bytes:
            start = syn[0]
        elif begins:
            start = seq
        else:
            self._wait(key, seq, payload, now_ns)
            return None
        while len(self._flows) >= self._limits.flows:
            self._forget(next(iter(self._flows)), "evicted")
        flow = self._flows[key] = _Flow(now_ns, start, Prefix(self._limits.flow_bytes))
        early = self._early.pop(key, None)
        for earlier, piece in early.segments if early else ():
            self._held -= len(piece)
            self._add(flow, earlier, piece)
        return flow

    def _wait(self, key: FlowKey, seq: int, payload: bytes, now_ns: int) -> None:
        """Keeps a segment whose flow has no beginning yet; there may be none to come."""
        early = self._early.get(key)
        if early is None:
            while len(self._early) >= min(_MAX_EARLY_FLOWS, self._limits.flows):
                self._ignore_early(next(iter(self._early)))
            early = self._early[key] = _Early(now_ns, [])
        if len(early.segments) >= _MAX_EARLY:
            self.counts["ignored"] += 1
            return
        early.segments.append((seq, payload))
        self._held += len(payload)
        self._bound()

    def _add(self, flow: _Flow, seq: int, payload: bytes) -> bool:
        """Adds a segment to its flow; whether it brought anything. Counts it if not."""
        offset = (seq - flow.start) % _WRAP
        if offset >= _HALF:
            offset -= _WRAP
        try:
            flow.data.add(offset, payload)
        except ParseError:
            self.counts["lost"] += 1
            self._give_up(flow)
            return False
        grown = flow.data.held - flow.held
        if not grown:
            self.counts["ignored"] += 1
            return False
        flow.held += grown
        self._held += grown
        flow.open += 1
        if flow.open > _MAX_SEGMENTS:
            self._give_up(flow)
            return False
        return True

    def _give_up(self, flow: _Flow) -> None:
        """Drops a flow that goes beyond what a beginning can be; what follows is ignored."""
        self.counts["lost"] += flow.open
        self.counts["overflow"] += 1
        self._close(flow)

    def _close(self, flow: _Flow) -> None:
        """Keeps of a flow only how far it got."""
        self._held -= flow.held
        flow.start = (flow.start + len(flow.data.data)) % _WRAP
        flow.data = Prefix(0)
        flow.open = flow.held = 0
        flow.done = True

    def _forget(self, key: FlowKey, reason: str) -> None:
        flow = self._flows.pop(key)
        self._held -= flow.held
        if flow.open:
            self.counts["lost"] += flow.open
            self.counts[reason] += 1

    def _ignore_early(self, key: FlowKey) -> None:
        early = self._early.pop(key, None)
        if early is not None:
            self._held -= sum(len(piece) for _, piece in early.segments)
            self.counts["ignored"] += len(early.segments)

    def _bound(self) -> None:
        """Makes room when too many bytes are held: first what may be nothing, then the oldest."""
        while self._held > self._limits.held_bytes:
            if self._early:
                self._ignore_early(next(iter(self._early)))
            else:
                self._forget(next(iter(self._flows)), "evicted")

    def _expire(self, now_ns: int) -> None:
        """Forgets what is too old; every table is in order of age."""
        oldest = now_ns - self._limits.age_ns
        while self._flows:
            key, flow = next(iter(self._flows.items()))
            if flow.started_ns >= oldest:
                break
            self._forget(key, "expired")
        while self._syns:
            key, (_, started_ns) = next(iter(self._syns.items()))
            if started_ns >= oldest:
                break
            del self._syns[key]
        while self._early:
            key, early = next(iter(self._early.items()))
            if early.started_ns >= now_ns - _EARLY_NS:
                break
            self._ignore_early(key)
