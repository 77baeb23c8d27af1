"""A TOML file in, a frozen `Config` out, or every error at once with the path of its key."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from collector.wire import addr, settings
from collector.wire.settings import STRICT, Endpoint, Prefix
from collector.wire.settings import ConfigError as ConfigError

DEFAULT_PATH: Final = Path("/etc/tallyhold/collector.toml")


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


Address = Annotated[str, AfterValidator(_address)]
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
    radius_swapped: NASes, as they name themselves, whose input is what they send to the line.
    """

    interfaces: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    radius_ports: Ports = (1812, 1813, 3799)
    radius_secrets: Annotated[dict[Address, Path], Field(max_length=4096)] = field(
        default_factory=dict
    )
    radius_swapped: Annotated[frozenset[str], Field(max_length=4096)] = frozenset()
    sip_ports: Ports = (5060,)
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
class Hosts:
    """Ports on which handshakes are read; what the names are used for is a policy elsewhere."""

    dns_ports: Ports = (53,)
    tls_ports: Ports = (443,)
    http_ports: Ports = (80,)
    quic_ports: Ports = (443,)


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


@dataclass(config=STRICT)
class Config:
    """Everything a collector needs to know; `name` is also the common name of its certificate."""

    name: Name
    access: Access
    uplink: Uplink
    control: Control = field(default_factory=Control)
    lines: Lines = field(default_factory=Lines)
    hosts: Hosts = field(default_factory=Hosts)
    timing: Timing = field(default_factory=Timing)
    spool: Spool = field(default_factory=Spool)
    metrics: Metrics = field(default_factory=Metrics)
    limits: Limits = field(default_factory=Limits)


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
