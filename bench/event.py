"""A conntrack event from the socket to records on disk, beside a loop that only reads it.

    python -m bench.event [--flows 40000] [--rounds 5]

Makes real flows (UDP, of 64 subscribers to 20 named hosts, on loopback) in a network namespace of
its own and ends them. Two sockets hear every event. One is drained by the plain loop: recv, one
event a call, each decoded by walking its attributes with `struct`, and forgotten. The other by what
the collector does: recvmmsg, columns, differences to what was told before, rows of a
window, a batch file in the spool that is synced to disk. Figures are CPU time of this
process, kernel part included, best of the rounds, in each of which both ways read the same events.
Needs root and nft.
"""

from __future__ import annotations

import argparse
import gc
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.decode import EVENT_BYTES, RULES, TIMEOUTS
from bench.report import Figure, cpu_of, finish
from collector.capture.conntrack_table import prepare
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_socket import open_socket, raise_receive_buffers
from collector.parse.conntrack import Decoder
from collector.spool import Spool
from collector.spool_books import SpoolConfig
from collector.track.host_events import Resolution
from collector.track.trackers import Trackers, TrackersConfig
from collector.track.volume import Reading
from collector.window import Window
from collector.wire.addr import pack
from tests.lab.netns import Namespace, maybe_reexec_rootless

SUBSCRIBERS: Final = 64
HOSTS: Final = 20
MAX_FLOWS: Final = 200_000
WANTED: Final = 2.0
"""At most half the CPU of the plain loop."""
_WINDOW_NS: Final = 300 * 1_000_000_000
_ACCESS: Final = ((pack("127.1.0.0"), 112),)


def make_flows(count: int) -> None:
    """Datagrams of every subscriber to every host, each from a port of its own."""
    for number in range(count):
        host, subscriber = number % HOSTS, number // HOSTS % SUBSCRIBERS
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.bind((f"127.1.{subscriber}.1", 0))
            sender.sendto(bytes(number % 500), (f"127.2.{host}.1", 443))


def resolutions() -> Iterator[Resolution]:
    """What the subscribers' resolvers answered, so that flows have names."""
    for subscriber in range(SUBSCRIBERS):
        for host in range(HOSTS):
            yield Resolution(
                ts_ns=time.time_ns(),
                client=pack(f"127.1.{subscriber}.1"),
                server=pack("127.3.0.1"),
                host=f"host-{host}.example",
                addresses=(pack(f"127.2.{host}.1"),),
            )


def plain(listener: socket.socket) -> int:
    """The plain loop: what a meter needs of each event, and nothing done with it."""
    buffer = bytearray(65536)
    receive = listener.recv_into
    count = 0
    while True:
        try:
            size = receive(buffer)
        except BlockingIOError:
            return count
        walk(buffer, size)
        count += 1


_HEADER: Final = struct.Struct("=HH")
_ONE: Final = struct.Struct(">Q")
_PORT: Final = struct.Struct(">H")


def walk(
    data: bytearray,
    size: int,
    header: Callable[[bytearray, int], tuple[int, ...]] = _HEADER.unpack_from,
) -> tuple[list[Any], list[Any]]:
    """Both tuples (addresses, protocol, ports), and packets, bytes, start and stop."""
    ends: list[Any] = []
    counts: list[Any] = []
    at = 20
    while at < size:
        length, kind = header(data, at)
        kind &= 0x3FFF
        if kind in (1, 2):  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY: CTA_TUPLE_IP, CTA_TUPLE_PROTO
            inner, stop = at + 4, at + length
            while inner < stop:
                part, what = header(data, inner)
                leaf, last = inner + 4, inner + part
                is_address = what & 0x3FFF == 1
                while leaf < last:
                    value, name = header(data, leaf)
                    if is_address:
                        ends.append(data[leaf + 4 : leaf + value])
                    elif name == 1:
                        ends.append(data[leaf + 4])
                    elif name < 4:
                        ends.append(_PORT.unpack_from(data, leaf + 4)[0])
                    leaf += value + 3 & ~3
                inner += part + 3 & ~3
        elif kind in (9, 10, 20):  # CTA_COUNTERS_*: packets, bytes; CTA_TIMESTAMP: start, stop
            counts.append(_ONE.unpack_from(data, at + 8)[0])
            counts.append(_ONE.unpack_from(data, at + 20)[0])
        at += length + 3 & ~3
    return ends, counts


class Meter:
    """What of the collector lies between the conntrack socket and the disk.

    with_hosts: flows are joined with the hosts that DNS answers led to, one visit row for each
    subscriber and host; else they are told as the `flows` of usage rows, one for each subscriber.
    """

    def __init__(self, folder: Path, events: ConntrackEvents, with_hosts: bool) -> None:
        now = time.time_ns()
        self._events, self._decoder, self._with_hosts = events, Decoder(), with_hosts
        self._spool = Spool(SpoolConfig(folder, "bench", 1 << 30), "0" * 32)
        self._spool.start()
        self._window = Window(_WINDOW_NS, "bench")
        self._window.open(now)
        self._trackers = Trackers(TrackersConfig(access=_ACCESS, window_ns=_WINDOW_NS), now)
        self._trackers.volume.begin("bench", now)
        self.rows = 0
        for each in resolutions() if with_hosts else ():
            self._trackers.observed(each)

    def run(self) -> int:
        """Reads all that waits, closes the window and spools it."""
        trackers, count = self._trackers, 0
        while len(messages := self._events.read()):
            count += len(messages)
            deltas = trackers.flows.destroyed(self._decoder.decode(messages), time.time_ns())
            if self._with_hosts:
                trackers.hosts.flows(deltas)
        now = time.time_ns()
        trackers.volume.observe(reading(now))
        start, end = self._window.bounds(now)
        taken = trackers.take(start, end, now)
        pieces = self._window.close(start, end, now, taken, trackers.losses())
        self._spool.commit_all(
            window_start_ns=start,
            window_end_ns=end,
            created_ns=now,
            pieces=[piece.columns for piece in pieces],
        )
        self.rows = sum(piece.rows for piece in pieces)
        return count

    def stop(self) -> None:
        self._spool.stop()


def reading(now_ns: int) -> Reading:
    """A reading of the sets, made up: what it costs to get one is not of this bench."""
    addresses = [pack(f"127.1.{subscriber}.1") for subscriber in range(SUBSCRIBERS)]
    return Reading(
        now_ns,
        now_ns,
        "bench",
        np.frombuffer(b"".join(addresses), "V16"),
        np.full(SUBSCRIBERS, 128, np.uint8),
        np.ones((SUBSCRIBERS, 4), np.uint64),
    )


def one_round(namespace: Namespace, flows: int, with_hosts: bool) -> tuple[float, float, int]:
    """Microseconds an event of ours and of the plain loop, and the rows that were spooled."""
    config = ConntrackConfig(receive_buffer_bytes=min(flows * EVENT_BYTES, 1 << 29))
    events = ConntrackEvents(config, time.time_ns)
    events.start()
    with (
        tempfile.TemporaryDirectory(prefix="tallyhold-bench-") as folder,
        closing(open_socket()) as listener,
    ):
        raise_receive_buffers((listener,), config.receive_buffer_bytes)
        listener.setsockopt(270, 1, 3)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, DESTROY
        listener.setblocking(False)
        meter = Meter(Path(folder) / "spool", events, with_hosts)
        make_flows(flows)
        namespace.run("conntrack", "-F")
        gc.collect()
        mine, heard = cpu_of(meter.run)
        theirs, also = cpu_of(lambda: plain(listener))
        meter.stop()
        lost = events.losses()
        events.stop()
    # A port may come again, and then joins the flow that is there.
    if heard != also or heard < flows * 0.9 or lost:
        raise RuntimeError(f"not every event was heard: {heard} and {also} of {flows}")
    if meter.rows < SUBSCRIBERS * (HOSTS if with_hosts else 1):
        raise RuntimeError(f"only {meter.rows} rows were spooled")
    return mine / heard * 1e6, theirs / heard * 1e6, meter.rows


def measure(namespace: Namespace, flows: int, rounds: int, with_hosts: bool) -> Figure:
    """Best of the rounds."""
    prepare()
    found = [one_round(namespace, flows, with_hosts) for _ in range(rounds)]
    joined = ", join with the hosts of DNS answers" if with_hosts else ""
    return Figure(
        name=f"event.{'visits' if with_hosts else 'usage'}-recv-struct",
        ours=min(mine for mine, _, _ in found),
        peer=min(theirs for _, theirs, _ in found),
        unit="us CPU an event",
        peer_is="recv and a walk with struct, nothing kept",
        includes=f"{flows:,} ended flows of {SUBSCRIBERS} subscribers to {HOSTS} hosts: receive, "
        f"decode, difference, aggregate{joined}, {found[0][2]:,} rows synced to disk; shapes are "
        "learnt within; the peer receives and decodes",
        leaves_out="reading the sets, state for a restart (journal), upload"
        + ("" if with_hosts else ", join with hosts (event.visits)")
        + "; the kernel's own work for the flows",
        wanted=WANTED if not with_hosts else None,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--flows", type=int, default=40_000, help="flows to make (default 40000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the best counts (default 5)")
    options = parser.parse_args()
    if not 2000 <= options.flows <= MAX_FLOWS or not 1 <= options.rounds <= 100:
        parser.error(f"flows are 2000 to {MAX_FLOWS}, rounds 1 to 100")
    maybe_reexec_rootless()
    namespace = Namespace("bench").start()
    try:
        namespace.run("nft", "-f", "-", stdin=RULES)
        namespace.sysctl(TIMEOUTS)
        figures = [
            namespace.call(lambda: measure(namespace, options.flows, options.rounds, False)),
            namespace.call(lambda: measure(namespace, options.flows, options.rounds, True)),
        ]
    finally:
        namespace.stop()
    return finish(figures)


if __name__ == "__main__":
    sys.exit(main())
