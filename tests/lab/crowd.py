"""Hundreds of households on one line who meet SafeGuard, and how many of them really did.

Each is an address of its own (IPv4, or a /64) behind one namespace: what is counted are addresses,
so no household needs a kernel of its own. Days and hours are those of SafeGuard, made short.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import dns.exception
import dns.message
import dns.rdatatype

from tests.lab.names import BLOCK_DOMAIN, BLOCKED, BY_ADDRESS
from tests.lab.netns import LabError, Namespace
from tests.lab.topology import (
    DELEGATED_V6,
    GATEWAY_V4,
    GATEWAY_V6,
    PAGES_V4,
    PAGES_V6,
    PUBLIC_V4,
    RESOLVER_V4,
    RESOLVER_V6,
    Line,
    Network,
    batch,
)

LINE: Final = Line(250)
HOMES_V4: Final = ipaddress.IPv4Network((str(PUBLIC_V4[192 << 8]), 22))
HOMES_V6: Final = ipaddress.IPv6Network((str(DELEGATED_V6[0xF000 << 64]), 52))
OPEN_NAMES: Final = ("news.example", "mail.example", "games.test")
"""Looked up by everybody; some connect to the first, too."""
REGION: Final = "lab"
VISITORS: Final = 4
ANSWER_S: Final = 2.0
TRIES: Final = 10
LATE: Final = 0.8
"""Part of an hour by which its look-ups must be over: what comes later may count in the next."""

Cells = dict[tuple[str, int, str, str], int]
"""Counts by (marginal, start in µs, region, category)."""


@dataclass(frozen=True, slots=True)
class Clock:
    """SafeGuard's day in the lab: `hours` of `hour_s` seconds."""

    hour_s: int = 5
    hours: int = 3

    @property
    def day_s(self) -> int:
        return self.hour_s * self.hours

    def collector_toml(self, epsilon: float = 1.0) -> str:
        """[safeguard] of the collector; `epsilon` is a day's, split as by default."""
        targets = {
            name: [*((PAGES_V4[1], PAGES_V6[1]) if name == BY_ADDRESS else ())]
            or [f"{name}.{BLOCK_DOMAIN}"]
            for name in BLOCKED
        }
        lines = [f"{name} = {json.dumps(given)}" for name, given in targets.items()]
        split = {"category-hour": 0.5, "region-category-day": 0.4, "kept-day": 0.1}
        return "\n".join(
            [
                "[safeguard]",
                f'region = "{REGION}"\nregions = ["{REGION}"]',
                f"pages = {json.dumps([PAGES_V4[0], PAGES_V6[0]])}",
                f"daily_budget = {epsilon}\nhour_s = {self.hour_s}\nhours = {self.hours}",
                "[safeguard.epsilon]",
                *(f"{name} = {share * epsilon:.6f}" for name, share in split.items()),
                "[safeguard.categories]",
                *lines,
                "",
            ]
        )

    def aggregator_toml(self, epsilon: float = 1.0) -> str:
        """[safeguard] of the aggregator, to go with it."""
        return f"\n[safeguard]\ndaily_budget = {epsilon}\nday_s = {self.day_s}\n"


@dataclass(frozen=True, slots=True)
class CrowdTruth:
    """One counted day: households by category in each hour and in the day, and all that met one."""

    start_ns: int
    end_ns: int
    by_hour: list[dict[str, int]]
    by_day: dict[str, int]
    households: int

    def cells(self, clock: Clock) -> Cells:
        """The true count of each cell."""
        start, hour = self.start_ns // 1000, clock.hour_s * 1_000_000
        found = {
            ("category-hour", start + number * hour, "", category): count
            for number, counts in enumerate(self.by_hour)
            for category, count in counts.items()
        }
        found |= {("region-category-day", start, REGION, c): n for c, n in self.by_day.items()}
        found["kept-day", start, "", "whole"] = self.households
        found["kept-day", start, "", "clipped"] = 0
        return found


@dataclass
class Plan:
    """Who asks what in which hour of a day; nobody beyond the caps."""

    asks: list[list[tuple[int, str]]]
    met: list[dict[str, set[int]]] = field(default_factory=list)


def plan(households: int, hours: int, seed: int) -> Plan:
    """Most households meet a block or two, a few more, one in four none."""
    rng = random.Random(seed)
    asks: list[list[tuple[int, str]]] = [[] for _ in range(hours)]
    met: list[dict[str, set[int]]] = [{name: set() for name in BLOCKED} for _ in range(hours)]
    categories = [name for name, names in BLOCKED.items() if names]
    for home in range(households):
        asks[rng.randrange(hours)].append((home, rng.choice(OPEN_NAMES)))
        for _ in range(rng.choice((0, 1, 1, 2))):
            hour, category = rng.randrange(hours), rng.choice(categories)
            name = rng.choice(BLOCKED[category])
            # Twice, and below the name too: a household counts in a cell once.
            asks[hour] += [(home, name.upper()), (home, f"www.{name}")]
            met[hour][category].add(home)
    for each in asks:
        rng.shuffle(each)
    return Plan(asks, met)


def address_of(home: int) -> str:
    """A household's address: even ones have IPv4, odd ones a /64."""
    if home % 2:
        return str(HOMES_V6[(home << 64) + 0x10])
    return str(HOMES_V4[home + 1])


class Crowd:
    """The households of one line; a context manager on a started network."""

    def __init__(self, network: Network, clock: Clock, households: int = 300) -> None:
        if not VISITORS <= households <= 1000:
            raise LabError("the crowd has 4 to 1000 households")
        self.clock = clock
        self.households = households
        self._network = network
        self._home = Namespace("crowd")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._stack.callback(self._home.stop)
            self._home.start()
            self._network.access(LINE, self._home)
            self._route()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def play_day(self, seed: int = 1) -> CrowdTruth:
        """Wait for SafeGuard's next day and play it; again where this machine was too slow.

        The collector must run already. LabError where an answer is not what the resolver's policy
        says, or no day of TRIES was in time.
        """
        for attempt in range(TRIES):
            found = self._home.call(lambda seed=seed + attempt: self._day(seed))  # type: ignore[misc]
            if found:
                return found
        raise LabError("the machine is too slow for the crowd's look-ups")

    def run(self, argv: Sequence[str]) -> str:
        """Run a program on the crowd's line; what it printed."""
        return self._home.run(*argv)

    def _route(self) -> None:
        """Every address is the namespace's own (a local route of the prefix), without any of them
        being on an interface."""
        via4, via6 = "169.254.2.2", "fe80::2"
        batch(
            self._home,
            f"route add local {HOMES_V4} dev lo",
            f"neigh replace {GATEWAY_V4} lladdr {LINE.gateway_mac} dev eth0 nud permanent",
            f"neigh replace {GATEWAY_V6} lladdr {LINE.gateway_mac} dev eth0 nud permanent",
            f"route add default via {GATEWAY_V4} dev eth0 onlink",
            f"route add default via {GATEWAY_V6} dev eth0 onlink",
        )
        batch(self._home, f"route add local {HOMES_V6} dev lo", family="-6")
        self._home.sysctl({"ipv6.ip_nonlocal_bind": 1})
        batch(
            self._network.edge,
            f"neigh replace {via4} lladdr {LINE.mac} dev {LINE.interface} nud permanent",
            f"neigh replace {via6} lladdr {LINE.mac} dev {LINE.interface} nud permanent",
            f"route add {HOMES_V4} via {via4} dev {LINE.interface} onlink",
            f"route add {HOMES_V6} via {via6} dev {LINE.interface} onlink",
        )

    def _day(self, seed: int) -> CrowdTruth | None:
        clock, made = self.clock, plan(self.households, self.clock.hours, seed)
        day = int(time.time()) // clock.day_s + 1
        start = float(day * clock.day_s)
        for number, asks in enumerate(made.asks):
            begin = start + number * clock.hour_s
            # Half a second is more than the collector's clock tick and the way of a packet.
            time.sleep(max(0.0, begin + 0.5 - time.time()))
            for home, name in asks:
                look_up(address_of(home), name)
            if number == 0:
                for home in range(VISITORS):
                    connect(address_of(home))
            if time.time() > begin + LATE * clock.hour_s:
                return None
        days: dict[str, set[int]] = defaultdict(set)
        for hour in made.met:
            for category, homes in hour.items():
                days[category] |= homes
        return CrowdTruth(
            start_ns=int(start) * 10**9,
            end_ns=int(start + clock.day_s) * 10**9,
            by_hour=[{name: len(homes) for name, homes in hour.items()} for hour in made.met],
            by_day={name: len(homes) for name, homes in days.items()},
            households=len(set().union(*days.values())),
        )


def look_up(address: str, name: str) -> list[str]:
    """Addresses of a name for one household; LabError where the answer is not the policy's."""
    wide = ":" in address
    kind = dns.rdatatype.AAAA if wide else dns.rdatatype.A
    query = dns.message.make_query(name, kind)
    resolver = RESOLVER_V6 if wide else RESOLVER_V4
    with socket.socket(_family(address), socket.SOCK_DGRAM) as opened:
        opened.bind((address, 0))
        opened.settimeout(ANSWER_S)
        opened.connect((resolver, 53))
        for _ in range(3):
            opened.send(query.to_wire())
            with contextlib.suppress(TimeoutError, dns.exception.DNSException):
                answer = dns.message.from_wire(opened.recv(4096))
                break
        else:
            raise LabError(f"the resolver does not answer for {name}")
    found = [str(item) for each in answer.answer if each.rdtype == kind for item in each]
    blocked = tuple(each for names in BLOCKED.values() for each in names)
    if bool(set(found) & {*PAGES_V4, *PAGES_V6}) != name.lower().endswith(blocked):
        raise LabError(f"the resolver's policy does not hold for {name}: {found}")
    return found


def connect(address: str) -> None:
    """Visit a blocked name, which leads to its page, and one that is not, by HTTP and by TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name in ("casino.test", "lewd.test", OPEN_NAMES[0]):
        server = look_up(address, name)[0]
        for port in (80, 443):
            with socket.create_connection((server, port), 5.0, (address, 0)) as plain:
                opened = context.wrap_socket(plain, server_hostname=name) if port == 443 else plain
                with opened:
                    opened.sendall(f"GET /bytes/200 HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                    while opened.recv(4096):
                        continue


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# What the product says of it

_COUNTS: Final = """
SELECT marginal, start_us, region, category, count FROM block_count
WHERE start_us >= %(start)s AND end_us <= %(end)s ORDER BY marginal, start_us, category"""
_ENTRIES: Final = """
SELECT marginal, start_us, outcome, scale_num / scale_den AS scale, epsilon_micro, rows
FROM safeguard_ledger WHERE start_us >= %(start)s AND end_us <= %(end)s
ORDER BY marginal, start_us"""
TAKEN_S: Final = 60.0


def released(client: Any, truth: CrowdTruth) -> tuple[Cells, list[dict[str, Any]]]:
    """Noisy counts of the day, and its ledger entries, once the day's last has arrived."""
    span = {"start": truth.start_ns // 1000, "end": truth.end_ns // 1000}
    deadline = time.monotonic() + TAKEN_S
    while True:
        entries = _rows(client.query_columns(_ENTRIES, span))
        if any(entry["marginal"] == "kept-day" for entry in entries):
            break
        if time.monotonic() > deadline:
            raise LabError("the day of SafeGuard did not arrive")
        time.sleep(0.2)
    counts = _rows(client.query_columns(_COUNTS, span))
    return {
        (row["marginal"], row["start_us"], row["region"], row["category"]): row["count"]
        for row in counts
    }, entries


def _rows(columns: Any) -> list[dict[str, Any]]:
    values: Sequence[Any] = list(columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
