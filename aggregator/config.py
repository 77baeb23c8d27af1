"""A TOML file in, a frozen `Config` out, or every error at once with the path of its key."""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

DEFAULT_PATH: Final = Path("/etc/tallyhold/aggregator.toml")
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` has one line for each error found."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{path}: {len(problems)} problem(s)\n{lines}")
        self.problems = problems


def _hosted(text: str) -> str:
    host, _, port = text.rpartition(":")
    ipaddress.ip_address(host.strip("[]"))
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("write it as ADDRESS:PORT, e.g. 0.0.0.0:8443 or [::]:8443")
    return text


def _loopback(text: str) -> str:
    host, _, _ = _hosted(text).rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError("this page has no access control: choose a loopback address")
    return text


def _prefix(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("give an absolute path")
    return path


Hosted = Annotated[str, AfterValidator(_hosted)]
Loopback = Annotated[str, AfterValidator(_loopback)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Folder = Annotated[Path, AfterValidator(_absolute)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
AreaName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]


@dataclass(config=_STRICT)
class Server:
    """Where collectors come in. `url` is what they are told, for messages and certificates."""

    listen: Hosted = "0.0.0.0:8443"
    url: Annotated[str, Field(pattern=r"^(https://[^/\s]+)?$")] = ""


@dataclass(config=_STRICT)
class Tls:
    """The authority collectors' certificates come from, this server's pair, revoked ones."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


@dataclass(config=_STRICT)
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


@dataclass(config=_STRICT)
class Metrics:
    """Where Prometheus scrapes."""

    listen: Loopback = "127.0.0.1:9465"


@dataclass(config=_STRICT)
class Attribution:
    """tolerance_s: how far a row may reach past its binding. history_days: bindings in memory."""

    tolerance_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    history_days: Annotated[int, Field(ge=1, le=400)] = 35


@dataclass(config=_STRICT)
class Audit:
    """Where look-ups of identified records are recorded; the folder of whoever asks."""

    folder: Folder = Path("/var/lib/tallyhold/audit")


@dataclass(config=_STRICT)
class Limits:
    """How much to bear at once, and how far clocks may differ. demand_lines: fewest lines of an
    area whose number is stored."""

    max_uploads: Annotated[int, Field(ge=1, le=256)] = 8
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = 2048
    upload_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 600.0
    idle_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 75.0
    clock_skew_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    demand_lines: Annotated[int, Field(ge=2, le=10_000)] = 10


@dataclass(config=_STRICT)
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

    def networks(self) -> dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
        """Areas with their prefixes parsed."""
        return {
            name: [ipaddress.ip_network(text) for text in prefixes]
            for name, prefixes in self.areas.items()
        }


_ADAPTER: Final = TypeAdapter(Config)


def load(path: Path) -> Config:
    """Read and check a configuration file; raises ConfigError with all its problems."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            path, ["no such file; make one with `tallyhold appliance init`"]
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, [str(error)]) from None
    return parse(data, path)


def parse(data: dict[str, Any], path: Path) -> Config:
    """Check TOML that is already read; `path` names it in errors."""
    try:
        config = _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise ConfigError(path, [_line(each) for each in error.errors()]) from None
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


def _line(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown key"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
