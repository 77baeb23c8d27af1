"""Visits: joins host names seen in handshakes and DNS answers to flows, one row per host.

A visit is a connection of a subscriber to a server for which a host is known: the name in the
connection's own handshake, else the host of the client's latest DNS answer, at the flow's start,
that led to the server. A look-up without a flow is no visit, nor is a flow to a resolver or one
without a name. What a row counts:

- The bytes of a connection go to its first host; every further host on it (HTTP keep-alive) has a
  row without bytes. A handshake's name takes the place of a name from DNS from then on.
- A connection counts once for each of its hosts, in the window in which the name became known.
- Deltas count in the window that closes next after they are handed in, unless their flow began
  after it; a name that comes later in the window than its flow's deltas still gets them.
- A handshake without any delta (connection tracking off, or not dumped yet) is a visit of 0 bytes.

How long names are kept: a DNS answer names flows that begin within `answer_life_ns`. Its TTL does
not bound that, as clients keep using addresses past it (the name a flow began with stays with the
flow whatever becomes of the answer). A flow's names are kept until it ends or FLOW_IDLE_NS.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from collector.track.inside import Prefixes
from collector.wire.addr import MAPPED, network
from collector.wire.columns import Columns
from collector.wire.loss import Loss
from collector.wire.records import VISIT, VISIT_ECH, record_id

SECOND_NS: Final = 1_000_000_000
SLACK_NS: Final = SECOND_NS
"""A handshake may be stamped before its flow: conntrack stamps a flow once its first packet, which
for QUIC is the handshake, has crossed the router. One second also covers a small clock step."""
REPEAT_NS: Final = 60 * SECOND_NS
"""The same name on the same ports within this time is a retransmission, later a new connection:
a port rests 60 s in TIME_WAIT (Linux) before it is used again."""
UNCONFIRMED_NS: Final = 900 * SECOND_NS
"""How long a name waits for its flow: a dump, at most 300 s apart, would have shown it."""
FLOW_IDLE_NS: Final = 432_000 * SECOND_NS
"""Longest silence of a flow: nf_conntrack_tcp_timeout_established, five days."""
MAX_NAMES_PER_FLOW: Final = 64
"""Hosts on one connection. Browsers use one; a forward proxy's keep-alive a few dozen."""
ANSWERS_PER_SERVER: Final = 4
"""Hosts remembered for one client and server address: a flow is named by the latest one before it
began, and few look-ups lie between a flow's start and the end of its window."""
MAX_SNAPSHOT_FLOWS: Final = 65_536
"""Flows whose names a snapshot holds, the latest ones: about 10 MB of JSON."""

_RANK: Final = {"dns": 0, "http": 1, "quic": 2, "tls": 3}
_UNJOINED: Final = -1
_KEY: Final = struct.Struct(">16s16sBHH")
_KEY_DTYPE: Final = np.dtype(
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", ">u2"),
        ("server_port", ">u2"),
    ]
)

_NO_DELTAS: Final = np.empty(
    0,
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        ("up_bytes", "u8"),
        ("down_bytes", "u8"),
        ("start_ns", "i8"),
        ("seen_ns", "i8"),
        ("ended", "?"),
    ],
)
"""No flows, with the fields of a flow delta that are read here."""
_NO_PORTS: Final = (1, 58)
"""ICMP of both families: an echo is no visit, whatever its address was resolved from."""


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A host named by a client's handshake or request on one connection."""

    ts_ns: int
    evidence: Literal["tls", "quic", "http"]
    client: bytes
    server: bytes
    protocol: int
    client_port: int
    server_port: int
    host: str
    ech: bool


@dataclass(frozen=True, slots=True)
class Resolution:
    """A DNS answer: `server` is the resolver, `host` the name asked, `addresses` where it led."""

    ts_ns: int
    client: bytes
    server: bytes
    host: str
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HostsConfig:
    """`access`: (base, prefix length in 128 bits) of the subscribers; others are ignored.

    Tables: a flow's names cost about 500 bytes, an answer about 300.
    """

    access: tuple[tuple[bytes, int], ...]
    ipv6_prefix_len: int = 64
    resolver_ports: tuple[int, ...] = (53,)
    max_flows: int = 262_144
    max_answers: int = 262_144
    max_answers_per_client: int = 2_048
    answer_life_ns: int = 7_200 * SECOND_NS
    """systemd-resolved keeps an answer for two hours at most, browsers and unbound less or a day;
    an older one is more likely to name a stranger on a shared server."""


@dataclass(slots=True)
class _Name:
    """A host on a flow; `start_ns` is the flow's start once joined, `last_ns` the last sight."""

    ts_ns: int
    last_ns: int
    host: str
    evidence: str
    ech: bool
    start_ns: int = _UNJOINED
    counted: bool = False
    pending: bool = True
    """Seen since its last row."""


class _Answers:
    """Per client and server address, the latest hosts that led there. Oldest go first."""

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        self._clients: dict[bytes, dict[bytes, list[tuple[int, str]]]] = {}
        self.size = 0
        self.evicted = 0

    def add(self, event: Resolution) -> None:
        servers = self._clients.pop(event.client, None)
        if servers is None:
            servers = {}
        self._clients[event.client] = servers
        for address in event.addresses:
            held = servers.pop(address, None)
            self.size += held is None
            kept = [pair for pair in held or () if pair[1] != event.host]
            servers[address] = [*kept[1 - ANSWERS_PER_SERVER :], (event.ts_ns, event.host)]
            if len(servers) > self._config.max_answers_per_client:
                del servers[next(iter(servers))]
                self.size -= 1
                self.evicted += 1
        while self.size > self._config.max_answers:
            client, oldest = next(iter(self._clients.items()))
            del oldest[next(iter(oldest))]
            self.size -= 1
            self.evicted += 1
            if not oldest:
                del self._clients[client]

    def host(self, client: bytes, server: bytes, at_ns: int) -> str:
        """The latest host at or before `at_ns`; empty where there is none or it is too old."""
        servers = self._clients.get(client)
        held = servers.get(server) if servers else None
        for ts_ns, host in reversed(held or ()):
            if ts_ns <= at_ns:
                return host if at_ns - ts_ns <= self._config.answer_life_ns else ""
        return ""

    def expire(self, before_ns: int) -> None:
        """Drops what was last answered before `before_ns`; clients are in order of last answer."""
        while self._clients:
            client, servers = next(iter(self._clients.items()))
            for address, held in tuple(servers.items()):
                if held[-1][0] >= before_ns:
                    break
                del servers[address]
                self.size -= 1
            if servers:
                return
            del self._clients[client]


class _Rows:
    """The visits of one window while they are added up."""

    def __init__(self, start_ns: int, end_ns: int, ipv6_prefix_len: int) -> None:
        self._window = start_ns, end_ns
        self._ipv6_prefix_len = ipv6_prefix_len
        self._bases: dict[bytes, tuple[bytes, int]] = {}
        self._index: dict[tuple[bytes, int, str, bytes, int, int], int] = {}
        self._first: list[int] = []
        self._last: list[int] = []
        self._evidence: list[str] = []
        self._connections: list[int] = []
        self._flags: list[int] = []
        self.handshakes = 0
        """Names from handshakes that were counted for the first time."""

    def add(self, key: bytes, name: _Name, first_ns: int, last_ns: int) -> int:
        """The row of a name on a flow, which is counted if it was not yet."""
        client, server, protocol, _, server_port = _KEY.unpack(key)
        base = self._bases.get(client)
        if base is None:
            length = 128 if client[:12] == MAPPED else self._ipv6_prefix_len
            base = self._bases[client] = (network(client, length), length)
        start, end = self._window
        first_ns = min(max(first_ns, start), end - 1)
        last_ns = min(max(last_ns, first_ns), end - 1)
        row = self._index.setdefault(
            (*base, name.host, server, server_port, protocol), len(self._first)
        )
        if row == len(self._first):
            self._first.append(first_ns)
            self._last.append(last_ns)
            self._evidence.append(name.evidence)
            self._connections.append(0)
            self._flags.append(0)
        else:
            self._first[row] = min(self._first[row], first_ns)
            self._last[row] = max(self._last[row], last_ns)
            if _RANK[name.evidence] > _RANK[self._evidence[row]]:
                self._evidence[row] = name.evidence
        if name.ech:
            self._flags[row] |= VISIT_ECH
        name.pending = False
        if not name.counted:
            name.counted = True
            self._connections[row] += 1
            self.handshakes += name.evidence != "dns"
        return row

    def columns(self, now_ns: int, rows: NDArray[np.int64], deltas: NDArray[Any]) -> Columns:
        """The record columns; delta i's bytes go to row `rows[i]`."""
        start, end = self._window
        size = len(self._first)
        up = np.zeros(size, np.uint64)
        down = np.zeros(size, np.uint64)
        np.add.at(up, rows, deltas["up_bytes"])
        np.add.at(down, rows, deltas["down_bytes"])
        keys = list(self._index)
        return {
            "record_id": [
                record_id(VISIT.name, start, *key)
                for key in (
                    (address, length, host, server, port, protocol)
                    for address, length, host, server, port, protocol in keys
                )
            ],
            "observed_ns": np.full(size, now_ns, np.int64),
            "start_ns": np.full(size, start, np.int64),
            "end_ns": np.full(size, end, np.int64),
            "address": [key[0] for key in keys],
            "prefix_len": np.array([key[1] for key in keys], np.uint8),
            "host": [key[2] for key in keys],
            "evidence": self._evidence,
            "server": [key[3] for key in keys],
            "server_port": np.array([key[4] for key in keys], np.uint16),
            "protocol": np.array([key[5] for key in keys], np.uint8),
            "first_ns": np.array(self._first, np.int64),
            "last_ns": np.array(self._last, np.int64),
            "connections": np.array(self._connections, np.uint32),
            "up_bytes": up,
            "down_bytes": down,
            "flags": np.array(self._flags, np.uint32),
        }


class Hosts:
    """The visit tracker: `seen`, `resolved` and `flows` between windows, `take` at each end.

    `counts` has, for "names" (handshakes), "answers" and "flows" (deltas): seen = recorded +
    ignored + lost + open. Ignored is also split by its rule, as "ignored.RULE"; "bytes.named" and
    "bytes.nameless" are those of the flows of subscribers that did not go to a resolver.
    """

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        self._prefixes = Prefixes(config.access)
        self._firsts, self._lasts = _ranges(config.access)
        self._answers = _Answers(config)
        self._names: dict[bytes, list[_Name]] = {}
        self._deltas: list[NDArray[Any]] = []
        self._taken_ns = 0
        self._evicted = 0
        self._losses: list[Loss] = []
        self.counts: dict[str, Counter[str]] = {
            table: Counter(seen=0, recorded=0, ignored=0, lost=0, open=0, evicted=0)
            for table in ("names", "answers", "flows")
        }

    def seen(self, event: HostSeen) -> None:
        """A handshake named a host."""
        counts = self.counts["names"]
        counts["seen"] += 1
        if not self._inside(event.client):
            _ignore(counts, "outsider")
            return
        key = _KEY.pack(
            event.client, event.server, event.protocol, event.client_port, event.server_port
        )
        names = self._names.pop(key, [])
        self._names[key] = names
        if _repeated(names, event):
            _ignore(counts, "repeat")
            return
        if len(names) >= MAX_NAMES_PER_FLOW:
            self._evict([names.pop(0)])
        names.append(_Name(event.ts_ns, event.ts_ns, event.host, event.evidence, event.ech))
        counts["open"] += 1
        self._bound()

    def resolved(self, event: Resolution) -> None:
        """A client was told the addresses of a host."""
        counts = self.counts["answers"]
        counts["seen"] += 1
        if not self._inside(event.client):
            _ignore(counts, "outsider")
        elif not event.addresses:
            _ignore(counts, "no-address")
        else:
            self._answers.add(event)
            counts["recorded"] += 1

    def flows(self, deltas: NDArray[Any]) -> None:
        """Flow deltas of `collector.track.flows`; the array must not change afterwards."""
        if len(deltas):
            self._deltas.append(deltas)
            self.counts["flows"]["seen"] += len(deltas)
            self.counts["flows"]["open"] += len(deltas)

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """The visits of [start_ns, end_ns), and what is no longer needed is forgotten."""
        rows = _Rows(start_ns, end_ns, self._config.ipv6_prefix_len)
        deltas = self._subscribers(self._due(end_ns))
        placed = self._join(deltas, rows)
        self._alone(rows, end_ns)
        self.counts["names"]["recorded"] += rows.handshakes
        self.counts["names"]["open"] -= rows.handshakes
        self._answers.expire(start_ns - self._config.answer_life_ns)
        self._report(start_ns, end_ns)
        self._taken_ns = end_ns
        named = placed >= 0
        return {VISIT.name: rows.columns(now_ns, placed[named], deltas[named])}

    def losses(self) -> list[Loss]:
        """Losses since the last call."""
        found, self._losses = self._losses, []
        return found

    def snapshot(self) -> dict[str, object]:
        """The names of flows that may still be open; answers and waiting deltas are left out."""
        latest = list(self._names.items())[-MAX_SNAPSHOT_FLOWS:]
        return {
            "taken_ns": self._taken_ns,
            "names": [
                [key.hex(), n.ts_ns, n.last_ns, n.host, n.evidence, n.ech, n.start_ns, n.counted]
                for key, names in latest
                for n in names
            ],
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Takes names over. Answers and names since the snapshot are gone, which is a loss."""
        for key, ts, last, host, evidence, ech, start, counted in snapshot["names"]:
            name = _Name(ts, last, host, evidence, ech, start, counted, not counted)
            self._names.setdefault(bytes.fromhex(key), []).append(name)
            if not counted:
                self.counts["names"]["seen"] += 1
                self.counts["names"]["open"] += 1
        since = snapshot["taken_ns"] or now_ns
        self._losses.append(Loss(since, now_ns, "track", "restart", -1, "events", (VISIT.name,)))

    def _inside(self, client: bytes) -> bool:
        at = bisect_right(self._firsts, client) - 1
        return at >= 0 and client <= self._lasts[at]

    def _bound(self) -> None:
        """Keeps the table of names within its limit; those not touched longest go."""
        while len(self._names) > self._config.max_flows:
            self._evict(self._names.pop(next(iter(self._names))))

    def _evict(self, names: list[_Name]) -> None:
        counts = self.counts["names"]
        never = sum(not name.counted for name in names)
        counts["lost"] += never
        counts["open"] -= never
        counts["evicted"] += len(names)
        self._evicted += len(names)

    def _due(self, end_ns: int) -> NDArray[Any]:
        """The deltas handed in so far, without those of flows that began at `end_ns` or after."""
        if not self._deltas:
            return _NO_DELTAS
        deltas = np.concatenate(self._deltas)
        due = deltas["start_ns"] < end_ns
        self._deltas = [] if due.all() else [deltas[~due]]
        self.counts["flows"]["open"] -= int(due.sum())
        return deltas[due]

    def _subscribers(self, deltas: NDArray[Any]) -> NDArray[Any]:
        """The deltas that may be visits, by their flow's start."""
        counts = self.counts["flows"]
        outsider = ~self._prefixes.contains(deltas["client"])
        portless = ~outsider & np.isin(deltas["protocol"], _NO_PORTS)
        resolver = np.isin(deltas["server_port"], self._config.resolver_ports)
        resolver &= ~outsider & ~portless
        _ignore(counts, "outsider", int(outsider.sum()))
        _ignore(counts, "no-ports", int(portless.sum()))
        _ignore(counts, "resolver", int(resolver.sum()))
        kept = deltas[~(outsider | portless | resolver)]
        return kept[np.argsort(kept["start_ns"], kind="stable")]

    def _join(self, deltas: NDArray[Any], rows: _Rows) -> NDArray[np.int64]:
        """The row of each delta, -1 for a nameless one. Flows that ended leave the table."""
        keys = _keys(deltas)
        starts: list[int] = deltas["start_ns"].tolist()
        seen: list[int] = deltas["seen_ns"].tolist()
        ended = np.flatnonzero(deltas["ended"]).tolist()
        ends = {(keys[at], starts[at]): seen[at] for at in ended}
        later = _next_starts(keys, starts)
        joined: dict[tuple[bytes, int], list[_Name]] = {}
        placed = np.full(len(deltas), -1, np.int64)
        for at, flow in enumerate(zip(keys, starts, strict=True)):
            names = joined.get(flow)
            if names is None:
                names = self._names_of(flow, ends.get(flow), later.get(flow), seen[at])
                joined[flow] = names
            for name in reversed(names):
                # The first name's row comes last and takes the bytes.
                last = max(seen[at], name.last_ns)
                name.last_ns = last
                placed[at] = rows.add(flow[0], name, flow[1] or seen[at], last)
        for key, start in ends:
            self._forget(key, joined[key, start])
        self._bound()
        self._count_flows(deltas, placed)
        return placed

    def _count_flows(self, deltas: NDArray[Any], placed: NDArray[np.int64]) -> None:
        counts = self.counts["flows"]
        nameless = placed < 0
        counts["recorded"] += int((~nameless).sum())
        _ignore(counts, "nameless", int(nameless.sum()))
        volume = deltas["up_bytes"] + deltas["down_bytes"]
        counts["bytes.named"] += int(volume[~nameless].sum())
        counts["bytes.nameless"] += int(volume[nameless].sum())

    def _names_of(
        self, flow: tuple[bytes, int], end_ns: int | None, later_ns: int | None, seen_ns: int
    ) -> list[_Name]:
        """The names of one flow, its bytes' host first; empty for a nameless one.

        `end_ns`: when it ended, if it did. `later_ns`: start of the next flow on the same ports.
        """
        key, start_ns = flow
        # What was joined to an earlier flow on these ports outlived it, as its end was missed.
        held = [n for n in self._names.pop(key, ()) if not _UNJOINED < n.start_ns < start_ns]
        found = [
            name
            for name in held
            if name.start_ns == start_ns
            or (
                name.start_ns == _UNJOINED
                and start_ns - SLACK_NS <= name.ts_ns
                and (later_ns is None or name.ts_ns < later_ns)
                and (end_ns is None or name.ts_ns <= end_ns)
            )
        ]
        if any(name.evidence != "dns" for name in found):
            held = [name for name in held if name.evidence != "dns"]
            found = [name for name in found if name.evidence != "dns"]
        elif not found:
            began_ns = start_ns or seen_ns
            host = self._answers.host(key[:16], key[16:32], began_ns)
            if host:
                found = [_Name(began_ns, began_ns, host, "dns", False)]
                held += found
        for name in found:
            name.start_ns = start_ns
        if held:
            self._names[key] = held
        return found

    def _forget(self, key: bytes, ended: list[_Name]) -> None:
        held = self._names.pop(key, None)
        left = [name for name in held or () if all(name is not gone for gone in ended)]
        if left:
            self._names[key] = left

    def _alone(self, rows: _Rows, end_ns: int) -> None:
        """Rows for names without a delta in the window; names kept long enough are forgotten."""
        stale = []
        for key, names in self._names.items():
            newest = 0
            for name in names:
                if name.pending and name.ts_ns < end_ns:
                    rows.add(key, name, name.ts_ns, name.last_ns)
                newest = max(newest, name.last_ns)
            keep_ns = UNCONFIRMED_NS if names[-1].start_ns == _UNJOINED else FLOW_IDLE_NS
            if end_ns - newest > keep_ns:
                stale.append(key)
        for key in stale:
            del self._names[key]

    def _report(self, start_ns: int, end_ns: int) -> None:
        """Makes losses of the window's evictions."""
        for reason, amount in (
            ("name-table-full", self._evicted),
            ("answer-table-full", self._answers.evicted),
        ):
            if amount:
                self._losses.append(
                    Loss(start_ns, end_ns, "track", reason, amount, "events", (VISIT.name,))
                )
        self.counts["answers"]["evicted"] += self._answers.evicted
        self._evicted = self._answers.evicted = 0


def _repeated(names: list[_Name], event: HostSeen) -> bool:
    """Whether the flow already has the event's host, of which a repeat is then noted."""
    for name in reversed(names):
        if name.host == event.host and name.evidence != "dns":
            if name.evidence != "http" and event.ts_ns - name.last_ns >= REPEAT_NS:
                return False
            name.last_ns = max(name.last_ns, event.ts_ns)
            name.ech |= event.ech
            name.pending = True
            return True
    return False


def _ignore(counts: Counter[str], rule: str, amount: int = 1) -> None:
    if amount:
        counts["ignored"] += amount
        counts[f"ignored.{rule}"] += amount


def _ranges(prefixes: Iterable[tuple[bytes, int]]) -> tuple[list[bytes], list[bytes]]:
    """First and last addresses of the prefixes, in order and without overlaps."""
    firsts: list[bytes] = []
    lasts: list[bytes] = []
    for base, length in sorted((network(base, length), length) for base, length in prefixes):
        last = (int.from_bytes(base, "big") | (1 << 128 - length) - 1).to_bytes(16, "big")
        if lasts and base <= lasts[-1]:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(base)
            lasts.append(last)
    return firsts, lasts


def _keys(deltas: NDArray[Any]) -> list[bytes]:
    """The 37 bytes of each delta's 5-tuple, as `_KEY` packs them."""
    packed = np.empty(len(deltas), _KEY_DTYPE)
    for name in _KEY_DTYPE.names or ():
        packed[name] = deltas[name]
    keys: list[bytes] = packed.view(f"V{_KEY.size}").tolist()
    return keys


def _next_starts(keys: list[bytes], starts: list[int]) -> dict[tuple[bytes, int], int]:
    """For each flow that another one follows on the same 5-tuple, that one's start.

    The lists are in order of start.
    """
    later: dict[tuple[bytes, int], int] = {}
    latest: dict[bytes, int] = {}
    for key, start in zip(reversed(keys), reversed(starts), strict=True):
        following = latest.get(key, start)
        if following != start:
            later[key, start] = following
        latest[key] = start
    return later
