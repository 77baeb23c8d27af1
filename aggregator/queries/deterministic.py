"""Deterministic NAT: a file of versions in, the inside address of a public address and port out.

RFC 7422 maps every inside address to a fixed block of ports of a fixed public address, so nothing
is logged; who had a port is arithmetic over the configuration that was in force. So the file keeps
every version there ever was with the instant from which it counts, and none is ever changed:

    [[version]]
    device = "cgn-1"
    collector = "edge-1"                    # whose bindings know the inside addresses
    valid_from = 2026-01-01T00:00:00Z
    inside = "100.64.0.0/22"
    outside = "192.0.2.0/26"
    ports = [1024, 65535]
    ports_per_host = 2000
    algorithm = "sequential"                # or round-robin, interlaced

Inside hosts are counted from 0: addresses of IPv4, or of IPv6 (DS-Lite, NAT64) the prefixes of
`inside_length` that subscribers have. With `boundary_addresses = false` the network's own address
and the broadcast address are none and host 0 is the address after the first, as Junos has it unless
`include-boundary-addresses` is set.
Of the algorithms that RFC 7422 section 2 numbers:

- sequential (0): host n has public address n // hosts and the block n % hosts of it, where hosts is
  how many blocks fit between the ports.
- round-robin (2): host n has the same block of every public address; ports_per_host is of all.
- interlaced (3): host n has public address n // hosts and of it every port that is n % hosts after
  the first, counted in steps of hosts.

Not known: staggered (1), whose formula as printed gives a port to two hosts; cryptographic (4),
which takes the device's key and function; and what vendors do otherwise. Such devices have to
export their blocks. What no host has is dynamic: port-block events tell of it. A version ends where
the next of its device begins.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from aggregator.queries.evidence import FOREVER, Mapping, Question
from collector.wire import settings
from collector.wire.addr import MAPPED
from collector.wire.settings import STRICT, ConfigError

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _ipv4(text: str) -> str:
    return str(ipaddress.IPv4Network(text))


def _either(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _zoned(at: dt.datetime) -> dt.datetime:
    if at.tzinfo is None:
        raise ValueError("give the zone, e.g. 2026-01-01T00:00:00Z")
    return at


@dataclass(config=STRICT)
class Version:
    """One device's configuration from `valid_from` until its next; see the module."""

    device: Name
    valid_from: Annotated[dt.datetime, AfterValidator(_zoned)]
    inside: Annotated[str, AfterValidator(_either)]
    outside: Annotated[str, AfterValidator(_ipv4)]
    ports: tuple[Port, Port]
    ports_per_host: Port
    collector: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    algorithm: Literal["sequential", "round-robin", "interlaced"] = "sequential"
    inside_length: Annotated[int, Field(ge=1, le=128)] | None = None
    boundary_addresses: bool = True

    @property
    def start_us(self) -> int:
        return (self.valid_from - _EPOCH) // dt.timedelta(microseconds=1)

    @property
    def hosts(self) -> int:
        """Inside hosts that share one public address: its whole blocks."""
        return (self.ports[1] - self.ports[0] + 1) // self._width

    @property
    def room(self) -> int:
        """Inside hosts that have ports."""
        pool = ipaddress.IPv4Network(self.outside).num_addresses
        return self.hosts if self.algorithm == "round-robin" else self.hosts * pool

    @property
    def length(self) -> int:
        """Length of the prefix that one host has inside, in its own family's bits."""
        whole = ipaddress.ip_network(self.inside).max_prefixlen
        return whole if self.inside_length is None else self.inside_length

    @property
    def inside_hosts(self) -> int:
        """Hosts inside, with ports or without."""
        within = 1 << max(0, self.length - ipaddress.ip_network(self.inside).prefixlen)
        return within if self.boundary_addresses else within - 2

    @property
    def _width(self) -> int:
        """Ports that a host has of one public address."""
        if self.algorithm != "round-robin":
            return self.ports_per_host
        return max(1, self.ports_per_host // ipaddress.IPv4Network(self.outside).num_addresses)

    @property
    def identity(self) -> str:
        """SHA-256 of what it says: named as evidence, so that a changed version shows."""
        words = (self.device, self.collector, self.start_us, self.inside, self.outside, *self.ports)
        # Defaults are left out: an earlier answer named a version by what it then said.
        more: list[str] = [] if self.algorithm == "sequential" else [self.algorithm]
        more += [] if self.inside_length is None else [str(self.inside_length)]
        more += [] if self.boundary_addresses else ["no-boundary"]
        said = repr((*words, self.ports_per_host, *more))
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def inside_of(self, address: int, port: int) -> tuple[bytes, int, int] | None:
        """The inside address, 16 bytes, with the first and last port that lie together, of a
        public address and port; None where no host has it."""
        outside, inside = ipaddress.IPv4Network(self.outside), ipaddress.ip_network(self.inside)
        nth, place = address - int(outside.network_address), port - self.ports[0]
        if not 0 <= nth < outside.num_addresses or not 0 <= place < self.hosts * self._width:
            return None
        if self.algorithm == "interlaced":
            host, first, last = nth * self.hosts + place % self.hosts, port, port
        else:
            block = place // self._width
            host = block if self.algorithm == "round-robin" else nth * self.hosts + block
            first = self.ports[0] + block * self._width
            last = first + self._width - 1
        if host >= self.inside_hosts:
            return None
        host += not self.boundary_addresses
        base = int(inside.network_address) + (host << (inside.max_prefixlen - self.length))
        held = base.to_bytes(inside.max_prefixlen // 8, "big")
        return (MAPPED + held if inside.version == 4 else held), first, last


@dataclass(config=STRICT)
class Deterministic:
    """All versions there ever were."""

    version: Annotated[tuple[Version, ...], Field(max_length=10_000)] = field(default=())

    @property
    def digest(self) -> str:
        """SHA-256 over all versions; goes into the audit log where it changes."""
        text = " ".join(each.identity for each in self.version)
        return hashlib.sha256(text.encode()).hexdigest()

    def mappings(self, question: Question, from_us: int, to_us: int) -> list[Mapping]:
        """The translations of a public address and port in [from, to), one for each version."""
        if question.port is None or question.address[:12] != MAPPED:
            return []
        address = int.from_bytes(question.address[12:], "big")
        found = []
        for version, end_us in self._in_force(from_us, to_us):
            held = version.inside_of(address, question.port)
            if held is None:
                continue
            inside, first, last = held
            found.append(
                Mapping(
                    version.identity,
                    "deterministic",
                    version.collector,
                    inside,
                    0,
                    0,
                    first,
                    last,
                    version.start_us,
                    end_us,
                )
            )
        return found

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        """How many inside hosts share a public address in [from, to); None for none."""
        if address[:12] != MAPPED:
            return None
        number = ipaddress.IPv4Address(address[12:])
        counts = [
            version.hosts
            for version, _ in self._in_force(from_us, to_us)
            if number in ipaddress.IPv4Network(version.outside)
        ]
        return max(counts, default=None)

    def _in_force(self, from_us: int, to_us: int) -> list[tuple[Version, int]]:
        return [
            (version, end)
            for version, end in _ends(self.version)
            if version.start_us < to_us and from_us < end
        ]


def _ends(versions: Sequence[Version]) -> list[tuple[Version, int]]:
    """Each version with its end: where the next of the same device begins."""
    found = []
    for each in versions:
        later = [o.start_us for o in versions if o.device == each.device
                 and o.start_us > each.start_us]  # fmt: skip
        found.append((each, min(later, default=FOREVER)))
    return found


_ADAPTER: Final = TypeAdapter(Deterministic)


def load(path: Path) -> Deterministic:
    """Read and check the file; raises ConfigError with all its problems."""
    return parse(settings.read(path, "it has the versions of deterministic NAT"), path)


def parse(data: dict[str, Any], path: Path) -> Deterministic:
    """Check TOML that is already read; `path` names it in errors."""
    found = settings.check(_ADAPTER, data, path)
    problems = _problems(found)
    if problems:
        raise ConfigError(path, problems)
    return found


def _wrong_hosts(each: Version) -> list[str]:
    """What is wrong with the hosts of one version."""
    inside, pool = ipaddress.ip_network(each.inside), ipaddress.IPv4Network(each.outside)
    if inside.version == 4 and each.length != 32:
        return ["inside_length: only for IPv6: of IPv4 each address is a host"]
    if inside.version == 6 and not inside.prefixlen <= each.length <= 64:
        return [f"inside_length: of IPv6 from {inside.prefixlen} to 64: the prefix of one host"]
    if not each.boundary_addresses and (inside.version == 6 or inside.prefixlen > 30):
        return ["boundary_addresses: only of IPv4 prefixes to /30 can they be left out"]
    if each.algorithm == "round-robin" and each.ports_per_host % pool.num_addresses:
        return [f"ports_per_host: no multiple of the {pool.num_addresses} public addresses"]
    if each.inside_hosts > each.room:
        return [f"inside: {each.inside_hosts} addresses, but there is room for {each.room}: "
                "take fewer ports_per_host"]  # fmt: skip
    return []


def _problems(found: Deterministic) -> list[str]:
    problems = []
    ended = _ends(found.version)
    for n, (each, end) in enumerate(ended):
        where = f"version.{n}"
        if each.ports[1] < each.ports[0] or each.hosts < 1:
            problems.append(f"{where}.ports: no block of ports_per_host fits")
            continue
        outside = ipaddress.IPv4Network(each.outside)
        problems += [f"{where}.{text}" for text in _wrong_hosts(each)]
        for m, (other, other_end) in enumerate(ended[:n]):
            together = each.start_us < other_end and other.start_us < end
            if each.device == other.device and each.start_us == other.start_us:
                problems.append(f"{where}: version.{m} of {each.device} begins at that instant too")
            elif together and outside.overlaps(ipaddress.IPv4Network(other.outside)):
                problems.append(f"{where}.outside: version.{m} has these addresses at that time")
    return problems
