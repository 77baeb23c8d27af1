"""Memory of a collector with 50,000 subscribers who look 20 hosts up each and open a flow to each.

    python -m bench.memory [--subscribers 50000]

The process has everything loaded that a collector has, and gave back what only the start needed, as
a collector does. The figure is the most that it held (VmHWM) from then on, interpreter and
libraries included, beside the budget; tables are as large as they are by default, so what they
evict is printed. Flows come in batches of an event read, spread over the window, with ports, bytes
and durations drawn at random; hosts are shared by all subscribers, names and addresses are objects
of their own in each event.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import collector.service  # noqa: F401  (loads what a collector has in memory)
from bench.report import Figure, finish
from collector import memory
from collector.parse.conntrack import COLUMNS, DESTROY
from collector.track.flows import Rows
from collector.track.host_events import Resolution
from collector.track.trackers import Trackers, TrackersConfig
from collector.wire.addr import pack
from collector.wire.records import VISIT

HOSTS: Final = 20
BUDGET_MB: Final = 120.0
MAX_SUBSCRIBERS: Final = 65_536
_SECOND_NS: Final = 1_000_000_000
_WINDOW_NS: Final = 300 * _SECOND_NS
_BEFORE_NS: Final = 100 * _SECOND_NS
"""How long before its end a flow's name was looked up: before nearly all of them began."""
_BATCH: Final = 4_000


def peak_mb() -> float:
    """The most this process has had in memory so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not say how much memory there is in use")


def start_anew() -> float:
    """Makes the kernel measure `peak_mb` from now on (proc(5): clear_refs); what is held now."""
    Path("/proc/self/clear_refs").write_text("5\n")
    return peak_mb()


def drawn(first: int, size: int, salt: int) -> NDArray[np.float64]:
    """Numbers in (0, 1] that look random, float64[n]: splitmix64 of what counts from `first`.

    numpy's own generators are not in a collector's memory, so they are not to be in this figure.
    """
    mixed = np.arange(first, first + size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(salt << 56)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (1 + (mixed >> np.uint64(11)).astype(np.float64)) / 2.0**53


def log_normal(first: int, size: int, salt: int, middle: float) -> NDArray[np.uint64]:
    """Bytes of flows: exp of a normal distribution around `middle` (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log(drawn(first, size, salt)))
    normal = radius * np.cos(2 * np.pi * drawn(first, size, salt + 1))
    sizes: NDArray[np.uint64] = np.exp(middle + 2 * normal).astype(np.uint64)
    return sizes


def ended(clients: list[bytes], servers: list[bytes], first: int, now_ns: int) -> Rows:
    """DESTROY rows of one flow for each pair, which ended in the last second."""
    size = len(clients)
    rows = np.zeros(size, COLUMNS)
    rows["orig_src"] = rows["reply_dst"] = np.frombuffer(b"".join(clients), "V16")
    rows["orig_dst"] = rows["reply_src"] = np.frombuffer(b"".join(servers), "V16")
    rows["id"] = np.arange(first, first + size)
    rows["orig_bytes"], rows["reply_bytes"] = (
        log_normal(first, size, salt, middle) for salt, middle in ((1, 8), (3, 10))
    )
    rows["orig_packets"] = 1 + rows["orig_bytes"] // 500
    rows["stop_ns"] = now_ns - (_SECOND_NS * drawn(first, size, 5)).astype("i8")
    lasted = -10 * _SECOND_NS * np.log(drawn(first, size, 6))
    rows["start_ns"] = rows["stop_ns"] - lasted.astype("i8")
    rows["protocol"] = np.where(drawn(first, size, 7) < 0.5, 6, 17)
    rows["orig_dport"], rows["orig_sport"] = 443, 1024 + 64_511 * drawn(first, size, 8)
    rows["kind"], rows["counted"] = DESTROY, True
    return rows


def fill(subscribers: int) -> Trackers:
    """All look-ups and flows of one window."""
    began = time.time_ns()
    trackers = Trackers(TrackersConfig(((pack("10.0.0.0"), 112),), _WINDOW_NS), 0)
    clients, targets = [], []
    for number in range(subscribers):
        now = began + number * _WINDOW_NS // subscribers
        client = pack(f"10.0.{number >> 8}.{number & 255}")
        for host in range(HOSTS):
            server, name = pack(f"198.51.{host}.{7 * host}"), f"host-{host}.example"
            trackers.observed(Resolution(now - _BEFORE_NS, client, server, name, (server,)))
            clients.append(client)
            targets.append(server)
        if len(clients) >= _BATCH or number == subscribers - 1:
            trackers.destroyed(ended(clients, targets, number * HOSTS, now), now)
            clients, targets = [], []
    return trackers


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--subscribers", type=int, default=50_000)
    options = parser.parse_args()
    if not 1 <= options.subscribers <= MAX_SUBSCRIBERS:
        parser.error(f"subscribers are 1 to {MAX_SUBSCRIBERS}")
    gc.collect()
    gc.freeze()
    loaded = peak_mb()
    memory.settle()
    bare = start_anew()
    trackers = fill(options.subscribers)
    held = peak_mb()
    evicted = trackers.hosts._answers.evicted
    now = time.time_ns() + 2 * _WINDOW_NS
    rows = len(trackers.hosts.take(now - 3 * _WINDOW_NS, now, now)[VISIT.name]["host"])
    closed = peak_mb()
    Console().print(
        f"loaded {loaded:.0f} MB, bare {bare:.0f} MB, full {held:.0f} MB, "
        f"answers evicted: {evicted:,}; while the window closes {closed:.0f} MB, {rows:,} visits"
    )
    load = f"{options.subscribers:,} subscribers x {HOSTS} hosts"
    return finish(
        [
            Figure(
                name="memory.collector",
                ours=held,
                peer=BUDGET_MB,
                unit="MB resident at most",
                peer_is="budget",
                includes=f"interpreter and all modules of a collector ({bare:.0f} MB once it has "
                f"started, {loaded:.0f} MB while it does); {load}: answers and flows of an open "
                "window, each flow with its host",
                leaves_out="the close of the window; buffers of sockets, 4 MB of them the "
                "process's own",
                wanted=1.0,
            ),
            Figure(
                name="memory.close",
                ours=closed,
                peer=BUDGET_MB,
                unit="MB resident at most",
                peer_is="budget",
                includes=f"{load}: all that memory.collector has, and while the window closes all "
                f"of them joined, {rows:,} rows of visits as columns",
                leaves_out="Arrow, the spool, sockets' buffers in the kernel",
                wanted=1.0,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
