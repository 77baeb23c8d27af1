"""The suite on the wire: a subscriber's and the network's namespace, and a capture between them.

        subscriber `line` ──── veth ──── `acc` network
    100.64.0.7, 2001:db8:64::7         192.0.2.10, 2001:db8:c0::10

The collector's packet source, with its filter, reads `acc` as it would on a router.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from collector.capture.packet import PacketConfig, PacketSource
from collector.parse.link import Frame
from collector.replay import ReplayConfig
from collector.track.ports import Ports
from tests.lab.netns import LabError, Namespace, require_programs
from tests.scenarios.case import Case

LINE_V4, LINE_V6 = "100.64.0.7", "2001:db8:64::7"
CORE_V4, CORE_V6 = "192.0.2.10", "2001:db8:c0::10"
MTU: Final = 1500
_WAIT_S: Final = 20.0


@dataclass(slots=True)
class Stage:
    """Two namespaces joined by a veth pair; `scratch` is a folder for what programs need."""

    line: Namespace
    core: Namespace
    scratch: Path

    @contextmanager
    def captured(self, ports: Ports) -> Iterator[list[Frame]]:
        """What the packet source takes while the block runs; complete once it has ended."""
        frames: list[Frame] = []
        source = PacketSource(PacketConfig("acc", ports, tunnels=True), time.time_ns)
        self.core.call(source.start)
        over = _end_mark(ports)
        reader = threading.Thread(target=_read, args=(source, frames, over))
        reader.start()
        try:
            yield frames
        finally:
            self.send([(0, over)])
            reader.join()
            lost = source.losses(time.time_ns())
            source.stop()
        if lost or not frames or frames.pop().data != over:
            raise LabError(f"the capture lost packets: {lost or 'the last'}")

    def send(self, frames: list[tuple[int, bytes]]) -> None:
        """Put frames on the wire from the subscriber's end, as they are."""

        def play() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
                out.bind(("line", 0))
                for _, data in frames:
                    out.send(data)

        self.line.call(play)


def _end_mark(ports: Ports) -> bytes:
    """A keep-alive that the filter passes, sent last: what comes before it has then come."""
    sent = Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:0a")
    sent /= IP(src=LINE_V4, dst=CORE_V4) / UDP(sport=ports.sip[0], dport=ports.sip[0])
    return bytes(sent / b"\r\n\r\nend of the case\r\n")


def _read(source: PacketSource, frames: list[Frame], over: bytes) -> None:
    """Until the mark comes, or nothing for a long time."""
    while not frames or frames[-1].data != over:
        ready, _, _ = select.select([source], [], [], _WAIT_S)
        if not ready:
            return
        frames += source.read(1)


@contextmanager
def stage(scratch: Path) -> Iterator[Stage]:
    """The two namespaces, addressed and quiet. Needs root, or a user namespace of the caller's."""
    require_programs()
    with ExitStack() as stack:
        tag = f"{os.getpid()}"
        made = []
        for name in ("line", "core"):
            namespace = Namespace(f"scenario-{name}-{tag}")
            stack.callback(namespace.stop)
            made.append(namespace.start())
        line, core = made
        peer = f"type veth peer name line netns {line.pid}"
        core.run(*f"ip link add acc {peer}".split())
        ends = ((line, "line", LINE_V4, LINE_V6), (core, "acc", CORE_V4, CORE_V6))
        for namespace, device, v4, v6 in ends:
            namespace.sysctl({f"ipv6.conf.{device}.accept_dad": 0})
            namespace.run("ip", "link", "set", device, "addrgenmode", "none", "mtu", str(MTU), "up")
            namespace.run("ip", "addr", "add", f"{v4}/32", "dev", device)
            namespace.run("ip", "addr", "add", f"{v6}/128", "dev", device, "nodad")
            offloads = ("tso", "gso", "gro", "tx", "rx")
            words = [word for each in offloads for word in (each, "off")]
            namespace.run("ethtool", "-K", device, *words)
        for namespace, device, v4, v6 in (ends[0][:2] + ends[1][2:], ends[1][:2] + ends[0][2:]):
            namespace.run("ip", "route", "add", f"{v4}/32", "dev", device)
            namespace.run("ip", "route", "add", f"{v6}/128", "dev", device)
        yield Stage(line, core, scratch)


def run_live(case: Case, on: Stage) -> list[Frame]:
    """The frames of a case as the packet source took them from the wire.

    Those of a script get the script's times, found again by their content; frames that the filter
    rightly leaves in the kernel (handshakes, empty segments) are not among them.
    """
    interface = ReplayConfig().interface
    if case.is_played:
        with on.captured(case.settings.ports()) as taken:
            case.traffic.play(on)
        return [replace(frame, interface=interface) for frame in taken]
    script = case.frames()
    with on.captured(case.settings.ports()) as taken:
        on.send(script)
    timed, at = [], 0
    for frame in taken:
        while at < len(script) and _padded(script[at][1]) != _padded(frame.data):
            at += 1
        if at == len(script):
            raise LabError(f"{case.name}: a frame came out of order, or another than was sent")
        timed.append(replace(frame, ts_ns=script[at][0], interface=interface))
        at += 1
    return timed


def _padded(data: bytes) -> bytes:
    return data.ljust(60, b"\0")


def await_true(what: str, condition: Callable[[], bool]) -> None:
    """Poll until it holds; LabError, with `what` was waited for, when it does not in time."""
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {_WAIT_S:.0f} s")
        time.sleep(0.02)
