"""Bytes and packets of every subscriber and direction, held against the subscribers' interfaces.

The collector is the real one on a router with NAT for IPv4, without offloads unless a test says so.
Sizes are for CI; TALLYHOLD_EXACT_FULL=1 takes 12,000 short flows, 4 GiB of bulk and an address
space of 50,000 subscribers.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

import collector.metrics
import collector.service
from collector.capture.links import LinkReader, LinksConfig
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.service import Collector
from collector.track.ranges import Ranges
from collector.track.session_bindings import BindingChange
from collector.wire import addr
from tests.collector import rig
from tests.collector.capture.netns_fixture import Host, Router, inside, router, run
from tests.exact.traffic import crowd_size

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

FULL: Final = os.environ.get("TALLYHOLD_EXACT_FULL") == "1"
FLOWS: Final = 12_000 if FULL else 600
BULK_BYTES: Final = 4 << 30 if FULL else 96 << 20
CROWDS: Final = (
    ("10.0.128.0/17", "10.0.64.0/18", "10.0.16.0/22") if FULL else ("10.0.64.0/23", "10.0.66.0/24")
)
"""Prefixes behind A in which every address speaks: 50,176 of them, or 768."""
WAIT_S: Final = 600.0
TURN_S: Final = 0.01
ETHERNET_HEADER_BYTES: Final = 14
Figures = tuple[int, int, int, int]
"""Up bytes, down bytes, up packets, down packets, layer 3."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    with router() as built:
        for prefix in CROWDS:
            run(*f"ip -n {built.ns} route add {prefix} via {built.a.ipv4}".split())
            run(*f"ip -n {built.a.ns} route add local {prefix} dev lo".split())
        # Nothing may end or be refused before a test says so.
        settings = ("nf_conntrack_max=262144", "nf_conntrack_udp_timeout=600")
        run(
            *f"ip netns exec {built.ns} sysctl -qw".split(),
            *(f"net.netfilter.{each}" for each in settings),
        )
        yield built


class Meter:
    """Collectors of one spool, one after another, in the router's namespace."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self._settings = folder, settings
        self.running = self._start()

    def _start(self) -> Collector:
        made = Collector(rig.config(self.folder, **self._settings))
        made.start()
        return made

    def restart(self, killed: bool) -> None:
        """As after a SIGKILL, or as `systemctl restart` does it."""
        if killed:
            rig.kill(self.running)
        else:
            self.running.run(lambda: True)
            self.running.stop()
        self.running = self._start()

    def finish(self) -> rig.Rows:
        """All rows, each there once."""
        rig.settle(self.running)
        self.running.run(lambda: True)
        rows = rig.spooled(self.folder)
        rig.assert_once(rows)
        return rows


@pytest.fixture
def meter(lab: Router, tmp_path: Path) -> Iterator[Callable[..., Meter]]:
    made: list[Meter] = []

    def start(**settings: Any) -> Meter:
        made.append(Meter(tmp_path, **settings))
        return made[-1]

    with inside(lab.ns), pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector.service, "_DRAIN_S", 0.0)
        patch.setattr(collector.metrics.Metrics, "start", lambda metrics: None)
        run("nft", "-f", "-", text="add table inet tally\ndelete table inet tally\n")
        try:
            yield start
        finally:
            for each in made:
                each.running.stop()


def spawn(stack: ExitStack, host: Host, *words: str) -> subprocess.Popen[str]:
    """The traffic program in a host's namespace; ended with the stack."""
    process = stack.enter_context(
        subprocess.Popen(
            ["ip", "netns", "exec", host.ns, sys.executable, "-m", "tests.exact.traffic", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    return process


def server(stack: ExitStack, lab: Router) -> str:
    """Starts the far end; its port."""
    process = spawn(stack, lab.up, "serve", lab.up.ipv4, lab.up.ipv6)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def meter_while(meter: Meter, programs: list[subprocess.Popen[str]], at: dict[int, bool]) -> None:
    """Turns of the loop until the traffic has ended; restarts at those turns, killed or not."""
    deadline = time.monotonic() + WAIT_S
    turn = 0
    while any(each.poll() is None for each in programs):
        assert time.monotonic() < deadline, "the traffic does not end"
        if at:  # turns are counted, so the loop is not to sleep until its next timer
            meter.running.wake()
            time.sleep(TURN_S)
        meter.running.step()
        turn += 1
        if turn in at:
            meter.restart(at[turn])
    for each in programs:
        assert each.returncode == 0, each.communicate()[1]


def figures(host: Host) -> Figures:
    """What the host's own interface carried since it was made."""
    with inside(host.ns):
        reading = LinkReader(LinksConfig(((host.device, "access"),)), time.time_ns).read()
    (link,) = [each for each in reading.links if each.name == host.device]
    rx_bytes, tx_bytes, rx_packets, tx_packets = link.counters[:4]
    return (
        tx_bytes - ETHERNET_HEADER_BYTES * tx_packets,
        rx_bytes - ETHERNET_HEADER_BYTES * rx_packets,
        tx_packets,
        rx_packets,
    )


def moved(host: Host, before: Figures) -> Figures:
    host.quiet()
    now = figures(host)
    return (now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3])


def metered(rows: rig.Rows, *prefixes: str) -> Figures:
    """Sums of the usage of addresses within the prefixes."""
    nets = [ipaddress.ip_network(prefix) for prefix in prefixes]
    within = Ranges(
        (addr.pack(net.network_address), net.prefixlen + (96 if net.version == 4 else 0))
        for net in nets
    )
    mine = [row for row in rows.get("usage", []) if row["address"] in within]
    up, down, up_packets, down_packets = (
        sum(row[name] for row in mine)
        for name in ("up_bytes", "down_bytes", "up_packets", "down_packets")
    )
    return up, down, up_packets, down_packets


A: Final = ("10.0.0.0/24", "2001:db8:0:a::/64", *CROWDS)
B: Final = ("10.0.1.0/24", "2001:db8:0:b::/64")


def test_exact_under_short_flows_and_bulk_with_restarts_in_the_middle(
    lab: Router, meter: Callable[..., Meter]
) -> None:
    running = meter(window_s=1)
    before = figures(lab.a), figures(lab.b)
    with ExitStack() as stack:
        port = server(stack, lab)
        count, size = str(FLOWS // 4), str(BULK_BYTES // 4)
        programs = [
            spawn(stack, host, what, address, port, amount)
            for host in (lab.a, lab.b)
            for address in (lab.up.ipv4, lab.up.ipv6)  # translated, and as it is
            for what, amount in (("flows", count), ("bulk", size))
        ]
        meter_while(running, programs, {3: True, 8: False, 13: True})
        truth = moved(lab.a, before[0]), moved(lab.b, before[1])
    rows = running.finish()
    assert sum(truth[0][:2]) + sum(truth[1][:2]) > BULK_BYTES
    assert (metered(rows, *A), metered(rows, *B)) == truth
    lost = {(row["stage"], row["reason"]) for row in rows.get("gap", [])}
    assert not {each for each in lost if each[0] == "volume"}


@pytest.mark.parametrize("bound", [True, False])
def test_exact_for_each_address_of_a_crowded_space(
    lab: Router, meter: Callable[..., Meter], bound: bool
) -> None:
    """To the byte where bindings opened before; else what found no element is stated."""
    running = meter()
    if bound:
        running.running.counters.events(
            [
                BindingChange(time.time_ns(), addr.pack(address), 128, "open")
                for prefix in CROWDS
                for address in ipaddress.ip_network(prefix)
            ]
        )
    before = figures(lab.a)
    with ExitStack() as stack:
        # A far end for each: one public address has 64,512 ports for each port that is called.
        programs = [
            spawn(stack, lab.a, "crowd", prefix, lab.up.ipv4, server(stack, lab))
            for prefix in CROWDS
        ]
        meter_while(running, programs, {})
        truth = moved(lab.a, before)
    rows = running.finish()
    expected = {
        addr.pack(str(address)): crowd_size(number) + 28
        for prefix in CROWDS
        for number, address in enumerate(ipaddress.ip_network(prefix))
    }
    # On the packet path elements come from a small reserve that a worker refills (percpu memory
    # for the counters). What a burst finds no element for is told to the byte, never lost.
    stated = sum(row["amount"] for row in rows.get("gap", []) if row["reason"] == "set-full")
    found = {row["address"]: row for row in rows["usage"]}
    assert not (stated and bound)
    if not stated:
        assert found.keys() == expected.keys()
    for address, row in found.items():
        for way in ("up", "down"):
            bytes_and_packets = row[f"{way}_bytes"], row[f"{way}_packets"]
            assert bytes_and_packets == (expected[address], 1) or (
                stated and bytes_and_packets == (0, 0)
            )
    counted = metered(rows, *A)
    assert sum(counted[:2]) + stated == sum(truth[:2])
    assert {row["reason"] for row in rows.get("gap", [])} <= {"set-full"}


def test_an_overrun_is_stated_exactly_and_costs_no_byte(
    lab: Router, meter: Callable[..., Meter]
) -> None:
    run("conntrack", "-F")
    running = meter(more="[limits]\nreceive_buffer_bytes = 65536\n")
    running.running.uplink.stop()  # whose attempts are flows as well
    before = figures(lab.a)
    witness = ConntrackEvents(ConntrackConfig(receive_buffer_bytes=1 << 27), time.time_ns)
    witness.start()
    with ExitStack() as stack:
        stack.callback(witness.stop)
        port = server(stack, lab)
        programs = [spawn(stack, lab.a, "crowd", CROWDS[-1], lab.up.ipv4, port)]
        meter_while(running, programs, {})
        truth = moved(lab.a, before)
        run("conntrack", "-F")  # more events at once than the small buffer holds, and nobody reads
        ended = 0
        while batch := len(witness.read()):
            ended += batch
        assert not witness.losses()
    rows = running.finish()
    counts = running.running.conntrack.counts
    heard, lost = counts["recorded"], counts["lost"]
    stated = sum(row["amount"] for row in rows["gap"] if row["reason"] == "overrun")
    assert ended >= ipaddress.ip_network(CROWDS[-1]).num_addresses
    assert lost > 0 and heard + lost == ended
    assert stated == lost
    assert metered(rows, *A) == truth


def test_receive_offload_costs_headers_and_no_more(
    lab: Router, meter: Callable[..., Meter]
) -> None:
    """Merged segments count one header: bytes are short by the headers of the packets that are."""
    for device in ("acc0", "up0"):
        run("ip", "netns", "exec", lab.ns, "ethtool", "-K", device, "gro", "on")
    try:
        running = meter()
        before = figures(lab.a)
        with ExitStack() as stack:
            port = server(stack, lab)
            size = str(BULK_BYTES // 8)
            programs = [spawn(stack, lab.a, "bulk", lab.up.ipv4, port, size)]
            meter_while(running, programs, {})
            truth = moved(lab.a, before)
        found = metered(running.finish(), *A)
    finally:
        for device in ("acc0", "up0"):
            run("ip", "netns", "exec", lab.ns, "ethtool", "-K", device, "gro", "off")
    merged = truth[2] - found[2], truth[3] - found[3]
    if merged == (0, 0):
        pytest.skip("this kernel merges nothing on a veth pair")
    headers = 20 + 20 + 12  # IPv4, TCP, timestamps: the same in all segments that are merged
    for true, counted, packets in zip(truth[:2], found[:2], merged, strict=True):
        assert 0 <= true - counted <= headers * packets
    assert sum(found[:2]) > (1 - headers / 1500) * sum(truth[:2])
