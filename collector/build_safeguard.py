"""`[safeguard]` of the configuration into the settings of its parts, and what cannot work in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from collector.config import Config, Safeguard
from collector.track.ranges import Ranges
from collector.track.safeguard.domain import SafeguardConfig, marginals, pool_size
from collector.track.safeguard.targets import Target, Targets
from collector.wire.addr import pack
from collector.wire.releases import KEPT_DAY, MICRO

SECOND_NS: Final = 1_000_000_000
_DAY_S: Final = 86_400
MAX_PAGES: Final = 128
"""Addresses of block pages: the capture filter tests them one by one, and jumps 255 at most."""


def safeguard_config(config: Config) -> SafeguardConfig | None:
    """The public domain and its noise; None where nothing is counted. Raises ValueError."""
    guard = config.safeguard
    if guard is None:
        return None
    return SafeguardConfig(
        collector=config.name,
        region=guard.region,
        regions=guard.regions,
        categories=tuple(guard.categories),
        l0=dict(guard.l0),
        epsilon_micro={name: round(each * MICRO) for name, each in guard.epsilon.items()},
        budget_micro=round(guard.daily_budget * MICRO),
        routers=guard.routers,
        max_households=guard.max_households,
        hour_ns=guard.hour_s * SECOND_NS,
        hours=guard.hours,
    )


def targets(config: Config) -> Targets | None:
    """Where block answers lead, by category; None where nothing is counted. Raises ValueError."""
    guard = config.safeguard
    if guard is None:
        return None
    found = []
    for given in guard.categories.values():
        addresses = tuple(pack(each) for each in given if _is_address(each))
        names = tuple(each for each in given if not _is_address(each))
        found.append(Target(names, addresses))
    return Targets(found, [pack(each) for each in guard.pages])


def safeguard_problems(config: Config) -> list[str]:
    """Everything that would keep SafeGuard from counting as it promises, by key."""
    guard = config.safeguard
    if guard is None:
        return []
    found = [*_domain_problems(guard), *_target_problems(config, guard)]
    if not found:
        try:
            made = safeguard_config(config)
            assert made is not None
            marginals(made, pool_size(config.access.networks(), config.access.ipv6_prefix_len))
        except ValueError as error:
            found.append(f"safeguard: {error}")
    return found


def _domain_problems(guard: Safeguard) -> Iterator[str]:
    if guard.region not in guard.regions:
        yield "safeguard.region: it is not one of regions"
    if len(set(guard.regions)) != len(guard.regions):
        yield "safeguard.regions: a region is there twice"
    if guard.l0[KEPT_DAY] != 1:
        yield f"safeguard.l0.{KEPT_DAY}: must be 1, as a household is in one of its two cells"
    spent = sum(guard.epsilon.values())
    if round(spent * MICRO) > round(guard.daily_budget * MICRO):
        yield f"safeguard.epsilon: together {spent:g}, more than daily_budget"
    if _DAY_S % (guard.hour_s * guard.hours):
        yield "safeguard.hours: hours of hour_s seconds must divide a day"


def _target_problems(config: Config, guard: Safeguard) -> Iterator[str]:
    given = [each for some in guard.categories.values() for each in some]
    pages = [*guard.pages, *filter(_is_address, given)]
    if not pages:
        yield (
            "safeguard.pages: give the addresses of the block pages: what connects to them must not"
            " become a visit"
        )
    if len(pages) > MAX_PAGES:
        yield f"safeguard.pages: {len(pages)} addresses with those of categories, of {MAX_PAGES}"
    access = Ranges(config.access.networks())
    for page in pages:
        if pack(page) in access:
            yield f"safeguard: the block page {page} lies in access.prefixes: it would be a line's"
    try:
        targets(config)
    except ValueError as error:
        yield f"safeguard.categories: {error}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
