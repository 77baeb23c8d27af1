"""Conntrack messages: how fast they are decoded and received, several ways over the same ones.

    python -m bench.decode [--flows 40000] [--rounds 5]

Makes real flows (TCP, UDP and ICMP over IPv4 and IPv6, on loopback) in a network namespace of its
own, dumps them and ends them, so all messages come from the kernel of this machine. Two sockets
hear every event: one is drained by recv, the other by recvmmsg. Figures are CPU time of this
process, kernel part included, best of the rounds, each round with all ways in turn. Needs root and
nft.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import time
from contextlib import closing
from importlib.metadata import version
from typing import Final

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from bench.report import Figure, Way, cpu_of, finish, in_turns
from collector.capture.conntrack_table import prepare
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_dump import dump
from collector.capture.netlink_socket import open_socket, raise_receive_buffers
from collector.parse.conntrack import Decoder, Messages, walk
from collector.track.flows import FlowConfig, Flows
from collector.wire.addr import pack
from tests.lab.netns import Namespace, maybe_reexec_rootless

MAX_FLOWS: Final = 200_000
"""Below the kernel's default table of 262,144; two sockets then hold 600 MB of events at most."""
EVENT_BYTES: Final = 1536
"""Room that the kernel charges for a queued event, rounded up."""
WANTED: Final = 100.0
"""Times as fast as pyroute2."""
SLOW: Final = 4000
"""Messages for the ways that take tens of microseconds each."""
RULES: Final = """
table inet bench {
  chain track {
    type filter hook input priority 0; policy accept;
    ct state invalid counter
  }
}
"""
TIMEOUTS: Final = {
    f"netfilter.nf_conntrack_{name}": 600
    for name in ("udp_timeout", "icmp_timeout", "icmpv6_timeout", "tcp_timeout_close")
}
"""No flow is to end before the bench ends it."""
ACCESS: Final = ((pack("127.0.0.0"), 104), (pack("::1"), 128))


def make_flows(count: int) -> None:
    """About `count` flows: seven of ten UDP, two TCP, one ICMP echo."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        half = count // 2
        _datagrams(family, host, half * 7 // 10)
        _connections(family, host, half * 2 // 10)
        _echoes(family, host, half // 10)


def _datagrams(family: int, host: str, count: int) -> None:
    sent = 0
    while sent < count:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as sender:
            for port in range(1024, 1024 + min(60_000, count - sent)):
                try:
                    sender.sendto(bytes(port % 500), (host, port))
                except ConnectionRefusedError:  # the ICMP error to an earlier datagram
                    sender.sendto(bytes(port % 500), (host, port))
                sent += 1


def _connections(family: int, host: str, count: int) -> None:
    """TCP connections that are made and reset, so that none waits in TIME_WAIT."""
    with closing(socket.create_server((host, 0), family=family)) as listener:
        for _ in range(count):
            with closing(socket.socket(family)) as caller:
                caller.connect(listener.getsockname())
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                listener.accept()[0].close()


def _echoes(family: int, host: str, count: int) -> None:
    protocol, kind = (1, 8) if family == socket.AF_INET else (58, 128)
    with closing(socket.socket(family, socket.SOCK_RAW, protocol)) as sender:
        for identifier in range(1, min(count, 65_535) + 1):
            head = struct.pack("!BBHHH", kind, 0, 0, identifier, 1)
            checksum = 0 if family == socket.AF_INET6 else 0xFFFF - (kind << 8) - identifier - 1
            if checksum < 0:
                checksum += 0xFFFF
            sender.sendto(head[:2] + struct.pack("!H", checksum) + head[4:], (host, 0))


def decode_ways(messages: Messages) -> dict[str, Way]:
    """Ways to decode the same messages; the slow ones take evenly spread samples."""
    every = max(1, len(messages) // SLOW)
    some = [bytes(one) for one in messages][::every]
    decoder = Decoder()
    decoder.decode(messages)  # learns the shapes, as a collector has after a second

    def pyroute2_way() -> int:
        for one in some:
            tuple(marshal.parse(one))
        return len(some)

    def walk_way() -> int:
        for one in some:
            walk(one)
        return len(some)

    def batches_of(size: int) -> int:
        for first in range(0, len(messages), size):
            part = slice(first, first + size)
            decoder.decode(Messages(messages.buffer, messages.starts[part], messages.sizes[part]))
        return len(messages)

    with NFCTSocket() as opened:
        marshal = opened.marshal
    return {
        "pyroute2": pyroute2_way,
        "slow walk": walk_way,
        "by shape, 1,000 at once": lambda: batches_of(1000),
        "by shape, 4,096 at once": lambda: batches_of(4096),
        "by shape, all at once": lambda: batches_of(len(messages)),
    }


def drain_recv(listener: socket.socket) -> int:
    """Reads all that waits, one recv an event."""
    buffer = bytearray(65536)
    count = 0
    while True:
        try:
            listener.recv_into(buffer)
        except BlockingIOError:
            return count
        count += 1


def drain(events: ConntrackEvents, decoder: Decoder | None = None) -> int:
    """Reads all that waits with recvmmsg, and decodes it where a decoder is given."""
    count = 0
    while len(messages := events.read()):
        count += len(messages) if decoder is None else len(decoder.decode(messages))
    return count


def receive_round(namespace: Namespace, flows: int) -> dict[str, tuple[float, int]]:
    """Ends `flows` new flows before two listeners; the cost of each way to hear of it."""
    config = ConntrackConfig(receive_buffer_bytes=min(flows * EVENT_BYTES, 1 << 29))
    found: dict[str, tuple[float, int]] = {}
    decoder = Decoder()
    for name in ("recvmmsg", "recvmmsg + decode"):
        events = ConntrackEvents(config, time.time_ns)
        events.start()
        with closing(open_socket()) as plain:
            raise_receive_buffers((plain,), config.receive_buffer_bytes)
            plain.setsockopt(270, 1, 3)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, DESTROY
            plain.setblocking(False)
            make_flows(flows)
            namespace.run("conntrack", "-F")
            decoding = decoder if name != "recvmmsg" else None
            found[name] = cpu_of(lambda: drain(events, decoding))  # noqa: B023
            found["recv"] = cpu_of(lambda: drain_recv(plain))  # noqa: B023
            if found["recv"][1] != found[name][1] or events.losses():
                raise RuntimeError("the two listeners did not hear the same: too many flows")
        events.stop()
    return found


def measure(namespace: Namespace, flows: int, rounds: int) -> dict[str, dict[str, float]]:
    """All figures, in microseconds a message."""
    prepare()
    started_ns = time.time_ns()
    make_flows(flows)
    table = dump(time.time_ns).messages
    rows = Decoder().decode(table)
    tracker = Flows(FlowConfig(ACCESS), started_ns)
    tracker.dump(rows, time.time_ns())

    def track() -> int:
        tracker.dump(rows, time.time_ns())
        return len(rows)

    figures = {
        "decode": in_turns(decode_ways(table), rounds),
        "dump": in_turns(
            {
                "read": lambda: len(dump(time.time_ns).messages),
                "difference": track,
            },
            rounds,
        ),
    }
    namespace.run("conntrack", "-F")
    receive: dict[str, float] = {}
    for _ in range(rounds):
        for name, (seconds, count) in receive_round(namespace, flows).items():
            receive[name] = min(receive.get(name, float("inf")), seconds / count * 1e6)
    figures["receive"] = receive
    return {"messages": {"dumped": float(len(table))}, **figures}


def compared(figures: dict[str, dict[str, float]]) -> list[Figure]:
    """What is compared of the figures."""
    decode, receive = figures["decode"], figures["receive"]
    count = int(figures["messages"]["dumped"])
    mixed = f"{count:,} real messages: TCP, UDP, ICMP, IPv4 and IPv6, counters and times"
    shapes = "learning the shapes, which happens once"
    return [
        *(
            Figure(
                name=f"decode.conntrack-{name}",
                ours=decode[f"by shape, {way} at once"],
                peer=decode["pyroute2"],
                unit="us CPU a message",
                peer_is=f"pyroute2 {version('pyroute2')}, its marshal",
                includes=f"{mixed}; bytes to columns, {way} at once",
                leaves_out=f"receiving; {shapes}",
                wanted=WANTED if way == "all" else None,
            )
            for name, way in (("all", "all"), ("4096", "4,096"), ("1000", "1,000"))
        ),
        Figure(
            name="decode.receive-recv",
            ours=receive["recvmmsg + decode"],
            peer=receive["recv"],
            unit="us CPU an event",
            peer_is="recv_into, one event a call, not decoded",
            includes=f"{mixed}; from the socket to columns, kernel part included",
            leaves_out=f"tracking and writing (bench.event); {shapes}; peer decodes nothing",
        ),
        Figure(
            name="decode.dump-read",
            ours=figures["dump"]["difference"],
            peer=figures["dump"]["read"],
            unit="us CPU a flow",
            peer_is="reading the dump itself, nearly all in the kernel",
            includes="difference of one dump to the last, no flow having moved",
            leaves_out="decoding",
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Decoding and receiving of conntrack messages.")
    parser.add_argument("--flows", type=int, default=40_000, help="flows to make (default 40000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the best counts (default 5)")
    options = parser.parse_args()
    if not 1000 <= options.flows <= MAX_FLOWS or not 1 <= options.rounds <= 100:
        parser.error(f"flows are 1000 to {MAX_FLOWS}, rounds 1 to 100")
    maybe_reexec_rootless()
    namespace = Namespace("bench").start()
    try:
        namespace.run("nft", "-f", "-", stdin=RULES)
        namespace.sysctl(TIMEOUTS)
        figures = namespace.call(lambda: measure(namespace, options.flows, options.rounds))
    finally:
        namespace.stop()
    return finish(compared(figures))


if __name__ == "__main__":
    sys.exit(main())
