"""From a router's NAT events to the subscriber: exporter, listener, tracker, ingest, look-up."""

from __future__ import annotations

import ipaddress
import select
import socket
from typing import Any

import pytest

from aggregator.queries.answering import Answering
from aggregator.queries.evidence import Margins
from aggregator.queries.who import Rules
from collector.capture.exports import ExportsConfig, ExportSocket
from collector.wire.records import record_id
from tests.aggregator.queries.world import HOUR, World, binding, session
from tests.aggregator.support import S
from tests.collector.parse.test_export import NOW, ipfix, record_set, template, v9
from tests.collector.track.test_exports import (
    BLOCK,
    NAT,
    PUBLIC,
    TEMPLATES,
    A,
    B,
    block,
    event,
    exports,
    take,
)

pytestmark = pytest.mark.engine

T0 = NOW * S
WINDOW_NS = 300 * S


def heard(*datagrams: bytes) -> list[dict[str, Any]]:
    """Mappings of what an exporter sends to the listener's port over loopback, window by window."""
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    opened = ExportSocket(ExportsConfig("127.0.0.1", 0, networks, 1 << 20), lambda: T0 + 250 * S)
    opened.start()
    tracker = exports(usage=False)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router:
            for each in datagrams:
                router.sendto(each, ("127.0.0.1", opened.port))
        count = 0
        while count < len(datagrams):
            assert select.select(opened.descriptors, [], [], 60)[0], "a datagram did not come"
            for taken in opened.read(8):
                tracker.datagram(taken)
                count += 1
    finally:
        opened.stop()
    assert tracker.take_losses() == []
    ends = (NOW // 300 * 300 * S + n * WINDOW_NS for n in (1, 2))
    return [row for end in ends for row in take(tracker, "mapping", end)]


def test_nat_events_of_a_router_answer_who_had_a_port(world: World) -> None:
    """A session of NAT44 by IPFIX, a block of ports by NetFlow v9, each of another subscriber."""
    old = record_set(0, template(257, *NAT) + template(258, *BLOCK))
    mappings = heard(
        ipfix(TEMPLATES, record_set(257, event(4, 10, A)), sequence=0),
        v9(old, record_set(258, block(16, 12, B))),
        ipfix(record_set(257, event(5, 200, A)), sequence=1),
        v9(record_set(258, block(17, 240, B)), sequence=1),
    )
    assert sorted(row["kind"] for row in mappings) == ["block", "flow"]
    held = (("nat-1", A), ("nat-2", B))
    world.send(
        "nat-edge",
        T0 + 2 * HOUR,
        mapping=mappings,
        session=[
            session(
                name, T0 - HOUR, T0 + HOUR, end_reason="stated",
                session_id=record_id("session", name),
            )
            for name, _ in held
        ],
        binding=[binding(name, inside, T0 - HOUR, T0 + HOUR) for name, inside in held],
    )  # fmt: skip
    asked = Answering(world.client, Rules(margins=Margins(settle_us=60_000_000)))

    def who(port: int, protocol: int, at_s: int) -> tuple[str, list[str]]:
        found = asked.who(PUBLIC, port, protocol, (NOW + at_s) * 1_000_000, 2_000_000).plain
        return found["grade"], [each["subscriber"] for each in found["candidates"]]

    assert who(5000, 17, 100) == ("CERTAIN", ["nat-1"])
    assert who(5000, 6, 100)[1] == []  # it was UDP
    assert who(1300, 6, 100) == ("CERTAIN", ["nat-2"])
    assert who(1300, 17, 241)[0] != "CERTAIN"  # released a second before, within the clock error
    assert who(1600, 6, 100)[1] == []  # beside the block
    assert who(5000, 17, -60)[1] == []
