"""Whole-run CPU of meters on the same traffic: 1, 10 and 100 packets a flow, and 10 times that.

    python -m bench.whole [--flows 2000] [--packets 1,10,100,1000] [--rounds 1] [--only NAME]...

A router in network namespaces forwards UDP flows from an access interface; one meter at a time
watches, every one on the same traffic. CPU is that of the meter's processes, system calls included,
from when it is ready (started and idle) until it has ended and written what it found, the median of
the rounds; the kernel's work for packets and taps in interrupts is charged to nobody here. Ours
runs as `tallyhold collector run` does everywhere, with its host observer. That it lost nothing is
checked; what each peer counted of the packets stands in its figure. `--flows 18000 --packets
1,10,92` has as many flows and packets (1.65 million) as the run that docs/bench.md tells of. Needs
root and the packages of requirements/bench-debian.txt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from bench.meters import OURS, PEERS, Meter
from bench.report import Figure, finish
from collector.wire import addr
from tests.collector import rig
from tests.collector.capture.netns_fixture import Router, router, run

SIZE: Final = 1000
"""Bytes of a datagram."""
MAX_FLOWS: Final = 18_000
"""A socket each, of 20,000 that a process may have open."""
MAX_PACKETS: Final = 10_000
MAX_ROUNDS: Final = 20
READY_S: Final = 30.0
SETTLED_S: Final = 60.0
END_S: Final = 60.0
_TICK: Final = os.sysconf("SC_CLK_TCK")


def cpu_of_group(group: int) -> float:
    """User and system seconds of the processes of a group, their ended children included."""
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[2]) == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICK


def await_idle(group: int, limit_s: float) -> float:
    """Waits until the processes of a group do nothing to speak of; their CPU until then."""
    deadline = time.monotonic() + limit_s
    before = cpu_of_group(group)
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = cpu_of_group(group)
        if now - before <= 0.02:
            return now
        before = now
    return before


def one_run(lab: Router, meter: Meter, flows: int, packets: int) -> tuple[float, int]:
    """Seconds of CPU of one meter on one traffic, and the packets it counted."""
    run("ip", "netns", "exec", lab.ns, "conntrack", "-F")
    run("ip", "netns", "exec", lab.ns, "nft", "-f", "-", text=_NO_TABLE)
    with tempfile.TemporaryDirectory(prefix="tallyhold-bench-") as name:
        folder = Path(name)
        process = subprocess.Popen(
            ["ip", "netns", "exec", lab.ns, *meter.command(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            started = await_idle(process.pid, READY_S)
            if process.poll() is not None:
                raise RuntimeError(f"{meter.name} did not start")
            send(lab, flows, packets)
            run("ip", "netns", "exec", lab.ns, "conntrack", "-F")
            settled = await_idle(process.pid, SETTLED_S)
            counted = meter.counted(folder) if meter.tells else 0
            process.terminate()
            total = await_end(process.pid)
        finally:
            if process.returncode is None and process.poll() is None:
                process.kill()
                process.wait()
        if meter is OURS:
            check(folder, lab, flows * packets)
        if not meter.tells:
            counted = meter.counted(folder)
        return max(max(total, settled) - started, 1 / _TICK), counted


def await_end(pid: int) -> float:
    """Waits for a process told to end; the CPU of it and of its children, all of its life."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        found, _, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return usage.ru_utime + usage.ru_stime
        time.sleep(0.05)
    os.killpg(pid, 9)
    os.wait4(pid, 0)
    return 0.0


def send(lab: Router, flows: int, packets: int) -> None:
    """The traffic: every flow its packets, all flows in turn."""
    words = ["tests.exact.traffic", "burst", lab.up.ipv4, str(flows), str(packets), str(SIZE)]
    command = ["ip", "netns", "exec", lab.a.ns, sys.executable, "-m", *words]
    subprocess.run(command, check=True, timeout=1800)


def check(folder: Path, lab: Router, packets: int) -> None:
    """That ours counted every packet and byte."""
    mine = [row for row in rig.spooled(folder)["usage"] if row["address"] == addr.pack(lab.a.ipv4)]
    found = sum(row["up_packets"] for row in mine), sum(row["up_bytes"] for row in mine)
    if found != (packets, packets * (SIZE + 28)):
        raise RuntimeError(f"ours counted {found} of {packets} packets")


_NO_TABLE: Final = "add table inet tally\ndelete table inet tally\n"


def measure(
    lab: Router, meters: Sequence[Meter], flows: int, sizes: Sequence[int], rounds: int
) -> list[Figure]:
    """Every meter on every traffic; sizes: packets of a flow."""
    figures: list[Figure] = []
    costs: dict[int, float] = {}
    for packets in sizes:
        runs: dict[str, list[tuple[float, int]]] = {meter.name: [] for meter in meters}
        for _ in range(rounds):
            for meter in meters:
                runs[meter.name].append(one_run(lab, meter, flows, packets))
        costs[packets] = median(cost for cost, _ in runs[OURS.name])
        is_bulk = packets == max(sizes)
        figures += [
            Figure(
                name=f"whole.{'bulk' if is_bulk else f'packets{packets}'}-{meter.name}",
                ours=costs[packets],
                peer=median(cost for cost, _ in runs[meter.name]),
                unit="s CPU a run",
                peer_is=meter.package,
                includes=f"{flows:,} UDP flows of {packets} packets of {SIZE + 28} bytes, to "
                f"records on disk; of {flows * packets:,} packets ours counted every one, "
                f"{meter.name} {min(counted for _, counted in runs[meter.name]):,} at least",
                leaves_out="start of the meter; the kernel's forwarding, taps and counting in "
                "interrupts",
                wanted=1.0 if is_bulk else None,
            )
            for meter in meters
            if meter is not OURS
        ]
    few, many = min(sizes), max(sizes)
    if few < many:
        figures.append(
            Figure(
                name="whole.flat-ours",
                ours=costs[many],
                peer=costs[few],
                unit="s CPU a run",
                peer_is=f"ours with {few} packets a flow",
                includes=f"{flows:,} flows of {many} packets: {many // few} times as many",
                leaves_out="as above",
                wanted=0.5,
            )
        )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--flows", type=int, default=2000, help="flows of a run (default 2000)")
    parser.add_argument(
        "--packets", default="1,10,100,1000", help="packets of a flow (default 1,10,100,1000)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--only", action="append", help="one peer; may be given again")
    options = parser.parse_args()
    sizes = [int(each) if each.isdecimal() else 0 for each in options.packets.split(",")]
    for name, given, most in (
        ("flows", [options.flows], MAX_FLOWS),
        ("packets", sizes, MAX_PACKETS),
        ("rounds", [options.rounds], MAX_ROUNDS),
    ):
        if not all(1 <= each <= most for each in given):
            parser.error(f"{name} are 1 to {most}")
    peers = [each for each in PEERS if not options.only or each.name in options.only]
    missing = [each.name for each in peers if not shutil.which(each.program)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; `make bench` installs them")
    with router() as lab:
        settings = ("acct=1", "timestamp=1", "events=1", "udp_timeout=600", "max=262144")
        words = [f"net.netfilter.nf_conntrack_{each}" for each in settings]
        run("ip", "netns", "exec", lab.ns, "sysctl", "-qw", *words)
        return finish(measure(lab, [OURS, *peers], options.flows, sizes, options.rounds))


if __name__ == "__main__":
    sys.exit(main())
