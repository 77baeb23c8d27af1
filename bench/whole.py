"""Whole-run CPU of meters on the same traffic: 1, 10 and 100 packets a flow, and 10 times that.

    python -m bench.whole [--flows 2000] [--only NAME]

A router in network namespaces forwards UDP flows from an access interface; one meter at a time
watches, every one on the same traffic. CPU is that of the meter's processes, system calls included,
from when it is ready (started and idle) until it has ended and written what it found; the kernel's
work for packets and taps in interrupts is charged to nobody here. Ours runs as `tallyhold collector
run` does everywhere, with its host observer. That it lost nothing is checked; what peers lost is
not looked into. Needs root and the packages of requirements/bench-debian.txt.
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
from typing import Final

from bench.meters import OURS, PEERS, Meter
from bench.report import Figure, finish
from collector.wire import addr
from tests.collector import rig
from tests.collector.capture.netns_fixture import Router, router, run

PACKETS: Final = (1, 10, 100, 1000)
SIZE: Final = 1000
"""Bytes of a datagram."""
MAX_FLOWS: Final = 10_000
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


def one_run(lab: Router, meter: Meter, flows: int, packets: int) -> float:
    """Seconds of CPU of one meter on one traffic."""
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
            process.terminate()
            total = await_end(process.pid)
        finally:
            if process.returncode is None and process.poll() is None:
                process.kill()
                process.wait()
        if meter is OURS:
            check(folder, lab, flows * packets)
        return max(max(total, settled) - started, 1 / _TICK)


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
    subprocess.run(command, check=True, timeout=600)


def check(folder: Path, lab: Router, packets: int) -> None:
    """That ours counted every packet and byte."""
    mine = [row for row in rig.spooled(folder)["usage"] if row["address"] == addr.pack(lab.a.ipv4)]
    found = sum(row["up_packets"] for row in mine), sum(row["up_bytes"] for row in mine)
    if found != (packets, packets * (SIZE + 28)):
        raise RuntimeError(f"ours counted {found} of {packets} packets")


_NO_TABLE: Final = "add table inet tally\ndelete table inet tally\n"


def measure(lab: Router, meters: Sequence[Meter], flows: int) -> list[Figure]:
    """Every meter on every traffic."""
    found = {
        (meter.name, packets): one_run(lab, meter, flows, packets)
        for packets in PACKETS
        for meter in meters
    }
    bulk = PACKETS[-1]
    figures = [
        Figure(
            name=f"whole.{'bulk' if packets == bulk else f'packets{packets}'}-{meter.name}",
            ours=found[OURS.name, packets],
            peer=found[meter.name, packets],
            unit="s CPU a run",
            peer_is=meter.package,
            includes=f"{flows:,} UDP flows of {packets} packets of {SIZE + 28} bytes, to records "
            "on disk; every packet and byte counted by ours",
            leaves_out="start of the meter; the kernel's forwarding, taps and counting in "
            "interrupts; what the peer lost",
            wanted=1.0 if packets == bulk else None,
        )
        for packets in PACKETS
        for meter in meters
        if meter is not OURS
    ]
    figures.append(
        Figure(
            name="whole.flat-ours",
            ours=found[OURS.name, bulk],
            peer=found[OURS.name, 1],
            unit="s CPU a run",
            peer_is="ours with 1 packet a flow",
            includes=f"{flows:,} flows of {bulk} packets: {bulk} times as many",
            leaves_out="as above",
            wanted=0.5,
        )
    )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--flows", type=int, default=2000, help="flows of a run (default 2000)")
    parser.add_argument("--only", help="one peer")
    options = parser.parse_args()
    if not 1 <= options.flows <= MAX_FLOWS:
        parser.error(f"flows are 1 to {MAX_FLOWS}")
    peers = [each for each in PEERS if options.only in (None, each.name)]
    missing = [each.name for each in peers if not shutil.which(each.program)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; `make bench` installs them")
    with router() as lab:
        settings = ("acct=1", "timestamp=1", "events=1", "udp_timeout=600", "max=262144")
        words = [f"net.netfilter.nf_conntrack_{each}" for each in settings]
        run("ip", "netns", "exec", lab.ns, "sysctl", "-qw", *words)
        return finish(measure(lab, [OURS, *peers], options.flows))


if __name__ == "__main__":
    sys.exit(main())
