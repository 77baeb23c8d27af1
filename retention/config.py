"""A TOML file in, a frozen `Config` out, or every error at once with the path of its key."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from collector.wire import settings
from collector.wire.settings import STRICT, Endpoint, Prefix
from collector.wire.settings import ConfigError as ConfigError

DEFAULT_PATH: Final = Path("/etc/tallyhold/retention.toml")
DEFAULT_POLICY: Final = Path(__file__).with_name("policy.toml")
"""The policy that comes with the package; counsel signs a copy of it."""
DEFAULT_SOCKET: Final = Path("/run/tallyhold/retention.sock")
DAY_S: Final = 86_400


class Role(StrEnum):
    """What a person is for; what each may do is in `access.ACTIONS`."""

    OPERATIONS = "operations"
    BILLING = "billing"
    DEMAND = "demand"
    FAULTS = "faults"
    LEGAL_REQUESTER = "legal-requester"
    LEGAL_APPROVER = "legal-approver"
    DPO = "dpo"  # data protection officer, UK GDPR article 37
    AUDITOR = "auditor"


def _loopback(text: str) -> str:
    host, _, _ = settings.endpoint(text).rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError("this page has no access control: choose a loopback address")
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("give an absolute path")
    return path


def _mode(text: str) -> str:
    if int(text, 8) & 0o111:
        raise ValueError("a socket is not executed: write it as 0660 or 0600")
    if int(text, 8) & 0o006:
        raise ValueError("whoever may open the socket is let in by group: not for all others")
    return text


Loopback = Annotated[str, AfterValidator(_loopback)]
Folder = Annotated[Path, AfterValidator(_absolute)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
UserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Server = Annotated[
    str, Field(pattern=r"^(\[[0-9A-Fa-f:]{2,39}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}$")
]
AreaName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
Shard = Annotated[tuple[Server, ...], Field(min_length=1, max_length=16)]
Mode = Annotated[str, Field(pattern=r"^0?[0-7]{3}$"), AfterValidator(_mode)]


@dataclass(config=STRICT)
class Engine:
    """The appliance's own engine (`data`: its folder), or servers (`shards`, `user`, ...).

    shards: replicas of each shard as HOST:PORT; one shard of one server where there is no cluster.
    keeper: the user that may remove rows, which nothing but this service uses.
    """

    kind: Literal["bundled", "server"] = "bundled"
    data: Folder = Path("/var/lib/tallyhold/engine")
    shards: Annotated[tuple[Shard, ...], Field(max_length=256)] = ()
    user: UserName = "keeper"
    password_file: Path | None = None
    database: Identifier = "tallyhold"
    secure: bool = False
    ca: Path | None = None
    timeout_s: Annotated[float, Field(ge=1, le=3600)] = 300.0


@dataclass(config=STRICT)
class Tls:
    """The authority staff certificates come from, this server's pair, revoked ones."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


@dataclass(config=STRICT)
class Api:
    """Where people come in: a Unix socket always, HTTPS with client certificates where `listen`
    is set. group: of the socket; whoever is in no group of [access] is refused all the same."""

    socket: Folder = DEFAULT_SOCKET
    mode: Mode = "0660"
    group: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_.-]{0,63})?$")] = ""
    listen: Endpoint | None = None
    tls: Tls | None = None
    max_connections: Annotated[int, Field(ge=4, le=4096)] = 64
    request_timeout_s: Annotated[float, Field(ge=1, le=600)] = 90.0
    """Longest answer. A hold waits up to 60 s for a purge that is under way."""


@dataclass(config=STRICT)
class Access:
    """Groups of this machine to the roles of their members."""

    groups: Annotated[
        dict[GroupName, Annotated[tuple[Role, ...], Field(min_length=1)]], Field(max_length=64)
    ] = field(default_factory=dict)


@dataclass(config=STRICT)
class Schedule:
    """What is done by itself, and how often. destroy = false only plans, holds and reports.

    cap: partitions destroyed in one run at most, so that a wrong policy or clock is seen in time.
    """

    destroy: bool = True
    tick_s: Annotated[float, Field(ge=0.05, le=300)] = 15.0
    purge_every_s: Annotated[float, Field(ge=1, le=30 * DAY_S)] = 3600.0
    evidence_every_s: Annotated[float, Field(ge=1, le=31 * DAY_S)] = float(DAY_S)
    heartbeat_s: Annotated[float, Field(ge=1, le=DAY_S)] = 3600.0
    cap: Annotated[int, Field(ge=1, le=10_000)] = 64


@dataclass(config=STRICT)
class Clock:
    """max_ahead_days: how long the service may have been stopped; a clock that shows more is not
    believed until someone confirms it, and nothing is destroyed.
    require_sync: the same while the kernel does not say that the clock is synchronised."""

    max_ahead_days: Annotated[float, Field(gt=0, le=30)] = 7.0
    require_sync: bool = False


@dataclass(config=STRICT)
class Verify:
    """Where rows may lie outside of the engine, looked into before a certificate is final.

    folders: spools and dead letters on this machine. backups: the inventory of backups, if any.
    """

    folders: Annotated[tuple[Folder, ...], Field(max_length=64)] = ()
    backups: Folder | None = None


@dataclass(config=STRICT)
class Holds:
    """shared: addresses that several subscribers have at once (carrier-grade NAT). A hold on one
    of them without a port range needs `all_sharers` and the data protection officer."""

    shared: Annotated[tuple[Prefix, ...], Field(max_length=10_000)] = ()


@dataclass(config=STRICT)
class Lookup:
    """Who had an address and port at a time: what answers have to know beside the records.

    deterministic: file of the versions of deterministic NAT (RFC 7422), all there ever were.
    shared: public addresses that several subscribers have at once; those are asked with a port.
    clock_error_s: how far the clocks of collectors and devices may be off. window_s: until an open
    flow is told again. settle_s: until an interim update makes good a lost accounting message.
    """

    deterministic: Path | None = None
    shared: Annotated[tuple[Prefix, ...], Field(max_length=10_000)] = ()
    clock_error_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    window_s: Annotated[float, Field(ge=1, le=DAY_S)] = 300.0
    settle_s: Annotated[float, Field(ge=0, le=DAY_S)] = 3600.0


@dataclass(config=STRICT)
class Faults:
    """areas: names to the NAS that serve them, by which outages are told by area."""

    areas: Annotated[
        dict[AreaName, Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)]],
        Field(max_length=10_000),
    ] = field(default_factory=dict)


@dataclass(config=STRICT)
class Safeguard:
    """The privacy ledger: every so many seconds its new rows become leaves of the audit log.

    budget_micro: millionths of ε that a household-day may cost, which the log's readers compare
    with what it did cost. day_s: length of the household-day; another than a day's is for tests.
    """

    budget_micro: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    day_s: Annotated[int, Field(ge=1, le=DAY_S)] = DAY_S
    every_s: Annotated[float, Field(ge=0.05, le=DAY_S)] = 300.0


@dataclass(config=STRICT)
class Metrics:
    """Where Prometheus scrapes."""

    listen: Loopback = "127.0.0.1:9466"


@dataclass(config=STRICT)
class Config:
    """Everything the retention service needs to know.

    folder: register, keys and certificates; log: the audit log, `folder`/audit where not given.
    origin: the audit log's name for its readers and witnesses; it never changes once the log is
    there. policy: the retention policy, the packaged one where not given.
    """

    folder: Folder = Path("/var/lib/tallyhold/retention")
    log: Folder | None = None
    origin: Annotated[str, Field(pattern=r"^[\x21-\x2a\x2c-\x7e]{1,200}$")] = "tallyhold/retention"
    policy: Folder = DEFAULT_POLICY
    engine: Engine = field(default_factory=Engine)
    api: Api = field(default_factory=Api)
    access: Access = field(default_factory=Access)
    schedule: Schedule = field(default_factory=Schedule)
    clock: Clock = field(default_factory=Clock)
    verify: Verify = field(default_factory=Verify)
    holds: Holds = field(default_factory=Holds)
    lookup: Lookup = field(default_factory=Lookup)
    faults: Faults = field(default_factory=Faults)
    safeguard: Safeguard = field(default_factory=Safeguard)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def log_folder(self) -> Path:
        """The audit log; a copy of it is what `tallyhold audit verify` takes."""
        return self.log or self.folder / "audit"


_ADAPTER: Final = TypeAdapter(Config)


def load(path: Path) -> Config:
    """Read and check a configuration file; raises ConfigError with all its problems."""
    return parse(settings.read(path, "make one with `tallyhold appliance init`"), path)


def parse(data: dict[str, Any], path: Path) -> Config:
    """Check TOML that is already read; `path` names it in errors."""
    config = settings.check(_ADAPTER, data, path)
    problems = _missing_files(config) + _contradictions(config)
    if problems:
        raise ConfigError(path, problems)
    return config


def dump(config: Config) -> dict[str, Any]:
    """The effective settings, defaults included, as plain values without nulls (as in TOML)."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json", exclude_none=True)
    return plain


def hints(config: Config) -> list[str]:
    """What is allowed and yet probably not meant; for `check-config`."""
    found = []
    given = {role for roles in config.access.groups.values() for role in roles}
    if config.api.listen is None:
        for role in (Role.LEGAL_REQUESTER, Role.DPO, Role.OPERATIONS):
            if role not in given:
                found.append(f"access.groups: nobody is given the role {role}")
        if Role.LEGAL_APPROVER not in given and Role.DPO not in given:
            found.append("access.groups: nobody could approve a hold; it lapses after 72 hours")
    if config.policy == DEFAULT_POLICY:
        found.append("policy: the packaged default; have counsel sign a copy and name that")
    if not config.schedule.destroy:
        found.append("schedule.destroy: false, so records stay beyond their period")
    return found


def _missing_files(config: Config) -> list[str]:
    files: dict[str, Path | None] = {"policy": config.policy}
    files["lookup.deterministic"] = config.lookup.deterministic
    if config.api.tls is not None:
        tls = config.api.tls
        files |= {f"api.tls.{name}": getattr(tls, name) for name in ("ca", "cert", "key", "crl")}
    if config.engine.kind == "server":
        files["engine.password_file"] = config.engine.password_file
        files["engine.ca"] = config.engine.ca
    return [
        f"{key}: no such file {path}"
        for key, path in files.items()
        if path is not None and not path.is_file()
    ]


def _contradictions(config: Config) -> list[str]:
    engine, api = config.engine, config.api
    problems = []
    if engine.kind == "server" and not engine.shards:
        problems.append('engine.shards: missing; write [["host:9000"]] for one server')
    if engine.kind == "bundled" and engine.shards:
        problems.append('engine.shards: only with engine.kind = "server"')
    seen: set[str] = set()
    for shard in engine.shards:
        for server in shard:
            if int(server.rpartition(":")[2]) > 65_535:
                problems.append(f"engine.shards: {server} has no such port")
            if server in seen:
                problems.append(f"engine.shards: {server} stands there twice")
            seen.add(server)
    if (api.listen is None) != (api.tls is None):
        problems.append("api: listen and [api.tls] belong together; give both or neither")
    if config.schedule.tick_s > min(config.schedule.purge_every_s, 300):
        problems.append("schedule.tick_s: longer than schedule.purge_every_s")
    return problems
