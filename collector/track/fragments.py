"""IP reassembly: turns the fragments of a datagram back into its packet.

RFC 791 section 3.2 and RFC 8200 section 4.5. Fragments that overlap spoil their datagram (RFC
5722): which copy the receiver would take cannot be known, and the doubt is what attacks live on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from collector.parse.ip import Fragment, Packet, reassembled
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

DatagramKey = tuple[bytes, bytes, int, int]
"""Source, destination, identification and, for IPv4, protocol (RFC 791); for IPv6 -1, because
only the first fragment says what the datagram carries (RFC 8200 section 4.5)."""


@dataclass(frozen=True, slots=True)
class FragmentLimits:
    """Bounds of `FragmentTable`.

    64 fragments make 64 KiB at 1,024 bytes each; the protocols read here (DNS, SIP, RADIUS) need
    two to five. 30 s is what Linux keeps them (ip_frag_time). 4,096 datagrams at once and 16 MiB
    are four times Linux's own store (ipfrag_high_thresh, 4 MiB).
    """

    fragments: int = 64
    datagrams: int = 4096
    held_bytes: int = 16 * 1024 * 1024
    age_ns: int = 30_000_000_000


@dataclass(slots=True)
class _Datagram:
    """Parts by offset; `total` is -1 until the last fragment says it. `spoiled` ones take no more.

    `ts_ns` is the time of the first part that came.
    """

    ts_ns: int
    started_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)
    proto: int = -1
    total: int = -1
    held: int = 0
    spoiled: bool = False


class FragmentTable:
    """The datagrams of which fragments are missing.

    `counts` are of fragments: seen = recorded + ignored + lost + `open`. Recorded ones made up a
    packet; ignored ones are exact repeats; malformed ones, among them, made up a datagram that is
    no packet. Lost ones were of a datagram that was given up, which `evicted`, `expired`,
    `overlap` and `overflow` count by datagram; `whole` counts those put together.
    """

    def __init__(self, limits: FragmentLimits | None = None) -> None:
        self._limits = limits or FragmentLimits()
        self._table: dict[DatagramKey, _Datagram] = {}
        self._held = 0
        names = ("seen", "recorded", "ignored", "lost", "malformed", "whole")
        self.counts = dict.fromkeys((*names, "evicted", "expired", "overlap", "overflow"), 0)

    def __len__(self) -> int:
        """Datagrams in the table, spoiled ones among them."""
        return len(self._table)

    @property
    def held_bytes(self) -> int:
        """Bytes of fragments in memory."""
        return self._held

    @property
    def open(self) -> int:
        """Fragments that wait for the rest of their datagram."""
        return sum(len(datagram.parts) for datagram in self._table.values())

    def add(self, fragment: Fragment, now_ns: int) -> Packet | None:
        """Takes one fragment; the packet, if this was the last one missing.

        The packet has the time of the datagram's first fragment. Raises ParseError if the whole
        datagram is no packet.
        """
        self._expire(now_ns)
        self.counts["seen"] += 1
        v4 = fragment.src[:12] == MAPPED
        key = (fragment.src, fragment.dst, fragment.ident, fragment.proto if v4 else -1)
        datagram = self._table.get(key)
        if datagram is None:
            while len(self._table) >= self._limits.datagrams:
                self._forget(next(iter(self._table)), "evicted")
            datagram = self._table[key] = _Datagram(fragment.ts_ns, now_ns)
        if datagram.spoiled:
            self.counts["lost"] += 1
            return None
        if datagram.parts.get(fragment.offset) == fragment.data:
            # An exact repeat is the network's doing and no overlap (RFC 8200 section 4.5).
            self.counts["ignored"] += 1
            return None
        if not self._fits(datagram, fragment):
            self._spoil(datagram, "overlap")
            return None
        if len(datagram.parts) >= self._limits.fragments:
            self._spoil(datagram, "overflow")
            return None
        datagram.parts[fragment.offset] = fragment.data
        datagram.held += len(fragment.data)
        self._held += len(fragment.data)
        if not fragment.offset:
            datagram.proto = fragment.proto
        if not fragment.more:
            datagram.total = fragment.offset + len(fragment.data)
        if datagram.held == datagram.total:
            return self._whole(key, datagram)
        while self._held > self._limits.held_bytes:
            self._forget(next(iter(self._table)), "evicted")
        return None

    @staticmethod
    def _fits(datagram: _Datagram, fragment: Fragment) -> bool:
        """Whether a fragment shares no byte with another and does not contradict the length."""
        start = fragment.offset
        end = start + len(fragment.data)
        if datagram.total >= 0 and (end > datagram.total or not fragment.more):
            return False
        for offset, part in datagram.parts.items():
            if start < offset + len(part) and offset < end:
                return False
            if not fragment.more and offset + len(part) > end:
                return False
        return True

    def _whole(self, key: DatagramKey, datagram: _Datagram) -> Packet | None:
        """The packet of a datagram without holes: no parts overlap and their sum is its length."""
        count = len(datagram.parts)
        del self._table[key]
        self._held -= datagram.held
        data = b"".join(part for _, part in sorted(datagram.parts.items()))
        try:
            packet = reassembled(datagram.ts_ns, key[0], key[1], datagram.proto, data)
        except ParseError:
            self.counts["ignored"] += count
            self.counts["malformed"] += count
            raise
        self.counts["recorded"] += count
        self.counts["whole"] += 1
        return packet

    def _spoil(self, datagram: _Datagram, reason: str) -> None:
        """Drops a datagram's parts and the fragment at hand; the key stays to drop the rest."""
        self.counts["lost"] += len(datagram.parts) + 1
        self.counts[reason] += 1
        self._held -= datagram.held
        datagram.held = 0
        datagram.parts.clear()
        datagram.spoiled = True

    def _forget(self, key: DatagramKey, reason: str) -> None:
        datagram = self._table.pop(key)
        self._held -= datagram.held
        if datagram.parts:
            self.counts["lost"] += len(datagram.parts)
            self.counts[reason] += 1

    def _expire(self, now_ns: int) -> None:
        """Forgets what is too old; the table is in order of age."""
        while self._table:
            key, datagram = next(iter(self._table.items()))
            if now_ns - datagram.started_ns <= self._limits.age_ns:
                return
            self._forget(key, "expired")
