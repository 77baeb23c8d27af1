"""A folder of the suite in, a `Case` out: its settings, its expected records and its traffic."""

from __future__ import annotations

import importlib
import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from collector.replay import ReplayConfig, prefix_of
from collector.track.ports import Ports
from collector.wire.addr import pack

FOLDER: Final = Path(__file__).parent
ACCESS: Final = ("100.64.0.0/10", "2001:db8:64::/48")
CLASSES: Final = {"call": ("call",), "session": ("session", "binding")}
"""Record classes that are compared, by the first word of a case's name."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator of a case configured; keys of `case.toml`.

    access, trusted: prefixes. linger_s: time that passes after the last frame. radius_secrets:
    shared secret by NAS address; none of them is anybody's. radius_swapped: NASes whose input is
    what they send to the line. lines: subscriber by line.
    """

    access: tuple[str, ...] = ACCESS
    trusted: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    sip_ports: tuple[int, ...] = (5060, 5061)
    radius_ports: tuple[int, ...] = (1812, 1813, 3799)
    radius_secrets: tuple[tuple[str, str], ...] = ()
    radius_swapped: tuple[str, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    region: str = "GB"
    ipv6_prefix_len: int = 64
    window_s: int = 300
    linger_s: int = 100

    @classmethod
    def of(cls, data: dict[str, Any]) -> Settings:
        """Raises TypeError for a key that is no setting."""
        values: dict[str, Any] = {}
        for name, value in data.items():
            pairs = value.items() if isinstance(value, dict) else value
            values[name] = tuple(pairs) if isinstance(value, dict | list) else value
        return cls(**values)

    def ports(self) -> Ports:
        return Ports(sip=self.sip_ports, radius=self.radius_ports)

    def replay(self) -> ReplayConfig:
        """The same as a replay takes them."""
        return ReplayConfig(
            ports=self.ports(),
            secrets={pack(nas): secret.encode() for nas, secret in self.radius_secrets},
            access=tuple(map(prefix_of, self.access)),
            trusted=tuple(map(prefix_of, self.trusted)),
            region=self.region,
            ipv6_prefix_len=self.ipv6_prefix_len,
            window_s=self.window_s,
            linger_s=self.linger_s,
            lines=dict(self.lines),
            swapped=frozenset(self.radius_swapped),
        )


_KNOWN: Final = {field.name for field in fields(Settings)}


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the suite; `title` is the first line of its README."""

    name: str
    title: str
    settings: Settings

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.settings.classes or CLASSES[self.name.partition("_")[0]]

    @property
    def traffic(self) -> ModuleType:
        return importlib.import_module(f"tests.scenarios.{self.name}.traffic")

    @property
    def is_played(self) -> bool:
        """Whether real programs make the traffic, which then takes time and root."""
        return hasattr(self.traffic, "play")

    def expected(self) -> list[dict[str, Any]]:
        text = (self.folder / "expected.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def frames(self) -> list[tuple[int, bytes]]:
        """(time in ns, Ethernet frame) in order of time."""
        found: list[tuple[int, bytes]] = self.traffic.frames()
        assert found == sorted(found, key=lambda each: each[0]), f"{self.name}: not in order"
        return found


def load(name: str) -> Case:
    """Raises OSError where there is no such case, ValueError for a wrong `case.toml`."""
    folder = FOLDER / name
    title = (folder / "README.md").read_text().partition("\n")[0].lstrip("# ")
    path = folder / "case.toml"
    data = tomllib.loads(path.read_text()) if path.exists() else {}
    if unknown := set(data) - _KNOWN:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))}: no such setting")
    return Case(name, title, Settings.of(data))


def names() -> list[str]:
    """Every case of the suite."""
    return sorted(
        path.parent.name
        for path in FOLDER.glob("*/expected.jsonl")
        if path.parent.name.partition("_")[0] in CLASSES
    )
