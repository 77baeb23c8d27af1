"""A simulated network behind carrier-grade NAT: what was true, what was heard of it, questions.

Inside addresses, port blocks and ports change hands about every hour. What is heard passes through
clocks that are off, messages that are lost in silence (Stops, Starts, Interims), and export gaps
in which everything is lost and of which a gap record tells. Three networks of one size use blocks,
flow events (with ports that two flows share, as Linux does) and a deterministic configuration.
"""

from __future__ import annotations

import datetime as dt
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from aggregator.queries.deterministic import Deterministic, Version
from aggregator.queries.evidence import FOREVER, Holding, Lost, Mapping, Question
from collector.wire.addr import MAPPED

S: Final = 1_000_000
HOUR: Final = 3600 * S
INTERIM: Final = 600 * S
WINDOW: Final = 300 * S
SKEW: Final = 900_000
"""The clocks' error, under the one second that an answer allows for."""
TOLERANCE: Final = 2 * S
LOST_STOP: Final = 0.04
LOST_START: Final = 0.01
LOST_INTERIM: Final = 0.02
START: Final = 1_790_000_000 * S
FLOW_PORTS: Final = 64
PORTS_PER_BLOCK: Final = 1000
BLOCKS: Final = 64

Kind = Literal["block", "flow", "deterministic"]
KINDS: Final[tuple[Kind, ...]] = ("block", "flow", "deterministic")
_INSIDE: Final = {"block": 0x0A000000, "flow": 0x0A400000, "deterministic": 0x0A800000}
_OUTSIDE: Final = {"block": 0xC6336400, "flow": 0xCB007100, "deterministic": 0xC0000200}


class Held(NamedTuple):
    """The truth: who had it in [start, end)."""

    start: int
    end: int
    who: int


def address(number: int) -> bytes:
    return MAPPED + number.to_bytes(4, "big")


@dataclass
class Gaps:
    """When a collector's export is lost. Its clock is off by `skew` microseconds, for good."""

    collector: str
    skew: int
    intervals: list[tuple[int, int]]

    def __post_init__(self) -> None:
        self._starts = [start for start, _ in self.intervals]

    def hides(self, at: int) -> bool:
        n = bisect_left(self._starts, at + 1) - 1
        return n >= 0 and at < self.intervals[n][1]

    def clock(self, at: int) -> int:
        """What the collector's clock shows then."""
        return at + self.skew


@dataclass
class Network:
    """One network of one kind of NAT: truth and evidence, by inside address and by public port."""

    kind: Kind
    gaps: Gaps
    addresses: list[list[Held]] = field(default_factory=list)
    holdings: list[list[Holding]] = field(default_factory=list)
    ports: dict[tuple[int, int], list[Held]] = field(default_factory=dict)
    mappings: dict[tuple[int, int], list[Mapping]] = field(default_factory=dict)
    until: int = 0
    switched: int = 0

    def slot(self, port: int) -> int:
        return (port - 1024) // PORTS_PER_BLOCK if self.kind != "flow" else port

    def users(self, public: int, port: int, at: int) -> set[int]:
        """Subscribers behind a public address and port at an instant, in truth."""
        if self.kind == "deterministic":
            hosts, ports = (64, 1000) if at < self.switched else (32, 2000)
            inside = (public - _OUTSIDE[self.kind]) * hosts + (port - 1024) // ports
            insides = {inside} if inside < len(self.addresses) else set()
        else:
            insides = {h.who for h in self.ports.get((public, self.slot(port)), ()) if _in(h, at)}
        return {h.who for inside in insides for h in self.addresses[inside] if _in(h, at)}

    def holders(self, inside: int, at: int) -> set[int]:
        return {h.who for h in self.addresses[inside] if _in(h, at)}


def _in(held: Held, at: int) -> bool:
    return held.start <= at < held.end


class World:
    """Networks with `size` inside addresses each, over `hours`, and the evidence of them."""

    def __init__(self, seed: int, size: int, hours: int) -> None:
        self.random = random.Random(seed)
        self.size, self.hours = size, hours
        self.configured = Deterministic()
        self._key_lists: dict[Kind, list[tuple[int, int]]] = {}
        self.end = START + hours * HOUR
        self.networks = {kind: self._network(kind) for kind in KINDS}
        self._spans = {
            kind: [
                Lost(name, net.gaps.collector, net.gaps.clock(a), net.gaps.clock(b), "export-gap")
                for a, b in net.gaps.intervals
                for name in ("binding", "mapping")
            ]
            for kind, net in self.networks.items()
        }

    # Truth and what is heard of it

    def _network(self, kind: Kind) -> Network:
        draw = self.random
        intervals: list[tuple[int, int]] = []
        at = START + draw.randrange(6 * HOUR)
        while at < self.end:
            end = at + draw.randrange(120 * S, 1200 * S)
            intervals.append((at, end))
            at = end + draw.randrange(2 * HOUR, 10 * HOUR)
        net = Network(kind, Gaps(f"edge-{kind}", draw.randint(-SKEW, SKEW), intervals))
        # The last hour of one network has not been delivered yet.
        net.until = self.end - (HOUR if kind == "block" else 0)
        for inside in range(self.size):
            truth = list(self._turns(draw.randrange(HOUR)))
            net.addresses.append(truth)
            heard = (self._holding(net, inside, each) for each in truth)
            net.holdings.append([each for each in heard if each is not None])
        if kind == "block":
            self._blocks(net)
        elif kind == "flow":
            self._flows(net)
        else:
            self._deterministic(net)
        return net

    def _turns(self, offset: int) -> Iterator[Held]:
        """About an hour for one, a pause, then another; now and then somebody returns."""
        draw = self.random
        at, last = START + offset - HOUR, -1
        before = -1
        while at < self.end:
            end = at + draw.randrange(50 * 60 * S, 62 * 60 * S)
            who = before if before >= 0 and draw.random() < 0.2 else draw.randrange(self.size)
            before, last = last, who
            yield Held(at, end, who)
            at = end + draw.choice((0, 50_000, 2 * S, 30 * S, draw.randrange(600 * S)))

    def _holding(self, net: Network, inside: int, held: Held) -> Holding | None:
        draw, gaps = self.random, net.gaps

        def hears(at: int, loss: float) -> bool:
            return at < net.until and not gaps.hides(at) and draw.random() >= loss

        start = hears(held.start, LOST_START)
        interims = [
            at for at in range(held.start + INTERIM, held.end, INTERIM) if hears(at, LOST_INTERIM)
        ]
        stop = hears(held.end, LOST_STOP)
        known = [held.start] * start + interims + [held.end] * stop
        if not known:
            return None
        return Holding(
            (f"b-{inside}-{held.start}",),
            gaps.collector,
            f"{net.kind}-{held.who}",
            f"s-{inside}-{held.start}",
            address(_INSIDE[net.kind] + inside),
            128,
            gaps.clock(held.start),
            gaps.clock(known[-1]),
            gaps.clock(held.end) if stop else FOREVER,
            is_proven=start,
        )

    def _blocks(self, net: Network) -> None:
        for n in range(self.size):
            key = (_OUTSIDE["block"] + n // BLOCKS, n % BLOCKS)
            truth = net.ports[key] = list(self._turns(self.random.randrange(HOUR)))
            net.mappings[key] = self._told(net, key, truth)

    def _told(self, net: Network, key: tuple[int, int], truth: Sequence[Held]) -> list[Mapping]:
        """Allocations and releases as they were heard, paired by the inside address alone."""
        gaps = net.gaps
        found: list[tuple[int, int, int | None]] = []
        waiting: dict[int, int] = {}
        events = sorted([(h.start, 1, h.who) for h in truth] + [(h.end, 0, h.who) for h in truth])
        for at, is_begin, inside in events:
            if gaps.hides(at) or at >= net.until:
                continue
            if is_begin:
                if inside in waiting:
                    found.append((inside, waiting[inside], None))
                waiting[inside] = at
            elif inside in waiting:
                found.append((inside, waiting.pop(inside), at))
        found += [(inside, start, None) for inside, start in waiting.items()]
        first = 1024 + key[1] * PORTS_PER_BLOCK
        return [
            self._mapping(net, "block", inside, 0, first, first + PORTS_PER_BLOCK - 1,
                          start, start if end is None else end, end is None)
            for inside, start, end in sorted(found, key=lambda each: each[1])
        ]  # fmt: skip

    def _flows(self, net: Network) -> None:
        """Each port of each address has flows after one another, some over one another."""
        draw, gaps = self.random, net.gaps
        for n in range(max(1, self.size // BLOCKS)):
            for port in range(1024, 1024 + FLOW_PORTS):
                key = (_OUTSIDE["flow"] + n, port)
                truth, told = [], []
                at = START
                while at < self.end:
                    length = draw.choice((1, 20, 100, 400, 1500)) * draw.randrange(S, 3 * S)
                    held = Held(at, at + length, draw.randrange(self.size))
                    truth.append(held)
                    # At its end, and at each window while it lasts.
                    tellings = [*range((at // WINDOW + 1) * WINDOW, held.end, WINDOW), held.end]
                    heard = [t for t in tellings if not gaps.hides(t) and t < net.until]
                    if heard:
                        told.append(
                            self._mapping(net, "flow", held.who, 6, port, port, at, heard[-1])
                        )
                    pause = draw.choice((-200, 1, 60, 1800)) * draw.randrange(S, 3 * S)
                    at = max(at + S, held.end + pause)
                net.ports[key], net.mappings[key] = truth, told

    def _mapping(
        self, net: Network, kind: Kind, inside: int, protocol: int, first: int, last: int,
        start: int, end: int, is_open: bool = False,
    ) -> Mapping:  # fmt: skip
        clock = net.gaps.clock
        return Mapping(
            f"m-{first}-{start}", kind, net.gaps.collector, address(_INSIDE[net.kind] + inside),
            0, protocol, first, last, clock(start), clock(end), is_open,
        )  # fmt: skip

    def _deterministic(self, net: Network) -> None:
        """Two versions of half as many hosts on an address; the device is late or early with it."""
        half = START + self.hours * HOUR // 2
        net.switched = half + self.random.randint(-SKEW, SKEW)
        both = ((START - 2 * HOUR, PORTS_PER_BLOCK), (half, 2 * PORTS_PER_BLOCK))
        self.configured = Deterministic(
            tuple(
                Version(
                    "cgn",
                    dt.datetime.fromtimestamp(at / S, dt.UTC),
                    "10.128.0.0/18",
                    "192.0.2.0/23",
                    (1024, 65_535),
                    ports,
                    net.gaps.collector,
                )
                for at, ports in both
            )
        )
        net.ports = {
            (_OUTSIDE["deterministic"] + n // BLOCKS, n % BLOCKS): [] for n in range(self.size)
        }

    # Evidence, as the look-up asks for it

    def mappings(self, question: Question, from_us: int, to_us: int) -> Sequence[Mapping]:
        public = int.from_bytes(question.address[12:], "big")
        assert question.port is not None
        configured = self.configured.mappings(question, from_us, to_us)
        net = self._by_public(public)
        if net is None or net.kind == "deterministic":
            return configured
        found = net.mappings.get((public, net.slot(question.port)), [])
        return [each for each in found if from_us - 24 * HOUR < each.start_us < to_us]

    def sharers(self, packed: bytes, from_us: int, to_us: int) -> int | None:
        return None if self._by_public(int.from_bytes(packed[12:], "big")) is None else BLOCKS

    def holdings(self, packed: bytes, from_us: int, to_us: int) -> Sequence[Holding]:
        number = int.from_bytes(packed[12:], "big")
        for kind in KINDS:
            n = number - _INSIDE[kind]
            if 0 <= n < self.size:
                found = self.networks[kind].holdings[n]
                return [each for each in found if from_us - 8 * HOUR < each.start_us < to_us]
        return []

    def losses(self, from_us: int, to_us: int) -> Sequence[Lost]:
        found = [
            each
            for spans in self._spans.values()
            for each in spans
            if each.start_us < to_us and from_us < each.end_us
        ]
        for net in self.networks.values():
            if net.until < to_us:
                found += [
                    Lost(name, net.gaps.collector, net.until, FOREVER, "not-delivered")
                    for name in ("binding", "mapping")
                ]
        return found

    def _by_public(self, public: int) -> Network | None:
        for kind in KINDS:
            if 0 <= public - _OUTSIDE[kind] <= self.size // BLOCKS:
                return self.networks[kind]
        return None

    # Questions

    def ask(self) -> tuple[Question, str, set[str]]:
        """A question as a third party asks it, what kind it is, and who it was in truth."""
        draw = self.random
        at = START + draw.randrange(self.end - START)
        asked = at + draw.randint(-TOLERANCE, TOLERANCE)
        kind = draw.choice(KINDS)
        net = self.networks[kind]
        if draw.random() < 0.25:
            inside = draw.randrange(self.size)
            names = net.holders(inside, at)
            question = Question(address(_INSIDE[kind] + inside), asked, TOLERANCE)
            return question, "direct", {f"{kind}-{who}" for who in names}
        public, slot = draw.choice(self._keys(kind))
        port = slot if kind == "flow" else 1024 + slot * PORTS_PER_BLOCK + draw.randrange(1000)
        names = net.users(public, port, at)
        question = Question(address(public), asked, TOLERANCE, port, draw.choice((6, None)))
        if draw.random() < 0.02:
            return Question(address(public), asked, TOLERANCE), "no port", set()
        return question, kind, {f"{kind}-{who}" for who in names}

    def shared_ports(self) -> Iterator[tuple[Question, set[str]]]:
        """A question in the midst of each time in which two flows have one port."""
        net = self.networks["flow"]
        for (public, port), flows in net.ports.items():
            for one, other in pairwise(flows):
                at, end = other.start, min(one.end, other.end)
                if end - at > 4 * TOLERANCE:
                    middle = (at + end) // 2
                    names = {f"flow-{who}" for who in net.users(public, port, middle)}
                    yield Question(address(public), middle, TOLERANCE, port, 6), names

    def _keys(self, kind: Kind) -> list[tuple[int, int]]:
        if not self._key_lists:
            self._key_lists = {k: sorted(net.ports) for k, net in self.networks.items()}
        return self._key_lists[kind]
