"""The public domain of SafeGuard: a configuration in, marginals with their noise and charge out.

Everything here is known before the first packet: which cells are released, how many of them one
household can change, the scale of the noise and what a day of it costs. A row's presence, its
order and its size follow from here and from the clock, never from what was blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Final, NamedTuple

from collector.track.safeguard.calendar import DAY_NS, HOUR_NS, HOURS
from collector.wire.addr import MAPPED, network
from collector.wire.releases import (
    CATEGORY_HOUR,
    KEPT,
    KEPT_DAY,
    MARGINALS,
    MAX_CATEGORIES,
    MAX_REGIONS,
    MICRO,
    REGION_CATEGORY_DAY,
    charge_micro,
    is_name,
    mechanism_id,
)

DEFAULT_L0: Final[Mapping[str, int]] = {CATEGORY_HOUR: 8, REGION_CATEGORY_DAY: 3, KEPT_DAY: 1}
"""Cells a household may count in, a day. Error is clipping plus noise, and the noise of each cell
grows with the cap: the least of both together is near the 90th percentile of what households do.
Of the households that meet a block in a day most do so in one to three categories, within a few
hours (a device repeats a refused look-up for hours): eight hours-with-category and three
categories hold nine of ten (docs/safeguard-utility.md). kept-day shows whether that is so for an
operator's own; it is 1 by construction, as a household is in exactly one of the two cells."""
DEFAULT_EPSILON_MICRO: Final[Mapping[str, int]] = {
    CATEGORY_HOUR: 500_000,
    REGION_CATEGORY_DAY: 400_000,
    KEPT_DAY: 100_000,
}
"""The day's budget of 1 in millionths. Half goes where the counts are smallest (an hour's), a tenth
to the kept-ratio, which is about all households together and bears a scale of 10."""

MAX_L0: Final = 64
"""Above that the noise drowns every count, and a household's record in memory grows."""
MAX_ROUTERS: Final = 1000
MAX_HOUSEHOLDS: Final = 10_000_000
"""A record and a tag take about 150 bytes together."""
MIN_SCALE: Final = Fraction(1, 16)
MAX_SCALE: Final = Fraction(4096)
"""The sampler's table has 89 entries for each unit of scale: 25 MB at this one."""
_GRAIN: Final = 1000
"""Scales are whole thousandths, rounded up: exact in two 32-bit numbers, never below the claim."""


class Blocked(NamedTuple):
    """A subscriber was told by the resolver that a name is blocked.

    client: the address that asked, 16 bytes. category: index into the configured categories.
    Without the name on purpose; never journalled, logged or counted by itself.
    """

    ts_ns: int
    client: bytes
    category: int

    def __repr__(self) -> str:
        """Nobody's address and no category where an error shows what it was about."""
        return f"Blocked(ts_ns={self.ts_ns})"


@dataclass(frozen=True, slots=True)
class SafeguardConfig:
    """One router's part of the statistics.

    collector: its name. region: where its households are, one of `regions`. categories: in the
    order of `Blocked.category`. l0: by marginal, see DEFAULT_L0. epsilon_micro: millionths of ε
    that each marginal may cost a household-day, at most `budget_micro` together. routers: on how
    many routers one household may be counted in a day (R); its charge is R-fold. hour_ns and hours:
    a day that is shorter, for a lab.
    """

    collector: str
    region: str
    regions: tuple[str, ...]
    categories: tuple[str, ...]
    l0: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_L0))
    epsilon_micro: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_EPSILON_MICRO))
    budget_micro: int = MICRO
    routers: int = 1
    max_households: int = 1_000_000
    hour_ns: int = HOUR_NS
    hours: int = HOURS

    @property
    def day_ns(self) -> int:
        return self.hour_ns * self.hours

    def __post_init__(self) -> None:
        _check_names("categories", self.categories, MAX_CATEGORIES)
        _check_names("regions", self.regions, MAX_REGIONS)
        if self.region not in self.regions:
            raise ValueError("region is not one of regions")
        for name, values in (("l0", self.l0), ("epsilon_micro", self.epsilon_micro)):
            if set(values) != set(MARGINALS):
                raise ValueError(f"{name} must name each of {', '.join(MARGINALS)}")
        if not all(1 <= each <= MAX_L0 for each in self.l0.values()) or self.l0[KEPT_DAY] != 1:
            raise ValueError(f"l0 must be 1 to {MAX_L0}, and 1 for {KEPT_DAY}")
        if min(self.epsilon_micro.values()) < 1:
            raise ValueError("epsilon_micro must be at least 1")
        if sum(self.epsilon_micro.values()) > self.budget_micro:
            raise ValueError("epsilon_micro of the marginals is more than budget_micro")
        if not 1 <= self.routers <= MAX_ROUTERS:
            raise ValueError(f"routers must be 1 to {MAX_ROUTERS}")
        if not 1 <= self.max_households <= MAX_HOUSEHOLDS:
            raise ValueError(f"max_households must be 1 to {MAX_HOUSEHOLDS}")
        if not (0 < self.hour_ns <= HOUR_NS and 0 < self.hours <= HOURS) or DAY_NS % self.day_ns:
            raise ValueError("hours of a day must be at most 24 of an hour, and divide a day")


@dataclass(frozen=True, slots=True)
class Marginal:
    """One released table.

    cap: cells a household may count in, a day. l0: cells that one household more or less can
    change by one (see `displacement`). scale: of the noise. epsilon_micro: what a household-day
    is charged, all windows of the day together. mechanism: id of all these parameters. cells:
    (region, category) of the rows of each window, in order; "" where the marginal has none.
    """

    name: str
    cap: int
    l0: int
    scale: Fraction
    epsilon_micro: int
    routers: int
    mechanism: bytes
    cells: tuple[tuple[str, str], ...]


def marginals(config: SafeguardConfig, pool: int) -> tuple[Marginal, ...]:
    """The marginals of a router in the order of MARGINALS.

    `pool` is how many households its access prefixes can hold, see `pool_size`. Raises ValueError
    where the noise would be out of the sampler's range.
    """
    return tuple(_marginal(config, name, displacement(config, pool)) for name in MARGINALS)


def displacement(config: SafeguardConfig, pool: int) -> int:
    """How many households one more can change: 2 where the table can be full, else 1.

    In a full table the newcomer keeps out the household that would have been the last to enter,
    so its cells change too. Whether that can happen is a public fact, and so is the charge: it
    depends on the access prefixes and not on who came.
    """
    return 1 if pool <= config.max_households else 2


def pool_size(access: Iterable[tuple[bytes, int]], ipv6_prefix_len: int) -> int:
    """Most households of access prefixes, each (base of 16 bytes, length in 128 bits), those that
    lie in others counted once."""
    total = 0
    wider: tuple[bytes, int] | None = None
    for base, length in sorted(access):  # a wider prefix stands right before what lies in it
        if wider and network(base, wider[1]) == wider[0] and length >= wider[1]:
            continue
        wider = base, length
        is_ipv4 = base[:12] == MAPPED and length >= 96
        total += 1 << max((128 if is_ipv4 else ipv6_prefix_len) - length, 0)
    return total


def _marginal(config: SafeguardConfig, name: str, households: int) -> Marginal:
    cap = min(config.l0[name], _most_cells(config, name))
    l0 = cap * households
    charged = l0 * config.routers * MICRO
    scale = Fraction(ceil(Fraction(charged * _GRAIN, config.epsilon_micro[name])), _GRAIN)
    if not MIN_SCALE <= scale <= MAX_SCALE:
        limits = f"{float(MIN_SCALE)} to {int(MAX_SCALE)}"
        raise ValueError(f"{name}: l0 and epsilon_micro ask for a scale that is not {limits}")
    cells = _cells(config, name)
    return Marginal(
        name=name,
        cap=cap,
        l0=l0,
        scale=scale,
        epsilon_micro=charge_micro(l0, config.routers, scale),
        routers=config.routers,
        mechanism=mechanism_id(name, l0, config.routers, scale, cells),
        cells=cells,
    )


def _cells(config: SafeguardConfig, name: str) -> tuple[tuple[str, str], ...]:
    """A router's households are all of its region, so its other regions have no cells with it: a
    cell that is zero by configuration says nothing, and its noise would be added for each router.
    """
    if name == KEPT_DAY:
        return tuple(("", each) for each in KEPT)
    region = config.region if name == REGION_CATEGORY_DAY else ""
    return tuple((region, category) for category in config.categories)


def _most_cells(config: SafeguardConfig, name: str) -> int:
    """A cap above the number of cells would add noise for nothing."""
    hours = config.hours if name == CATEGORY_HOUR else 1
    return 1 if name == KEPT_DAY else hours * len(config.categories)


def _check_names(what: str, names: tuple[str, ...], most: int) -> None:
    if not 1 <= len(names) <= most or len(set(names)) != len(names):
        raise ValueError(f"{what} must be 1 to {most} different names")
    if not all(map(is_name, names)):
        raise ValueError(f"{what}: a name has 1 to 63 letters, digits, spaces or _-")
