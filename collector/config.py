"""A TOML file in, a frozen `Config` out, or every error at once with the path of its key."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from collector.parse.host import clean_host
from collector.parse.reader import ParseError
from collector.track.safeguard import domain
from collector.wire import addr, settings
from collector.wire.releases import MARGINALS, MAX_CATEGORIES, MAX_REGIONS, is_name
from collector.wire.settings import STRICT, Endpoint, Prefix
from collector.wire.settings import ConfigError as ConfigError

DEFAULT_PATH: Final = Path("/etc/tallyhold/collector.toml")


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _target(text: str) -> str:
    """An address, else a name of at least two labels: one label would be a whole top domain."""
    try:
        return _address(text)
    except ValueError:
        pass
    try:
        host = clean_host(text.rstrip(".").encode())
    except ParseError:
        host = ""
    if "." not in host:
        raise ValueError("give an address, or a name of two labels or more")
    return host


def _marginal(text: str) -> str:
    if text not in MARGINALS:
        raise ValueError(f"one of {', '.join(MARGINALS)}")
    return text


def _public_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("give 1 to 63 letters, digits, spaces or _-, a letter first")
    return text


Address = Annotated[str, AfterValidator(_address)]
Target = Annotated[str, AfterValidator(_target)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[tuple[Port, ...], Field(max_length=16)]
"""Sixteen ports a protocol: the capture filter has room for 4,096 instructions."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]


@dataclass(config=STRICT)
class Access:
    """Where the subscribers are. `interfaces` may end in `*`; prefixes are inside addresses."""

    interfaces: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    prefixes: Annotated[tuple[Prefix, ...], Field(min_length=1, max_length=256)]
    ipv6_prefix_len: Annotated[int, Field(ge=32, le=128)] = 64

    def networks(self) -> tuple[tuple[bytes, int], ...]:
        """(base address in 16 bytes, prefix length in 128 bits) of every prefix."""
        return _networks(self.prefixes)


@dataclass(config=STRICT)
class Control:
    """Where the NAS speaks RADIUS and voice signalling passes, besides the access side.

    radius_secrets: file by NAS address. sip_trusted: peers whose P-Asserted-Identity counts (RFC
    3325). interim_s: interval at which the NAS reports; sessions end after 2.5 silent ones.
    detail_files: patterns of FreeRADIUS detail files, which are read instead of packets or beside
    those of other NASes. radius_swapped: NASes, as they name themselves, whose input is what they
    send to the line.
    """

    interfaces: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    radius_ports: Ports = (1812, 1813, 3799)
    radius_secrets: Annotated[dict[Address, Path], Field(max_length=4096)] = field(
        default_factory=dict
    )
    detail_files: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    radius_swapped: Annotated[frozenset[str], Field(max_length=4096)] = frozenset()
    sip_ports: Ports = (5060, 5061)
    sip_trusted: Annotated[tuple[Prefix, ...], Field(max_length=256)] = ()
    numbering_region: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "GB"
    subscriber_from: tuple[str, ...] = ("cui", "user_name")
    interim_s: Annotated[int, Field(ge=1, le=86_400)] = 600

    def networks(self) -> tuple[tuple[bytes, int], ...]:
        """As `Access.networks`, of the trusted peers."""
        return _networks(self.sip_trusted)


@dataclass(config=STRICT)
class Lines:
    """Where lines speak DHCP and PPPoE besides the access and control side, and whose they are.

    interfaces: those below the access interfaces, as the parent of PPPoE's `ppp*`; nothing else is
    read on them. subscribers: a CSV file of line and subscriber, read again when it changes.
    """

    interfaces: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    subscribers: Path | None = None


@dataclass(config=STRICT)
class Exports:
    """A listener for NetFlow v5, v9 and IPFIX of hardware routers; none by itself.

    exporters: whose datagrams are taken. usage: whether their flows count as usage, which they must
    not where this machine's own counters see the same traffic; NAT events are taken in either case.
    """

    listen: Endpoint | None = None
    exporters: Annotated[tuple[Prefix, ...], Field(max_length=1024)] = ()
    usage: bool = False


@dataclass(config=STRICT)
class Hosts:
    """Ports on which handshakes are read; what the names are used for is a policy elsewhere.

    detail: a row for each host and server in a window, or for each connection with the port of the
    subscriber, which only a retention notice can ask for.
    """

    dns_ports: Ports = (53,)
    tls_ports: Ports = (443,)
    http_ports: Ports = (80,)
    quic_ports: Ports = (443,)
    detail: Literal["host", "connection"] = "host"


@dataclass(config=STRICT)
class Flows:
    """What connection tracking tells of flows.

    mappings: what is recorded of NAT: a mapping for each `flow`, for each `block` of ports that a
    subscriber has, or nothing, `off`. block_first, block_ports: as the NAT gives ports, in blocks
    of so many from that one on. block_idle_s: the longest pause within one holding of a block.
    reliable: have the kernel keep the ends of flows that find no room, instead of dropping them,
    until the collector looks. Such flows stay in the conntrack table, so a watchdog switches it
    off after stall_s without a look, or once the table is as full as table_share, a share of 1.
    """

    mappings: Literal["flow", "block", "off"] = "flow"
    block_first: Annotated[int, Field(ge=1, le=65_535)] = 1024
    block_ports: Annotated[int, Field(ge=1, le=65_535)] = 1024
    block_idle_s: Annotated[int, Field(ge=1, le=86_400)] = 120
    reliable: bool = False
    stall_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    table_share: Annotated[float, Field(gt=0, le=1)] = 0.8


@dataclass(config=STRICT)
class Timing:
    """Lengths of time in seconds. `dump_s` is how often long flows are read."""

    window_s: Annotated[int, Field(ge=1, le=3600)] = 300
    dump_s: Annotated[float, Field(ge=0.5, le=300)] = 60.0


@dataclass(config=STRICT)
class Spool:
    """The only queue: a folder on a local disk, bounded in bytes."""

    folder: Path = Path("/var/lib/tallyhold/spool")
    max_bytes: Annotated[int, Field(ge=1_000_000, le=10**13)] = 4_000_000_000


@dataclass(config=STRICT)
class Uplink:
    """The aggregator, and the key pair that says who this collector is."""

    url: Annotated[str, Field(pattern=r"^https://[^/\s]+$")]
    ca: Path
    cert: Path
    key: Path
    timeout_s: Annotated[float, Field(ge=1, le=600)] = 30.0


@dataclass(config=STRICT)
class Metrics:
    """Where Prometheus scrapes."""

    listen: Endpoint = "127.0.0.1:9464"


@dataclass(config=STRICT)
class Limits:
    """Table sizes; each table evicts and counts beyond its limit.

    receive_buffer_bytes: of each socket, but all packet sockets together get at most
    packet_buffers_bytes; the kernel reserves twice that, and uses it only in a burst.
    """

    receive_buffer_bytes: Annotated[int, Field(ge=65_536, le=2**30)] = 32 * 2**20
    packet_buffers_bytes: Annotated[int, Field(ge=2**22, le=2**34)] = 256 * 2**20
    max_sessions: Annotated[int, Field(ge=1, le=10**7)] = 262_144
    max_calls: Annotated[int, Field(ge=1, le=10**6)] = 65_536
    max_flows: Annotated[int, Field(ge=1, le=10**7)] = 1_048_576


PublicName = Annotated[str, AfterValidator(_public_name)]
Marginal = Annotated[str, AfterValidator(_marginal)]
Caps = Annotated[
    dict[Marginal, Annotated[int, Field(ge=1, le=domain.MAX_L0)]],
    AfterValidator(lambda given: {**domain.DEFAULT_L0, **given}),
]
Epsilon = Annotated[
    dict[Marginal, Annotated[float, Field(ge=1e-6, le=100)]],
    AfterValidator(lambda given: {**_DEFAULT_EPSILON, **given}),
]
_DEFAULT_EPSILON: Final = {name: e / 1e6 for name, e in domain.DEFAULT_EPSILON_MICRO.items()}


@dataclass(config=STRICT)
class Safeguard:
    """Anonymous counts of block answers; none without this section.

    region: of this router's households, one of `regions`. categories: by name, in the order of the
    rows, the targets of the resolver's block answers: CNAMEs (names under them too) or addresses.
    pages: addresses of block pages that several categories share. l0, epsilon: by marginal, cells
    a household may count in on a day and what they may cost; together at most `daily_budget`.
    routers: on how many routers a household may be counted in a day. hour_s, hours: a shorter day,
    for a lab.
    """

    region: PublicName
    regions: Annotated[tuple[PublicName, ...], Field(min_length=1, max_length=MAX_REGIONS)]
    categories: Annotated[
        dict[PublicName, Annotated[tuple[Target, ...], Field(min_length=1, max_length=16)]],
        Field(min_length=1, max_length=MAX_CATEGORIES),
    ]
    pages: Annotated[tuple[Address, ...], Field(max_length=64)] = ()
    l0: Caps = field(default_factory=lambda: dict(domain.DEFAULT_L0))
    epsilon: Epsilon = field(default_factory=lambda: dict(_DEFAULT_EPSILON))
    daily_budget: Annotated[float, Field(gt=0, le=100)] = 1.0
    routers: Annotated[int, Field(ge=1, le=domain.MAX_ROUTERS)] = 1
    max_households: Annotated[int, Field(ge=1, le=domain.MAX_HOUSEHOLDS)] = 1_000_000
    hour_s: Annotated[int, Field(ge=1, le=3600)] = 3600
    hours: Annotated[int, Field(ge=1, le=24)] = 24


@dataclass(config=STRICT)
class Config:
    """Everything a collector needs to know; `name` is also the common name of its certificate."""

    name: Name
    access: Access
    uplink: Uplink
    control: Control = field(default_factory=Control)
    lines: Lines = field(default_factory=Lines)
    exports: Exports = field(default_factory=Exports)
    hosts: Hosts = field(default_factory=Hosts)
    flows: Flows = field(default_factory=Flows)
    timing: Timing = field(default_factory=Timing)
    spool: Spool = field(default_factory=Spool)
    metrics: Metrics = field(default_factory=Metrics)
    limits: Limits = field(default_factory=Limits)
    safeguard: Safeguard | None = None


_ADAPTER: Final = TypeAdapter(Config)


def _networks(prefixes: tuple[str, ...]) -> tuple[tuple[bytes, int], ...]:
    found = []
    for text in prefixes:
        net = ipaddress.ip_network(text)
        extra = 96 if net.version == 4 else 0
        found.append((addr.pack(net.network_address), net.prefixlen + extra))
    return tuple(found)


def load(path: Path) -> Config:
    """Read and check a configuration file; raises ConfigError with all its problems."""
    data = settings.read(path, "copy deploy/examples/collector.toml and edit it")
    config = settings.check(_ADAPTER, data, path)
    missing = [
        f"uplink.{name}: no such file {getattr(config.uplink, name)}"
        for name in ("ca", "cert", "key")
        if not getattr(config.uplink, name).is_file()
    ]
    if missing:
        raise ConfigError(path, missing)
    return config


def dump(config: Config) -> dict[str, Any]:
    """The effective settings, defaults included, as plain values."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain
