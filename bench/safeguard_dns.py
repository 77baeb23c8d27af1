"""DNS answers from frame to tables, with block answers recognised and without.

    python -m bench.safeguard_dns [--messages 1280] [--rounds 100]

The answers of `bench.dns_mix` go through observer and trackers as the collector wires them: once
without SafeGuard, once with it counting, with eight categories and 16 page addresses; with none,
one and three in a hundred of them blocks. One in a hundred is more than an ISP's resolver says,
none is what looking costs, and three what it costs where many are blocked.

Figures are CPU time of whole rounds, garbage collections among them as in production: the mean of
all rounds, in which the ways take turns in an order that is turned around each time, so that what
else the machine does burdens both. Each way is there some times over, with tables of its own, as
where those lie in memory makes one a little faster than the other. A round is a second of a router
with some thousand answers a second: it ends with the tick of each second. Turns are whole rounds,
not batches: with tables of others in between, the code that only blocks run would be out of the
cache more often than in a collector, which has one set of them.

A last figure is the price of overwriting freed memory (`collector.hygiene.ENVIRONMENT`), which has
to be there when a process starts: processes with and without it take turns.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from statistics import mean
from typing import Final

import numpy as np

from bench.dns_mix import CATEGORIES, answers, page
from bench.report import MAX_ROUNDS, Figure, Way, cpu_of, finish
from collector.capture.slots import MAX_BATCH, Slots
from collector.hygiene import ENVIRONMENT, fill_random
from collector.parse.link import LINK_ETHERNET
from collector.track.observer import Observer, ObserverConfig
from collector.track.safeguard.domain import SafeguardConfig
from collector.track.safeguard.targets import Target, Targets
from collector.track.safeguard.tracker import Randomness
from collector.track.trackers import Trackers, TrackersConfig
from collector.wire.addr import pack

MAX_MESSAGES: Final = 100_000
WANTED: Final = 1 / 1.05
"""At most 5 % apart."""
BLOCKED: Final = (1, 0, 3)
"""Of a hundred answers, as in the mix first."""
PLACES: Final = 3
"""Times that each way is there."""
CLIENTS: Final = 4096
ACCESS: Final = ((pack("10.0.0.0"), 96 + 8),)
DAY_NS: Final = 86_400 * 10**9
START_NS: Final = 20_000 * DAY_NS
_CHILD_ROUNDS: Final = 5
_SNAPLEN: Final = 1024


def targets() -> Targets:
    """Half of the categories by name, half by address."""
    found = []
    for number, name in enumerate(CATEGORIES):
        addresses = (pack(page(number)), pack(f"203.0.113.{2 * number + 2}"))
        found.append(Target((), addresses) if number % 2 else Target((f"{name}.block.example",)))
    return Targets(found, [pack(f"203.0.114.{number}") for number in range(8)])


def frames(count: int, blocked: int) -> list[Slots]:
    """Answers of one resolver to many clients, in Ethernet frames as recvmmsg(2) leaves them."""
    made: list[bytes] = []
    for number, message in enumerate(answers(count, blocked)):
        client = struct.pack(">I", (10 << 24) + 1 + number % CLIENTS)
        udp = struct.pack(">4H", 53, 40000, 8 + len(message), 0) + message
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        packet = head + pack("192.0.2.53")[12:] + client + udp
        link = bytes.fromhex("020000000001020000000002") + b"\x08\x00"
        made.append(link + packet)
    return [_filled(made[at : at + MAX_BATCH]) for at in range(0, count - MAX_BATCH + 1, MAX_BATCH)]


def _filled(messages: list[bytes]) -> Slots:
    slots = Slots(_SNAPLEN)
    for place, message in enumerate(messages):
        slots._data[place, : len(message)] = np.frombuffer(message, np.uint8)
        slots._headers["len"][place] = len(message)
    return slots


def capture(batches: Sequence[Slots], *, is_recognised: bool) -> tuple[Way, int]:
    """Takes frames as the collector's loop does, into tables that are as full at each go; and how
    many answers led nowhere, as those do that are told for blocks."""
    known = targets() if is_recognised else None
    guard = SafeguardConfig("bench", "here", ("here",), CATEGORIES) if is_recognised else None
    observer = Observer(ObserverConfig({0: frozenset(("access",))}, targets=known))
    trackers = Trackers(
        TrackersConfig(ACCESS, 300 * 10**9, safeguard=guard, targets=known),
        START_NS,
        Randomness(os.urandom, fill_random),
    )
    for now in (START_NS - 60 * 10**9, START_NS):
        trackers.tick(now)

    def way() -> int:
        for slots in batches:
            for frame in slots.frames(MAX_BATCH, LINK_ETHERNET):
                for event in observer.frame(frame):
                    trackers.observed(event)  # type: ignore[arg-type]
        trackers.tick(START_NS)
        return len(batches) * MAX_BATCH

    way()
    return way, trackers.hosts.counts["answers"]["ignored.no-address"]


def costs(batches: Sequence[Slots], rounds: int, kinds: Sequence[bool]) -> dict[bool, float]:
    """Mean microseconds an answer of each kind, with recognition (true) or without."""
    made = [(is_on, *capture(batches, is_recognised=is_on)) for is_on in [*kinds] * PLACES]
    nowhere = {is_on: count for is_on, _, count in made}
    if len(nowhere) == 2 and nowhere[True] - nowhere[False] != to_pages(batches):
        raise RuntimeError("blocks were not told from other answers")
    spent: dict[bool, list[float]] = {is_on: [] for is_on in kinds}
    for number in range(rounds):
        for is_on, way, _ in made if number % 2 else reversed(made):
            seconds, done = cpu_of(way)
            spent[is_on].append(seconds / done * 1e6)
    return {is_on: mean(each) for is_on, each in spent.items()}


def to_pages(batches: Sequence[Slots]) -> int:
    """Answers with the address of a block page, by the bytes that only they have."""
    pages = [each[12:] for each in targets().pages]
    return sum(
        any(page in frame.data for page in pages)
        for slots in batches
        for frame in slots.frames(MAX_BATCH, LINK_ETHERNET)
    )


def measure(count: int, rounds: int) -> list[Figure]:
    figures = []
    for blocked in BLOCKED:
        batches = frames(count, blocked)
        found = costs(batches, rounds, (False, True))
        name = "recognition" if blocked == BLOCKED[0] else f"recognition-{blocked}-in-100"
        figures.append(
            Figure(
                name=f"safeguard-dns.{name}",
                ours=found[True],
                peer=found[False],
                unit="us CPU an answer",
                peer_is="ours without SafeGuard",
                includes=f"{_what(batches)}; {blocked} in 100 answers blocked; garbage collections",
                leaves_out="the system call that fills the slots, as in both",
                wanted=WANTED,
            )
        )
    plain, wiped = children(count, rounds)
    overwritten = Figure(
        name="safeguard-dns.overwriting",
        ours=wiped,
        peer=plain,
        unit="us CPU an answer",
        peer_is="ours with Python's own allocator",
        includes=f"{_what(frames(count, BLOCKED[0]))}, recognition on, in both",
        leaves_out="the system call that fills the slots; what other threads allocate",
    )
    return [*figures, overwritten]


def _what(batches: Sequence[Slots]) -> str:
    size = mean(float(slots._headers["len"].mean()) for slots in batches)
    return f"{len(batches) * MAX_BATCH} frames of {size:.0f} bytes on average, slots to tables"


def children(count: int, rounds: int) -> tuple[float, float]:
    """Microseconds an answer with recognition, in processes without and with ENVIRONMENT."""
    spent: tuple[list[float], list[float]] = [], []
    bare = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    words = ["--messages", str(count), "--rounds", str(max(1, rounds // PLACES)), "--one"]
    command = [sys.executable, "-m", "bench.safeguard_dns", *words]
    for _ in range(_CHILD_ROUNDS):
        for place, environment in enumerate((bare, {**bare, **ENVIRONMENT})):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=300
            )
            spent[place].append(float(done.stdout))
    return mean(spent[0]), mean(spent[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=100, help="all of them count")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 400 <= options.messages <= MAX_MESSAGES or not 1 <= options.rounds <= MAX_ROUNDS:
        parser.error(f"messages are 400 to {MAX_MESSAGES}, rounds 1 to {MAX_ROUNDS}")
    if options.one:
        found = costs(frames(options.messages, BLOCKED[0]), options.rounds, (True,))
        sys.stdout.write(f"{found[True]}\n")
        return 0
    return finish(measure(options.messages, options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
