"""Memory of the trackers with 50,000 subscribers who look 20 hosts up each and open a flow to each.

    python -m bench.memory [--subscribers 50000]

The figure is the most that the process held (VmHWM), interpreter and libraries included, beside the
budget; tables are as large as they are by default, so what they evict is printed. Flows come in
batches of an event read.
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

HOSTS: Final = 20
BUDGET_MB: Final = 120.0
MAX_SUBSCRIBERS: Final = 65_536
_WINDOW_NS: Final = 300 * 1_000_000_000
_BATCH: Final = 4_000


def peak_mb() -> float:
    """The most this process has had in memory so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not say how much memory there is in use")


def ended(clients: list[bytes], servers: list[bytes], first: int, now_ns: int) -> Rows:
    """DESTROY rows of one flow for each pair."""
    rows = np.zeros(len(clients), COLUMNS)
    rows["orig_src"] = rows["reply_dst"] = np.frombuffer(b"".join(clients), "V16")
    rows["orig_dst"] = rows["reply_src"] = np.frombuffer(b"".join(servers), "V16")
    rows["id"] = np.arange(first, first + len(clients))
    rows["orig_bytes"], rows["reply_bytes"], rows["orig_packets"] = 1000, 9000, 7
    rows["start_ns"], rows["stop_ns"] = now_ns, now_ns + 1000
    rows["protocol"], rows["orig_dport"], rows["kind"], rows["counted"] = 6, 443, DESTROY, True
    rows["orig_sport"] = 40_000
    return rows


def fill(subscribers: int) -> Trackers:
    """All look-ups and flows of one window."""
    now = time.time_ns()
    trackers = Trackers(TrackersConfig(((pack("10.0.0.0"), 112),), _WINDOW_NS), now - 1)
    servers = [pack(f"198.51.100.{host}") for host in range(HOSTS)]
    names = [f"host-{host}.example" for host in range(HOSTS)]
    clients, targets = [], []
    for number in range(subscribers):
        client = pack(f"10.0.{number >> 8}.{number & 255}")
        for server, name in zip(servers, names, strict=True):
            trackers.observed(Resolution(now, client, servers[0], name, (server,)))
            clients.append(client)
            targets.append(server)
        if len(clients) >= _BATCH:
            trackers.destroyed(ended(clients, targets, number * HOSTS, now), now)
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
    Console().print(f"bare {bare:.0f} MB, full {held:.0f} MB, answers evicted: {evicted:,}")
    return finish(
        [
            Figure(
                name="memory.trackers",
                ours=held,
                peer=BUDGET_MB,
                unit="MB resident at most",
                peer_is="budget",
                includes=f"interpreter and libraries ({bare:.0f} MB); {options.subscribers:,} "
                f"subscribers x {HOSTS} hosts: answers and flows of an open window",
                leaves_out="the close of the window, sockets' buffers in the kernel",
                wanted=1.0,
            )
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
