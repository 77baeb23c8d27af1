"""What `gather` reads from the machine and the checks judge. None stands for "cannot be read"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.capture.nft_scan import Flowtable


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface that forwards; `role` is empty where the configuration does not name it.

    features: those that are on, as `ethtool -k` names them in the kernel's form. The counts are
    since the interface was made: packets and drops (errors included) both ways.
    """

    name: str
    role: str
    mtu: int
    driver: str
    features: frozenset[str]
    up: bool = True
    packets: int = 0
    drops: int = 0


@dataclass(frozen=True, slots=True)
class Conntrack:
    """sysctls: nf_conntrack_{acct,timestamp,events} by their last word. entries and max_entries
    of the table; refused: flows it had no room for; ended_early: those that made room for others.
    """

    sysctls: Mapping[str, int]
    entries: int
    max_entries: int
    refused: int
    ended_early: int


@dataclass(frozen=True, slots=True)
class Sets:
    """The counters' table. fill: (elements, size) by set; uncounted_bytes: what found one full;
    whole: the sets that have room for every address of their prefixes."""

    fill: Mapping[str, tuple[int, int]]
    uncounted_bytes: int
    whole: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Clock:
    """synchronised: by the kernel's own word (adjtimex); max_error_s: how far off it may be."""

    synchronised: bool
    max_error_s: float


@dataclass(frozen=True, slots=True)
class Disk:
    """The spool's folder: whether it is there, whether it can be written or made, the bytes in it,
    and those that its file system has left."""

    exists: bool
    writable: bool
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Bytes between two readings: layer-3 bytes of the access interfaces, and those counted.
    apart_s: time between the readings of the two, in which traffic went on."""

    seconds: float
    interface_bytes: int
    metered_bytes: int
    apart_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """What a running collector publishes: terms of the conservation equation by stage, gauges."""

    stages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All of them, of the network namespace and for the user that doctor runs in.

    capabilities: names of those that the process has among the two that a collector needs.
    expressions: what rules use, see `nft_scan`. sets: None where there is no table `inet tally`.
    """

    capabilities: frozenset[str]
    interfaces: tuple[Interface, ...]
    conntrack: Conntrack | None
    expressions: frozenset[str] | None
    flowtables: tuple[Flowtable, ...]
    sets: Sets | None
    clock: Clock | None
    rmem_max: int
    disk: Disk
    running: Running | None
    passed: Passed | None = None
