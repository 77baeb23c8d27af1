"""Who had a port, answered from port blocks: real SNAT with a range for each of two subscribers,
conntrack as the kernel tells it, the collector's records, the real ingest, the question."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from aggregator.queries.answering import Answering
from aggregator.queries.evidence import Margins
from aggregator.queries.who import Rules
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_dump import dump
from collector.parse.conntrack import Decoder
from collector.track.flow_config import FlowConfig, MappingConfig
from collector.track.flows import Flows
from collector.wire.addr import pack, unpack
from collector.wire.columns import record_batch
from collector.wire.records import record_id
from tests.aggregator.queries import world as rows
from tests.aggregator.queries.world import DAY, HOUR, World
from tests.aggregator.support import S
from tests.collector.capture.test_netlink import PUBLIC4, WORLD4, Lab, started

pytestmark = [pytest.mark.engine, pytest.mark.lab]

FIRST, PORTS = 2048, 256
ONE, TWO, LEGACY = "10.0.0.21", "10.0.0.22", "10.0.0.23"
"""Two subscribers with a block each, and a third whose ports are taken out of the second's."""
RANGES = {ONE: (2048, 2303), TWO: (2304, 2559), LEGACY: (2304, 2559)}
CHAIN = "\n".join(
    f"meta l4proto {{ tcp, udp }} ip saddr {inside} snat ip to {PUBLIC4}:{low}-{high}"
    for inside, (low, high) in RANGES.items()
)
RULES = f"""
table ip blocks {{
  chain post {{
    type nat hook postrouting priority 99; policy accept;
    {CHAIN}
  }}
}}
"""
MARGINS = Margins(clock_us=1000)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with started() as built:
        for inside in RANGES:
            built.home.run("ip", "address", "add", f"{inside}/24", "dev", "eth0")
        built.router.run("nft", "-f", "-", stdin=RULES)
        yield built


def session(name: str, start: int) -> dict[str, Any]:
    """Open, and known to live now, as its binding names it."""
    found = rows.session(name, start, proof=time.time_ns())
    return {**found, "session_id": record_id("session", name)}


class Meter:
    """What the collector makes of the router's flows at the detail level `block`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.router.run("conntrack", "-F")
        self.events = ConntrackEvents(ConntrackConfig(), time.time_ns)
        lab.in_router(self.events.start)
        mappings = MappingConfig("block", block_first=FIRST, block_ports=PORTS)
        config = FlowConfig(((pack("10.0.0.0"), 120),), mappings=mappings)
        self.flows = Flows(config, time.time_ns())
        self._decoder = Decoder()

    def look(self) -> None:
        """Reads ends of flows, then those that are open."""
        read = self.lab.in_router(self.events.read)
        self.flows.destroyed(self._decoder.decode(read), time.time_ns())
        found = self.lab.in_router(lambda: dump(time.time_ns))
        self.flows.dump(self._decoder.decode(found.messages), found.began_ns, found.complete)

    def take(self) -> list[dict[str, Any]]:
        """Records as in a window that ends now."""
        now = time.time_ns()
        taken = self.flows.take(now - 300 * S, now, now)["mapping"]
        found = record_batch("mapping", taken).to_pylist()
        return [{n: v for n, v in row.items() if n != "record_id"} for row in found]


def send(lab: Lab, inside: str, count: int) -> list[socket.socket]:
    """So many UDP flows, each from a socket of its own, which the caller closes."""

    def made() -> list[socket.socket]:
        opened = []
        for number in range(count):
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind((inside, 0))
            one.sendto(b"x", (WORLD4, 7000 + number))
            opened.append(one)
        return opened

    return lab.home.call(made)


def test_a_real_port_range_is_a_block_and_names_its_subscriber(lab: Lab, world: World) -> None:
    if (left_s := (DAY - time.time_ns() % DAY) / S) < 60:
        time.sleep(left_s)  # records are cut at midnight
    began = time.time_ns()
    meter = Meter(lab)
    for inside in (ONE, TWO):
        for one in send(lab, inside, 20):
            one.close()
    meter.look()
    time.sleep(0.2)  # the flows live 30 s: it lies between two looks at them
    meter.look()
    lab.in_router(meter.events.stop)
    found = meter.take()
    told = {unpack(row["inside_address"]): row for row in found}
    assert len(found) == 2 and {row["kind"] for row in found} == {"block"}
    for inside in (ONE, TWO):
        row = told[inside]
        assert (row["port_first"], row["port_last"]) == RANGES[inside]
        assert (unpack(row["public_address"]), row["protocol"]) == (PUBLIC4, 17)
        assert began < row["start_ns"] < row["end_ns"] <= time.time_ns()
    assert meter.flows.blocks == (2, 0)
    assert [loss for loss in meter.flows.losses() if "mapping" in loss.classes] == []

    held = max(began - HOUR, began // DAY * DAY)
    world.send(
        "nat-edge",
        time.time_ns(),
        session=[session("nat-1", held), session("nat-2", held)],
        binding=[rows.binding("nat-1", ONE, held), rows.binding("nat-2", TWO, held)],
        mapping=found,
    )
    asked = Answering(world.store.keeper, Rules(margins=MARGINS))
    for inside, name in ((ONE, "nat-1"), (TWO, "nat-2")):
        low, high = RANGES[inside]
        middle = (told[inside]["start_ns"] + told[inside]["end_ns"]) // 2000
        for port in (low, high, (low + high) // 2):
            answer = asked.who(PUBLIC4, port, 17, middle, 1000).plain
            assert answer["grade"] == "CERTAIN", answer
            (candidate,) = answer["candidates"]
            assert candidate["subscriber"] == name
            assert candidate["mapping"]["source"] == "block"
            # Its last proof lies before the end of what is asked about.
            edge = told[inside]["end_ns"] // 1000
            assert asked.who(PUBLIC4, port, 17, edge, 1000).plain["grade"] == "BOUNDED"
    nobody = asked.who(PUBLIC4, RANGES[TWO][1] + 1, 17, middle, 1000).plain
    assert nobody["candidates"] == []


def test_two_in_one_range_are_never_one_block(lab: Lab) -> None:
    """LEGACY's ports come out of TWO's range, at the same time: a wrong configuration."""
    meter = Meter(lab)
    opened = [*send(lab, TWO, 5), *send(lab, LEGACY, 5)]
    for one in opened:
        one.close()
    meter.look()
    lab.in_router(meter.events.stop)
    found = meter.take()
    assert meter.flows.blocks == (1, 1)
    (block,) = [row for row in found if row["kind"] == "block"]
    flows = [row for row in found if row["kind"] == "flow"]
    others = {TWO, LEGACY} - {unpack(block["inside_address"])}
    assert {unpack(row["inside_address"]) for row in flows} == others
    assert len(flows) == 5 and all(row["port_first"] == row["port_last"] for row in flows)
    ports = np.array([row["port_first"] for row in flows])
    assert ((ports >= block["port_first"]) & (ports <= block["port_last"])).all()


def test_without_mappings_their_absence_is_told(lab: Lab) -> None:
    meter = Meter(lab)
    off = MappingConfig("off")
    meter.flows = Flows(FlowConfig(((pack("10.0.0.0"), 120),), mappings=off), time.time_ns())
    with closing(send(lab, ONE, 1)[0]):
        meter.look()
    lab.in_router(meter.events.stop)
    assert meter.take() == []
    told = {loss.reason: loss.classes for loss in meter.flows.losses()}
    assert told["mappings-off"] == ("mapping",)
