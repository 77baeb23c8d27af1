"""DNS answers from frame to tables, with block answers recognised and without.

    python -m bench.safeguard_dns [--messages 640] [--rounds 100]

The same answers go through observer and trackers as the collector wires them: once without
SafeGuard, once with it counting, with eight categories and 16 page addresses, and 1 in 100 answers
blocked. A third figure is the price of overwriting freed memory (`collector.hygiene.ENVIRONMENT`),
which has to be there when a process starts: processes with and without it take turns. Figures are
CPU time, best of the rounds, each round with all ways in turn.
"""

from __future__ import annotations

import argparse
import gc
import os
import struct
import subprocess
import sys
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


def capture(messages: list[Slots], *, is_recognised: bool) -> Way:
    """Takes every frame as the collector's loop does; the tables are as full at each go."""
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

    total = len(messages) * MAX_BATCH

    def way() -> int:
        for slots in messages:
            for frame in slots.frames(MAX_BATCH, LINK_ETHERNET):
                for event in observer.frame(frame):
                    trackers.observed(event)  # type: ignore[arg-type]
        return total

    way()
    nowhere = trackers.hosts.counts["answers"]["ignored.no-address"]
    if is_recognised != (nowhere > total // 4 + total // (2 * BLOCKED_IN)):
        raise RuntimeError("blocks were not told from other answers")
    return way


def measure(count: int, rounds: int) -> list[Figure]:
    messages = frames(count)
    # Where its tables lie in memory makes a way faster or slower: so there are several of each.
    order = (False, True, True, False, False, True)
    ways = {f"{on} {n}": capture(messages, is_recognised=on) for n, on in enumerate(order)}
    gc.collect()
    times = in_turns(ways, rounds)
    off, on = (
        min(found for name, found in times.items() if name.startswith(str(each)))
        for each in (False, True)
    )
    size = sum(float(slots._headers["len"].mean()) for slots in messages) / len(messages)
    what = f"{len(messages) * MAX_BATCH} frames of {size:.0f} bytes on average, slots to tables"
    recognised = Figure(
        name="safeguard-dns.recognition",
        ours=on,
        peer=off,
        unit="us CPU an answer",
        peer_is="ours without SafeGuard",
        includes=f"{what}; 1 in {BLOCKED_IN} answers blocked",
        leaves_out="the system call that fills the slots, which is the same in both",
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
        way = capture(frames(options.messages), is_recognised=True)
        sys.stdout.write(f"{in_turns({'on': way}, options.rounds)['on']}\n")
        return 0
    return finish(measure(options.messages, options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
