"""Interface counters of a real namespace."""

from __future__ import annotations

import os
import socket
import time

import pytest

from collector.capture.links import LinkReader, LinksConfig
from tests.collector.capture.netns_fixture import inside, namespace, run


@pytest.mark.lab
def test_interfaces_are_read_with_counts_role_speed_and_state_changes() -> None:
    tag = f"vl{os.getpid() % 100_000}"
    with namespace(tag) as ns, inside(ns):
        run(*["ip", "link", "add", "acc0", "type", "veth", "peer", "name", "far0"])
        run(*["ip", "link", "set", "acc0", "addrgenmode", "none", "up"])
        run(*["ip", "link", "set", "far0", "addrgenmode", "none", "up"])
        run(*["ip", "addr", "add", "10.9.0.1/24", "dev", "acc0"])
        run(*["ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "acc0"])
        reader = LinkReader(LinksConfig((("acc*", "access"), ("far?", "control"))), time.time_ns)
        before = reader.read()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(5):
                sender.sendto(bytes(100), ("10.9.0.2", 9))
        run(*["ip", "link", "set", "far0", "down"])
        after = reader.read()
        one, two = ({link.name: link for link in each.links} for each in (before, after))
        assert before.generation == after.generation and before.omitted == 0
        assert {name: link.role for name, link in two.items()} == {
            "lo": "",
            "acc0": "access",
            "far0": "control",
        }
        # rx_bytes, tx_bytes, rx_packets, tx_packets
        sent = [b - a for a, b in zip(one["acc0"].counters, two["acc0"].counters, strict=True)]
        assert sent == [0, 5 * 142, 0, 5, 0, 0, 0, 0]
        got = [b - a for a, b in zip(one["far0"].counters, two["far0"].counters, strict=True)]
        assert got[0] == 5 * 142 and got[2] == 5
        assert two["acc0"].carrier_changes > one["acc0"].carrier_changes
        assert one["acc0"].speed_mbps == 10_000 and one["lo"].speed_mbps == 0
        run(*["ip", "link", "del", "acc0"])
        run(*["ip", "link", "add", "acc0", "type", "veth", "peer", "name", "far1"])
        again = {link.name: link for link in reader.read().links}
        assert again["acc0"].index != two["acc0"].index and set(again) == {"lo", "acc0", "far1"}
    with namespace(tag) as ns, inside(ns):
        assert reader.read().generation != before.generation


def test_roles_are_those_the_tracker_knows() -> None:
    with pytest.raises(ValueError):
        LinksConfig((("acc*", "uplink"),))
    with pytest.raises(ValueError):
        LinksConfig((("acc*", "access"),) * 65)
