"""The exporters' socket: who is heard, what is told of a port that is taken."""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from collections.abc import Iterator

import pytest

from collector.capture.exports import ExportsConfig, ExportSocket, ExportsUnavailable
from collector.track.exporters import Exported
from collector.wire.addr import pack


def listener(host: str, *exporters: str) -> ExportSocket:
    networks = tuple(map(ipaddress.ip_network, exporters))
    return ExportSocket(ExportsConfig(host, 0, networks, 1 << 20), time.time_ns)


@pytest.fixture(params=["127.0.0.1", "::1"])
def heard(request: pytest.FixtureRequest) -> Iterator[tuple[str, ExportSocket]]:
    host = request.param
    opened = listener(host, "127.0.0.0/8", "::1/128")
    opened.start()
    try:
        yield host, opened
    finally:
        opened.stop()
        opened.stop()


def send(host: str, port: int, *datagrams: bytes) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        for each in datagrams:
            out.sendto(each, (host, port))


def wait(opened: ExportSocket, count: int) -> list[Exported]:
    found: list[Exported] = []
    while len(found) < count:
        ready, _, _ = select.select(opened.descriptors, [], [], 20)
        assert ready
        found += opened.read(2)
    return found


def test_datagrams_come_with_time_and_exporter(heard: tuple[str, ExportSocket]) -> None:
    host, opened = heard
    before = time.time_ns()
    send(host, opened.port, b"one", b"two", b"three", bytes(60_000))
    found = wait(opened, 4)
    assert [each.data for each in found] == [b"one", b"two", b"three", bytes(60_000)]
    assert {each.exporter for each in found} == {pack(host)}
    assert before <= found[0].ts_ns <= time.time_ns()
    assert opened.read(5) == []
    assert (opened.counts["seen"], opened.counts["recorded"]) == (4, 4)


def test_strangers_are_counted_and_not_heard() -> None:
    opened = listener("127.0.0.1", "192.0.2.0/24")
    opened.start()
    try:
        send("127.0.0.1", opened.port, b"one")
        assert select.select(opened.descriptors, [], [], 20)[0]
        assert opened.read(5) == []
        assert (opened.counts["seen"], opened.counts["ignored"]) == (1, 1)
    finally:
        opened.stop()


def test_a_port_that_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        opened = ExportSocket(ExportsConfig("127.0.0.1", port, ()), time.time_ns)
        with pytest.raises(ExportsUnavailable, match=r"free address"):
            opened.start()
