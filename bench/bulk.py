"""What the observer costs the bulk path: the same transfer through a router with it and without.

    python -m bench.bulk [--rounds 15] [--mib 128]

One TCP connection carries --mib MiB from the world to a subscriber through a router in network
namespaces, with conntrack and NAT. In each round it does so once in each of four ways, in an order
that chance gives: without a capture, with the observer's (its socket and filter on the access
interface, frames read and parsed), without again, and with a socket that has no filter. All of that
in two shapes: `cut`, with a frame for each packet, as where bytes must be exact and offloads are
off, and `merged`, with up to 64 KiB in a frame, as NICs with GRO hand over. CPU is that of this
process, in which both ends, the forwarding between them (softirq runs in whose call brought the
packet) and the observer run, and of the kernel's softirq threads. Rounds are compared pairwise: the
median of the ratios, and the interval that holds it with 95 %, by order statistics; without against
without again shows what the machine cannot tell. Needs root, ip, ethtool and nft.
"""

from __future__ import annotations

import argparse
import math
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from bench.report import Figure, console, finish
from collector.capture.packet import PacketConfig, PacketSource
from collector.track.observer import Observer, ObserverConfig
from tests.collector.capture.netns_fixture import Router, inside, router, run

WAYS: Final = ("off", "on", "off again", "unfiltered")
MAX_ROUNDS: Final = 200
MAX_MIB: Final = 4096
WANTED: Final = {"cut": None, "merged": 0.98}
"""Nothing measurable is asked for where frames are merged. Where each packet has one, the tap
itself (a clone of what goes out, a call of the filter) costs what it costs, and that is stated."""
_PIECE: Final = 1 << 18
_WAIT_S: Final = 60.0
_ETH_P_ALL: Final = 3


@dataclass(frozen=True, slots=True)
class Run:
    """One transfer: seconds of CPU, seconds by the clock, frames that the capture gave."""

    cpu_s: float
    wall_s: float
    frames: int


def transfer(lab: Router, size: int) -> None:
    """`size` bytes over one connection from the world to a subscriber, who opens it."""
    with inside(lab.up.ns):
        listener = socket.create_server((lab.up.ipv4, 0))
    with inside(lab.a.ns):
        near = socket.socket()
    listener.settimeout(_WAIT_S)
    near.settimeout(_WAIT_S)

    def serve() -> None:
        far, _ = listener.accept()
        piece, left = bytes(_PIECE), size
        with far:
            far.settimeout(_WAIT_S)
            while left:
                left -= far.send(piece[: min(left, _PIECE)])

    sender = threading.Thread(target=serve)
    with listener, near:
        sender.start()
        near.connect(listener.getsockname())
        room = bytearray(_PIECE)
        while near.recv_into(room):
            pass
        sender.join()


@contextmanager
def observing(lab: Router) -> Iterator[list[int]]:
    """The observer on the access interface, in a thread; counts the frames it was given."""
    with inside(lab.ns):
        source = PacketSource(PacketConfig("acc0"), time.time_ns)
        source.start()
    observer = Observer(ObserverConfig({source.interface_index: frozenset(("access",))}))

    def take() -> int:
        frames = source.read(512)
        for frame in frames:
            observer.frame(frame)
        return len(frames)

    with _reading(source.fileno(), take) as count:
        yield count
    source.stop()


@contextmanager
def unfiltered(lab: Router) -> Iterator[list[int]]:
    """A packet socket without a filter, read to be forgotten."""
    with inside(lab.ns):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        opened.bind(("acc0", 0))
    room = bytearray(65_536)

    def take() -> int:
        return int(opened.recv_into(room) > 0)

    with opened, _reading(opened.fileno(), take) as count:
        yield count


@contextmanager
def without(lab: Router) -> Iterator[list[int]]:
    """No capture."""
    yield [0]


@contextmanager
def _reading(descriptor: int, take: Callable[[], int]) -> Iterator[list[int]]:
    """A thread that calls `take` whenever the descriptor has something."""
    count, ending = [0], threading.Event()

    def loop() -> None:
        while not ending.is_set():
            if select.select((descriptor,), (), (), 0.1)[0]:
                count[0] += take()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield count
    finally:
        ending.set()
        thread.join()


CAPTURES: Final = {
    "off": without,
    "on": observing,
    "off again": without,
    "unfiltered": unfiltered,
}


def cpu_s() -> float:
    """Seconds of this process and of the kernel's softirq threads."""
    threads = 0
    for name in Path("/proc").glob("[0-9]*/comm"):
        try:
            if name.read_text().startswith("ksoftirqd/"):
                threads += int(name.with_name("schedstat").read_text().split()[0])
        except OSError:  # it has ended meanwhile
            continue
    return time.process_time() + threads / 1e9


def one(lab: Router, way: str, size: int) -> Run:
    with CAPTURES[way](lab) as count:
        before, began = cpu_s(), time.monotonic()
        transfer(lab, size)
        return Run(cpu_s() - before, time.monotonic() - began, count[0])


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the order statistics between which it lies with 95 % (binomial, distribution
    free); of fewer than six values the least and the greatest, which hold it with less."""
    ordered, n = sorted(values), len(values)
    low, tail = 0, 0.5**n
    while low + 1 < n // 2 and tail + math.comb(n, low + 1) * 0.5**n <= 0.025:
        low += 1
        tail += math.comb(n, low) * 0.5**n
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, ordered[low], ordered[n - 1 - low]


def compare(
    runs: Mapping[str, list[Run]], way: str, what: Callable[[Run], float]
) -> tuple[float, float, float]:
    """The interval of a way's figure over that of "off" in the same round."""
    pairs = zip(runs[way], runs["off"], strict=True)
    return interval([what(each) / what(off) for each, off in pairs])


def show(runs: Mapping[str, list[Run]], shape: str) -> None:
    made = Table(title=f"{shape}: each way over `off` of its round, median (95 % interval)")
    for column in ("way", "CPU", "throughput", "frames"):
        made.add_column(column)
    for way in WAYS[1:]:
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(*compare(runs, way, what))
            for what in (lambda run: run.cpu_s, lambda run: 1 / run.wall_s)
        ]
        made.add_row(way, *cells, str(sorted(run.frames for run in runs[way])[len(runs[way]) // 2]))
    console().print(made)


def figures(runs: Mapping[str, list[Run]], shape: str, mib: int) -> list[Figure]:
    """CPU with the observer over that without, and over that of a socket without a filter."""
    base = sum(run.cpu_s for run in runs["off"]) / len(runs["off"]) * 1024 / mib
    on, low, high = compare(runs, "on", lambda run: run.cpu_s)
    _, least, most = compare(runs, "off again", lambda run: run.cpu_s)
    speed = compare(runs, "on", lambda run: 1 / run.wall_s)
    every = base * compare(runs, "unfiltered", lambda run: run.cpu_s)[0]
    includes = (
        f"{mib} MiB of TCP, {len(runs['off'])} rounds: both ends, forwarding, softirq, the socket, "
        f"its filter and the observer; ratio of CPU {low:.3f} to {high:.3f} with 95 %, without "
        f"against without {least:.3f} to {most:.3f}, throughput {speed[1]:.3f} to {speed[2]:.3f}"
    )
    left = "the counters in nftables; conntrack and NAT are in both; handshakes beyond one"
    peers = {
        "none": (base, "no capture", WANTED[shape]),
        "unfiltered": (every, "a packet socket without a filter, read and forgotten", None),
    }
    return [
        Figure(f"bulk.{shape}-{name}", base * on, cost, "s CPU a GiB", who, includes, left, wanted)
        for name, (cost, who, wanted) in peers.items()
    ]


def shaped(lab: Router, shape: str) -> None:
    """Has every interface cut packets or merge them."""
    state = {"cut": "off", "merged": "on"}[shape]
    switches = [word for name in ("tx", "tso", "gso", "gro") for word in (name, state)]
    ends = [(host.ns, host.device) for host in (lab.a, lab.up)]
    for ns, device in (*ends, (lab.ns, "acc0"), (lab.ns, "up0")):
        run("ip", "netns", "exec", ns, "ethtool", "-K", device, *switches)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mib", type=int, default=128)
    options = parser.parse_args()
    if not (1 <= options.rounds <= MAX_ROUNDS and 1 <= options.mib <= MAX_MIB):
        parser.error(f"1 to {MAX_ROUNDS} rounds of 1 to {MAX_MIB} MiB")
    made: list[Figure] = []
    with router() as lab:
        for shape in WANTED:
            shaped(lab, shape)
            runs: dict[str, list[Run]] = {way: [] for way in WAYS}
            one(lab, "on", 1 << 22)  # what is made once is made
            for _ in range(options.rounds):
                for way in random.sample(WAYS, len(WAYS)):
                    runs[way].append(one(lab, way, options.mib << 20))
            show(runs, shape)
            made += figures(runs, shape, options.mib)
    return finish(made)


if __name__ == "__main__":
    sys.exit(main())
