"""A TOML file in, a frozen `Config` out, or every error at once with the path of its key."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from collector.wire import settings
from collector.wire.settings import STRICT, Endpoint, Prefix
from collector.wire.settings import ConfigError as ConfigError

DEFAULT_PATH: Final = Path("/etc/tallyhold/aggregator.toml")


def _loopback(text: str) -> str:
    host, _, _ = settings.endpoint(text).rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError("this page has no access control: choose a loopback address")
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("give an absolute path")
    return path


Loopback = Annotated[str, AfterValidator(_loopback)]
Folder = Annotated[Path, AfterValidator(_absolute)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
AreaName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]


@dataclass(config=STRICT)
class Server:
    """Where collectors come in. `url` is what they are told, for messages and certificates."""

    listen: Endpoint = "0.0.0.0:8443"
    url: Annotated[str, Field(pattern=r"^(https://[^/\s]+)?$")] = ""


@dataclass(config=STRICT)
class Tls:
    """The authority collectors' certificates come from, this server's pair, revoked ones."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


@dataclass(config=STRICT)
class Engine:
    """The bundled engine (`data`, `port`) or a server (`host`, `port`, `user`, ...).

    port: 0 for any free port with the bundled engine, and for 9000 with a server.
    """

    kind: Literal["bundled", "server"] = "bundled"
    data: Folder = Path("/var/lib/tallyhold/engine")
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = "127.0.0.1"
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "default"
    password_file: Path | None = None
    database: Identifier = "tallyhold"
    cluster: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62})?$")] = ""
    secure: bool = False
    ca: Path | None = None
    memory_ratio: Annotated[float, Field(gt=0.05, le=0.95)] = 0.6
    timeout_s: Annotated[float, Field(ge=1, le=3600)] = 300.0


@dataclass(config=STRICT)
class Metrics:
    """Where Prometheus scrapes."""

    listen: Loopback = "127.0.0.1:9465"


@dataclass(config=STRICT)
class Attribution:
    """tolerance_s: how far a row may reach past its binding. history_days: bindings in memory."""

    tolerance_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    history_days: Annotated[int, Field(ge=1, le=400)] = 35


@dataclass(config=STRICT)
class Audit:
    """Where look-ups of identified records are recorded; the folder of whoever asks."""

    folder: Folder = Path("/var/lib/tallyhold/audit")


@dataclass(config=STRICT)
class Retention:
    """config: of the retention service, which `appliance run` then runs beside the engine."""

    config: Folder


@dataclass(config=STRICT)
class Limits:
    """How much to bear at once, and how far clocks may differ. demand_lines: fewest lines of an
    area whose number is stored."""

    max_uploads: Annotated[int, Field(ge=1, le=256)] = 8
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = 2048
    upload_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 600.0
    idle_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 75.0
    clock_skew_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    demand_lines: Annotated[int, Field(ge=2, le=10_000)] = 10


@dataclass(config=STRICT)
class Safeguard:
    """daily_budget: most ε that SafeGuard's counts of one collector may cost a household on a day;
    a batch that would cost more is refused. day_s: length of a day, other than 86400 in a lab only.
    """

    daily_budget: Annotated[float, Field(gt=0, le=100)] = 1.0
    day_s: Annotated[int, Field(ge=1, le=86_400)] = 86_400


@dataclass(config=STRICT)
class Config:
    """Everything an aggregator needs to know."""

    tls: Tls
    server: Server = field(default_factory=Server)
    engine: Engine = field(default_factory=Engine)
    metrics: Metrics = field(default_factory=Metrics)
    areas: Annotated[
        dict[AreaName, Annotated[tuple[Prefix, ...], Field(min_length=1, max_length=10_000)]],
        Field(max_length=10_000),
    ] = field(default_factory=dict)
    attribution: Attribution = field(default_factory=Attribution)
    limits: Limits = field(default_factory=Limits)
    audit: Audit = field(default_factory=Audit)
    retention: Retention | None = None
    safeguard: Safeguard = field(default_factory=Safeguard)

    def networks(self) -> dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
        """Areas with their prefixes parsed."""
        return {
            name: [ipaddress.ip_network(text) for text in prefixes]
            for name, prefixes in self.areas.items()
        }


_ADAPTER: Final = TypeAdapter(Config)


def load(path: Path) -> Config:
    """Read and check a configuration file; raises ConfigError with all its problems."""
    return parse(settings.read(path, "make one with `tallyhold appliance init`"), path)


def parse(data: dict[str, Any], path: Path) -> Config:
    """Check TOML that is already read; `path` names it in errors."""
    config = settings.check(_ADAPTER, data, path)
    problems = _missing_files(config) + _overlaps(config)
    if problems:
        raise ConfigError(path, problems)
    return config


def dump(config: Config) -> dict[str, Any]:
    """The effective settings, defaults included, as plain values."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def _missing_files(config: Config) -> list[str]:
    files = {f"tls.{name}": getattr(config.tls, name) for name in ("ca", "cert", "key", "crl")}
    files["retention.config"] = config.retention.config if config.retention else None
    if config.engine.kind == "server":
        files["engine.password_file"] = config.engine.password_file
        files["engine.ca"] = config.engine.ca
    return [
        f"{key}: no such file {path}"
        for key, path in files.items()
        if path is not None and not path.is_file()
    ]


def _overlaps(config: Config) -> list[str]:
    """One prefix in two areas; a longer prefix inside another area's is a refinement."""
    owner: dict[str, str] = {}
    problems = []
    for name, prefixes in config.areas.items():
        for prefix in prefixes:
            if owner.setdefault(prefix, name) != name:
                problems.append(f"areas.{name}: {prefix} is also in areas.{owner[prefix]}")
    return problems
