"""No trace of a block: what is recorded, counted and kept is as if the name did not exist.

Two collectors see the same traffic of some lines, but that where one is told of a block, and
connects to the block page, the other is told that there is no such name. Whatever a collector
shows but for SafeGuard's own rows must be the same in both.
"""

from __future__ import annotations

import contextlib
import json
import random
import ssl
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from collector.parse.link import LINK_ETHERNET, Frame
from collector.track.observer import Observer, ObserverConfig
from collector.track.safeguard.domain import Blocked
from collector.track.safeguard.targets import Target, Targets
from collector.track.trackers import Trackers, TrackersConfig
from collector.wire.addr import pack
from tests.collector.track.safeguard.guarding import (
    ACCESS,
    CATEGORIES,
    HOUR,
    MIDNIGHT,
    SECOND,
    Silence,
    cells,
    config,
    randomness,
)

PAGE, RESOLVER, SITE = "203.0.113.7", "192.0.2.53", "198.51.100.1"
TARGETS = Targets([Target((f"{name}.block.example",)) for name in CATEGORIES], [pack(PAGE)])
ROLES: Any = {1: frozenset(("access",))}


class Seen:
    """Observer and trackers as the service wires them, with noise of zero."""

    def __init__(self) -> None:
        self.observer = Observer(ObserverConfig(ROLES, targets=TARGETS))
        self.trackers = Trackers(
            TrackersConfig(ACCESS, 300 * SECOND, safeguard=config(), targets=TARGETS),
            MIDNIGHT - 60 * SECOND,
            randomness(),
        )
        guard = self.trackers.safeguard
        assert guard is not None
        guard._laws = {each.name: Silence(each.scale) for each in guard.marginals}  # type: ignore[misc]
        for now in (MIDNIGHT - 60 * SECOND, MIDNIGHT):
            self.trackers.tick(now)
        self.trackers.take(0, MIDNIGHT, MIDNIGHT)
        self.at = MIDNIGHT
        self.blocks = 0

    def give(self, packet: Any) -> None:
        self.at += SECOND
        for event in self.observer.frame(Frame(self.at, bytes(packet), LINK_ETHERNET, 1, False)):
            self.blocks += isinstance(event, Blocked)
            self.trackers.observed(event)  # type: ignore[arg-type]

    def shown(self) -> dict[str, Any]:
        """Metrics, state and rows of the window, SafeGuard's rows apart."""
        for now in range(self.at, MIDNIGHT + HOUR, 240 * SECOND):
            self.trackers.tick(now)
        taken = self.trackers.take(MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + HOUR)
        self.cells = cells(taken[-1])
        rows = {
            name: {column: list(values) for column, values in columns.items()}
            for part in taken[:-1]
            for name, columns in part.items()
        }
        return {
            "observer": self.observer.counts,
            "trackers": self.trackers.stages(),
            "hosts": {name: dict(counts) for name, counts in self.trackers.hosts.counts.items()},
            "state": json.dumps(self.trackers.snapshot()),
            "rows": rows,
            "losses": self.trackers.losses(),
        }


def answer(client: str, host: str, *sets: tuple[str, str, str], nx: bool = False) -> Any:
    response = dns.message.make_response(dns.message.make_query(host, "A"))
    for owner, rtype, value in sets:
        response.answer.append(dns.rrset.from_text(owner, 60, "IN", rtype, value))
    if nx:
        response.set_rcode(dns.rcode.NXDOMAIN)
    way = UDP(sport=53, dport=40000)
    return Ether() / IP(src=RESOLVER, dst=client) / way / response.to_wire()


def hello(client: str, server: str, host: str, port: int) -> Any:
    made, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapped = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(made, out, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        wrapped.do_handshake()
    way = TCP(sport=port, dport=443, seq=1, flags="PA")
    return Ether() / IP(src=client, dst=server) / way / out.read()


def blocked(client: str, host: str, category: str) -> Any:
    to = f"{category}.block.example."
    return answer(client, host, (f"{host}.", "CNAME", to), (to, "A", PAGE))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_block_is_as_no_such_name(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    with_blocks, without = Seen(), Seen()
    for step in range(steps):
        client, host = f"10.0.0.{rng.randint(1, 3)}", f"h{rng.randint(1, 3)}.example"
        if rng.random() < 0.5:
            with_blocks.give(blocked(client, host, rng.choice(CATEGORIES)))
            without.give(answer(client, host, nx=True))
        else:
            for each in (with_blocks, without):
                each.give(answer(client, host, (f"{host}.", "A", SITE)))
                each.give(hello(client, SITE, host, 40000 + step))
    shown = with_blocks.shown()
    assert shown == without.shown()
    told = sum(count for key, count in with_blocks.cells.items() if key[0] == "category-hour")
    assert bool(told) == bool(with_blocks.blocks)
    assert sum(without.cells.values()) == 0
    for word in (PAGE, "block.example", pack(PAGE).hex()):
        assert word not in str(shown)


def test_a_connection_to_the_page_counts_as_that_of_an_outsider() -> None:
    """The kernel's filter passes none but in a tunnel, which it does not look into. That is hidden
    here, and one rule has it together with what is no subscriber's."""
    page, outsider = Seen(), Seen()
    for each in (page, outsider):
        each.give(hello("10.0.0.1", SITE, "a.example", 40000))
    page.give(hello("10.0.0.1", PAGE, "casino.example", 40001))
    outsider.give(hello("172.16.0.1", SITE, "b.example", 40001))
    first, second = page.shown(), outsider.shown()
    for name in ("observer", "trackers", "hosts", "losses"):
        assert first[name] == second[name]
    assert first["rows"]["visit"]["host"] == second["rows"]["visit"]["host"] == ["a.example"]
    assert "casino" not in str(first)


def test_a_page_without_a_category_is_no_address_to_be_visited() -> None:
    """The operator's own portal may share its address with the block pages."""
    seen = Seen()
    seen.give(answer("10.0.0.1", "help.example", ("help.example.", "A", PAGE)))
    assert seen.blocks == 0
    assert seen.shown()["hosts"]["answers"]["ignored.no-address"] == 1


def test_a_target_asked_for_by_its_own_name_leaves_no_trace_either() -> None:
    """Whatever address it has, and be it none; without one there is nothing to record anyway."""
    seen, name = Seen(), f"{CATEGORIES[0]}.block.example"
    for address in (PAGE, SITE):
        seen.give(answer("10.0.0.1", name, (f"{name}.", "A", address)))
    assert seen.blocks == 2
    seen.give(answer("10.0.0.1", name))
    seen.give(answer("10.0.0.1", "plain.example", ("plain.example.", "A", PAGE)))
    assert seen.trackers.hosts.counts["answers"]["ignored.no-address"] == 4
