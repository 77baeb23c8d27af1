"""Memory of the trackers with 50,000 subscribers who look 20 hosts up each and open a flow to each.

    python -m bench.memory [--subscribers 50000]

The figure is the most that the process held (VmHWM), interpreter and libraries included, beside the
budget; tables are as large as they are by default, so what they evict is printed. Flows come in
batches of an event read, spread over the window, with ports, bytes and durations drawn at random;
hosts are shared by all subscribers, names and addresses are objects of their own in each event.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from bench.report import Figure, finish
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


def ended(
    clients: list[bytes], servers: list[bytes], first: int, now_ns: int, rng: np.random.Generator
) -> Rows:
    """DESTROY rows of one flow for each pair, which ended in the last second."""
    size = len(clients)
    rows = np.zeros(size, COLUMNS)
    rows["orig_src"] = rows["reply_dst"] = np.frombuffer(b"".join(clients), "V16")
    rows["orig_dst"] = rows["reply_src"] = np.frombuffer(b"".join(servers), "V16")
    rows["id"] = np.arange(first, first + size)
    rows["orig_bytes"], rows["reply_bytes"] = rng.lognormal((8, 10), 2, (size, 2)).astype("u8").T
    rows["orig_packets"] = 1 + rows["orig_bytes"] // 500
    rows["stop_ns"] = now_ns - rng.integers(0, _SECOND_NS, size)
    rows["start_ns"] = rows["stop_ns"] - rng.exponential(10 * _SECOND_NS, size).astype("i8")
    rows["protocol"], rows["orig_dport"] = rng.choice([6, 17], size), 443
    rows["orig_sport"] = rng.integers(1024, 65_536, size)
    rows["kind"], rows["counted"] = DESTROY, True
    return rows


def fill(subscribers: int) -> Trackers:
    """All look-ups and flows of one window."""
    rng = np.random.default_rng(1)
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
            trackers.destroyed(ended(clients, targets, number * HOSTS, now, rng), now)
            clients, targets = [], []
    return trackers


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--subscribers", type=int, default=50_000)
    options = parser.parse_args()
    if not 1 <= options.subscribers <= MAX_SUBSCRIBERS:
        parser.error(f"subscribers are 1 to {MAX_SUBSCRIBERS}")
    bare = peak_mb()
    trackers = fill(options.subscribers)
    held = peak_mb()
    evicted = trackers.hosts._answers.evicted
    now = time.time_ns() + 2 * _WINDOW_NS
    rows = len(trackers.hosts.take(now - 3 * _WINDOW_NS, now, now)[VISIT.name]["host"])
    closed = peak_mb()
    Console().print(
        f"bare {bare:.0f} MB, full {held:.0f} MB, answers evicted: {evicted:,}; "
        f"while the window closes {closed:.0f} MB, {rows:,} visits"
    )
    load = f"{options.subscribers:,} subscribers x {HOSTS} hosts"
    return finish(
        [
            Figure(
                name="memory.trackers",
                ours=held,
                peer=BUDGET_MB,
                unit="MB resident at most",
                peer_is="budget",
                includes=f"interpreter and libraries ({bare:.0f} MB); {load}: answers and flows of "
                "an open window",
                leaves_out="the close of the window, sockets' buffers in the kernel",
                wanted=1.0,
            ),
            Figure(
                name="memory.close",
                ours=closed,
                peer=held,
                unit="MB resident at most",
                peer_is="the same before the window closes",
                includes=f"{load}: all of them joined at once, {rows:,} rows of visits as columns",
                leaves_out="Arrow, the spool, sockets' buffers in the kernel",
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
