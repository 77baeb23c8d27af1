"""A real exporter of real traffic: what softflowd tells a collector is usage to the byte."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import collector.metrics
import collector.service
from collector.service import Collector
from collector.wire.addr import pack
from collector.wire.records import USAGE_FROM_EXPORT
from tests.collector.capture.netns_fixture import Router, inside, router, udp
from tests.collector.rig import config, gaps, spin, spooled
from tests.lab.netns import end

pytestmark = pytest.mark.lab
WAIT_S = 60.0
"""For what takes milliseconds on an idle machine."""
UP, DOWN, SIZE = 5, 2, 700
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Of IP and UDP."""
EXPORTS = '[exports]\nlisten = "127.0.0.1:0"\nexporters = ["127.0.0.0/8"]\nusage = true\n'


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    if shutil.which("softflowd") is None:
        pytest.skip("needs softflowd: apt-get install softflowd")
    with router() as built:
        yield built


@pytest.fixture
def listening(lab: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector on the router, which hears exporters on a port of its own."""
    monkeypatch.setattr(collector.service, "_DRAIN_S", 0.0)
    monkeypatch.setattr(collector.metrics.Metrics, "start", lambda metrics: None)
    with inside(lab.ns):
        made = Collector(config(tmp_path, more=EXPORTS))
        made.start()
        try:
            yield made
        finally:
            made.stop()


def captured(lab: Router, path: Path, families: list[socket.AddressFamily]) -> None:
    """Writes a capture of UP datagrams from A to the world and DOWN back, in each family."""
    words = ["tcpdump", "-i", "acc0", "--immediate-mode", "-U", "-n", "-w"]
    writing = subprocess.Popen([*words, str(path), "udp"], stderr=subprocess.PIPE, text=True)
    try:
        assert writing.stderr is not None
        while "listening" not in (line := writing.stderr.readline()):
            assert line, "tcpdump ended"
        for family in families:
            udp(lab.a, lab.up, family, up=UP, down=DOWN, size=SIZE)
        deadline = time.monotonic() + WAIT_S
        while path.stat().st_size < _file_bytes(families):
            assert time.monotonic() < deadline, "tcpdump writes nothing"
            time.sleep(0.05)
    finally:
        end(writing)
    assert path.stat().st_size == _file_bytes(families)


def _file_bytes(families: list[socket.AddressFamily]) -> int:
    """A pcap's header of 24 bytes; 16 and an Ethernet header before each packet."""
    return 24 + sum((UP + DOWN) * (16 + 14 + SIZE + HEADERS[each]) for each in families)


@pytest.mark.parametrize("version", [5, 9, 10])
def test_what_softflowd_exports_is_usage_to_the_byte(
    listening: Collector, lab: Router, tmp_path: Path, version: int
) -> None:
    """NetFlow v5, v9 and IPFIX. Read from a capture: of an interface libpcap gives softflowd 1.1.0
    nothing before a block of its buffer is full, and what is in the buffer at its end is lost."""
    families = [socket.AF_INET] if version == 5 else [socket.AF_INET, socket.AF_INET6]
    captured(lab, tmp_path / "x.pcap", families)
    # By name: it cuts the last part off a path (and then reads a folder for ever).
    words = f"-d -6 -r x.pcap -v {version} -n 127.0.0.1:{listening.exports.port} -p pid -c ctl"
    subprocess.run(
        ["softflowd", *words.split()],
        cwd=tmp_path, check=True, timeout=WAIT_S, capture_output=True,
    )  # fmt: skip
    counts = listening.trackers.exports.counts
    spin(listening, lambda: counts["recorded"] >= 2 * len(families), WAIT_S)  # one for each way
    listening.close_window()
    rows = spooled(tmp_path)
    told = [
        (row["address"], row["up_bytes"], row["down_bytes"], row["up_packets"], row["down_packets"])
        for row in rows["usage"]
        if row["flags"] & USAGE_FROM_EXPORT
    ]
    sizes = [SIZE + HEADERS[each] for each in families]
    addresses = [pack("10.0.0.2"), pack("2001:db8:0:a::")]
    assert told == [
        (address, UP * size, DOWN * size, UP, DOWN)
        for address, size in zip(addresses, sizes, strict=False)
    ]
    assert counts["recorded"] == 2 * len(families)
    assert not any(stage == "export" for stage, _ in gaps(rows))
