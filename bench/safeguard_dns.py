"""DNS answers from frame to tables, with block answers recognised and without.

    python -m bench.safeguard_dns [--messages 640] [--rounds 100]

The same answers go through observer and trackers as the collector wires them: once without
SafeGuard, once with it counting, with eight categories and 16 page addresses, and 1 in 100 answers
blocked. A third figure is the price of overwriting freed memory (`collector.hygiene.ENVIRONMENT`),
which has to be there when a process starts: processes with and without it take turns. Figures are
CPU time. A difference of a few percent is less than what a busy machine adds to a run of a second,
so the ways take turns batch by batch: best of the rounds for each batch, and their mean.
"""

from __future__ import annotations

import argparse
import gc
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import Final

import dns.message
import dns.rrset
import numpy as np

from bench.parsers import dns_answer, hosts
from bench.report import Figure, Way, finish, in_turns
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
BLOCKED_IN: Final = 100
"""One answer of so many is a block."""
CLIENTS: Final = 4096
CATEGORIES: Final = tuple(f"category-{letter}" for letter in "abcdefgh")
ACCESS: Final = ((pack("10.0.0.0"), 96 + 8),)
DAY_NS: Final = 86_400 * 10**9
START_NS: Final = 20_000 * DAY_NS
_CHILD_ROUNDS: Final = 3
_SNAPLEN: Final = 1024


def targets() -> Targets:
    """Half of the categories by name, half by address."""
    found = []
    for number, name in enumerate(CATEGORIES):
        addresses = tuple(pack(f"203.0.113.{2 * number + last}") for last in (1, 2))
        found.append(Target((), addresses) if number % 2 else Target((f"{name}.block.example",)))
    return Targets(found, [pack(f"203.0.114.{number}") for number in range(8)])


def blocked(host: str, number: int) -> bytes:
    """As a resolver with response policies answers."""
    response = dns.message.make_response(dns.message.make_query(host, "A", use_edns=0))
    category = number % len(CATEGORIES)
    owner, page = f"{host}.", f"203.0.113.{2 * category + 1}"
    if category % 2 == 0:
        alias = f"{CATEGORIES[category]}.block.example."
        response.answer.append(dns.rrset.from_text(owner, 60, "IN", "CNAME", alias))
        owner, page = alias, "203.0.114.1"
    response.answer.append(dns.rrset.from_text(owner, 60, "IN", "A", page))
    return response.to_wire()


def frames(count: int) -> list[Slots]:
    """Answers of one resolver to many clients, in Ethernet frames as recvmmsg(2) leaves them."""
    made: list[bytes] = []
    for number, host in enumerate(hosts(count)):
        is_blocked = number % BLOCKED_IN == 0
        message = blocked(host, number // BLOCKED_IN) if is_blocked else dns_answer(host, number)
        client = struct.pack(">4I", 0, 0, 0xFFFF, (10 << 24) + 1 + number % CLIENTS)[12:]
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


def capture(messages: list[Slots], *, is_recognised: bool) -> list[Way]:
    """A way for each batch: takes its frames as the collector's loop does, into the same tables,
    which are as full at each go."""
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

    def batch(slots: Slots) -> int:
        for frame in slots.frames(MAX_BATCH, LINK_ETHERNET):
            for event in observer.frame(frame):
                trackers.observed(event)  # type: ignore[arg-type]
        return MAX_BATCH

    ways: list[Way] = [partial(batch, slots) for slots in messages]
    total = sum(way() for way in ways)
    nowhere = trackers.hosts.counts["answers"]["ignored.no-address"]
    if is_recognised != (nowhere > total // 4 + total // (2 * BLOCKED_IN)):
        raise RuntimeError("blocks were not told from other answers")
    return ways


def best(captures: Sequence[tuple[str, list[Way]]], rounds: int) -> dict[str, float]:
    """Microseconds an answer by name; captures of one name are places in memory to choose from,
    as where tables lie makes a way faster or slower."""
    ways = {
        f"{at} {place}": way
        for at, batch in enumerate(zip(*(ways for _, ways in captures), strict=True))
        for place, way in enumerate(batch)
    }
    # As in the collector: what is there before the work is no garbage to look for.
    gc.collect()
    gc.freeze()
    times = in_turns(ways, rounds)

    def lowest(name: str, at: int) -> float:
        return min(times[f"{at} {n}"] for n, (own, _) in enumerate(captures) if own == name)

    batches = range(len(captures[0][1]))
    return {name: mean(lowest(name, at) for at in batches) for name, _ in captures}


def measure(count: int, rounds: int) -> list[Figure]:
    messages = frames(count)
    order = (False, True, True, False, False, True)
    found = best([(str(on), capture(messages, is_recognised=on)) for on in order], rounds)
    off, on = found["False"], found["True"]
    size = sum(float(slots._headers["len"].mean()) for slots in messages) / len(messages)
    what = f"{len(messages) * MAX_BATCH} frames of {size:.0f} bytes on average, slots to tables"
    recognised = Figure(
        name="safeguard-dns.recognition",
        ours=on,
        peer=off,
        unit="us CPU an answer",
        peer_is="ours without SafeGuard",
        includes=f"{what}; 1 in {BLOCKED_IN} answers blocked",
        leaves_out="the system call that fills the slots and garbage collections, as in both",
        wanted=WANTED,
    )
    plain, wiped = children(count, rounds)
    overwritten = Figure(
        name="safeguard-dns.overwriting",
        ours=wiped,
        peer=plain,
        unit="us CPU an answer",
        peer_is="ours with Python's own allocator",
        includes=f"{what}, recognition on, in both",
        leaves_out="the system call that fills the slots; what other threads allocate",
    )
    return [recognised, overwritten]


def children(count: int, rounds: int) -> tuple[float, float]:
    """Microseconds an answer with recognition, in processes without and with ENVIRONMENT."""
    best = [float("inf")] * 2
    bare = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    words = ["--messages", str(count), "--rounds", str(rounds), "--one"]
    command = [sys.executable, "-m", "bench.safeguard_dns", *words]
    for _ in range(_CHILD_ROUNDS):
        for place, environment in enumerate((bare, {**bare, **ENVIRONMENT})):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=300
            )
            best[place] = min(best[place], float(done.stdout))
    return best[0], best[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=100, help="the best counts")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 400 <= options.messages <= MAX_MESSAGES or not 1 <= options.rounds <= 100:
        parser.error(f"messages are 400 to {MAX_MESSAGES}, rounds 1 to 100")
    if options.one:
        ways = capture(frames(options.messages), is_recognised=True)
        sys.stdout.write(f"{best([('on', ways)], options.rounds)['on']}\n")
        return 0
    return finish(measure(options.messages, options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
