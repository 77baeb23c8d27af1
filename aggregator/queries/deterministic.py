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

Inside address n has public address n // hosts and the block n % hosts of it, where hosts is how
many blocks fit between the ports (RFC 7422 section 2, sequential). What is left above the last
block is dynamic: port-block events tell of it. A version ends where the next of its device begins.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final

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


def _zoned(at: dt.datetime) -> dt.datetime:
    if at.tzinfo is None:
        raise ValueError("give the zone, e.g. 2026-01-01T00:00:00Z")
    return at


@dataclass(config=STRICT)
class Version:
    """One device's configuration from `valid_from` until its next; see the module."""

    device: Name
    valid_from: Annotated[dt.datetime, AfterValidator(_zoned)]
    inside: Annotated[str, AfterValidator(_ipv4)]
    outside: Annotated[str, AfterValidator(_ipv4)]
    ports: tuple[Port, Port]
    ports_per_host: Port
    collector: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""

    @property
    def start_us(self) -> int:
        return (self.valid_from - _EPOCH) // dt.timedelta(microseconds=1)

    @property
    def hosts(self) -> int:
        """Inside addresses that share one public address: its whole blocks."""
        return (self.ports[1] - self.ports[0] + 1) // self.ports_per_host

    @property
    def identity(self) -> str:
        """SHA-256 of what it says: named as evidence, so that a changed version shows."""
        words = (self.device, self.collector, self.start_us, self.inside, self.outside, *self.ports)
        return hashlib.sha256(repr((*words, self.ports_per_host)).encode()).hexdigest()[:32]

    def inside_of(self, address: int, port: int) -> tuple[int, int] | None:
        """The inside address as a number, and its first port, of a public address and port."""
        outside, inside = ipaddress.IPv4Network(self.outside), ipaddress.IPv4Network(self.inside)
        nth = address - int(outside.network_address)
        block, _ = divmod(port - self.ports[0], self.ports_per_host)
        if not 0 <= nth < outside.num_addresses or not 0 <= block < self.hosts:
            return None
        host = nth * self.hosts + block
        if host >= inside.num_addresses:
            return None
        return int(inside.network_address) + host, self.ports[0] + block * self.ports_per_host


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
            inside, first = held
            found.append(
                Mapping(
                    version.identity,
                    "deterministic",
                    version.collector,
                    MAPPED + inside.to_bytes(4, "big"),
                    0,
                    0,
                    first,
                    first + version.ports_per_host - 1,
                    version.start_us,
                    end_us,
                )
            )
        return found

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        """How many inside addresses share a public address in [from, to); None for none."""
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


def _problems(found: Deterministic) -> list[str]:
    problems = []
    ended = _ends(found.version)
    for n, (each, end) in enumerate(ended):
        where = f"version.{n}"
        if each.ports[1] < each.ports[0] or each.hosts < 1:
            problems.append(f"{where}.ports: no block of ports_per_host fits")
            continue
        inside, outside = ipaddress.IPv4Network(each.inside), ipaddress.IPv4Network(each.outside)
        if inside.num_addresses > outside.num_addresses * each.hosts:
            problems.append(
                f"{where}.inside: {inside.num_addresses} addresses, but there is room for "
                f"{outside.num_addresses * each.hosts}: take fewer ports_per_host"
            )
        for m, (other, other_end) in enumerate(ended[:n]):
            together = each.start_us < other_end and other.start_us < end
            if each.device == other.device and each.start_us == other.start_us:
                problems.append(f"{where}: version.{m} of {each.device} begins at that instant too")
            elif together and outside.overlaps(ipaddress.IPv4Network(other.outside)):
                problems.append(f"{where}.outside: version.{m} has these addresses at that time")
    return problems
