"""A hold in, the same hold with what binding history leads it to, and its leaves, out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from aggregator.store.errors import StoreError
from retention.holds import resolve, state
from retention.holds.columns import ALL_PORTS
from retention.holds.errors import HoldRefused, ScopeError
from retention.holds.needles import Prefix
from retention.holds.parts import Store, missed
from retention.holds.resolve import NOTHING, Histories, compact
from retention.model import Hold, Kind, Purge, ScopeItem, State
from retention.register import leaves

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 8
"""Address to mapping to inside address to binding to subscriber to sessions to their other slices
is the longest way; each is one question."""


def read(store: Store, hold: Hold, now_us: int) -> Histories:
    """The rows that resolving the hold needs. Raises StoreError, and HoldRefused "too-wide"."""
    found: Histories = NOTHING
    asked: tuple[ScopeItem, ...] = ()
    for _ in range(MAX_ROUNDS):
        probes = resolve.probes(hold, found, now_us)
        if set(probes) <= set(asked):
            return found
        asked = probes
        found = _ask(store, probes)
    raise HoldRefused("too-wide", "the scope leads on and on through binding history; narrow it")


def items(hold: Hold, found: Histories, now_us: int) -> tuple[ScopeItem, ...]:
    """New items of the hold. Raises HoldRefused "too-wide"."""
    if not hold.resolve:
        return ()
    return resolve.expand(hold, found["binding"], found["mapping"], found["session"], now_us)


def first(
    store: Store, hold: Hold, prefixes: tuple[Prefix, ...], now_us: int
) -> tuple[Histories | None, tuple[ScopeItem, ...]]:
    """History and new items of a hold to be; (None, ()) if the store does not answer.

    A hold protects first: without the store it is placed as the order has it. Raises ScopeError
    for an address that several subscribers share, HoldRefused "too-wide".
    """
    if not hold.all_sharers:
        item = shared(store, hold.scope, prefixes)
        if item:
            raise ScopeError(
                f"identifier {hold.scope.index(item) + 1} is an address that several subscribers"
                " share: name the port and the time, or ask for all sharers, which takes the data"
                " protection officer's approval"
            )
    try:
        found = read(store, hold, now_us)
    except StoreError:
        log.warning("a hold is placed unresolved: the store does not answer; it is asked again")
        return None, ()
    return found, items(hold, found, now_us)


def grown(
    hold: Hold,
    new: Sequence[ScopeItem],
    purges: Iterable[Purge],
    generation: int,
    commit: Callable[[str], str],
    *,
    first: bool = False,
) -> tuple[Hold, list[dict[str, Any]]]:
    """The hold with new items, settled against what purges had destroyed; the leaves that tell it.

    generation: the one the leaves begin after. first: the whole scope is new, not these alone.
    """
    told = list(leaves.hold_grown(hold.id, new, generation, commit))
    arrived = [*hold.scope, *new] if first else list(new)
    gone = tuple(name for name in missed(arrived, purges) if name not in hold.unavailable)
    before = hold.state
    hold = state.settle(replace(hold, scope=compact((*hold.scope, *new))), gone)
    if gone:
        told += leaves.hold_unavailable(replace(hold, unavailable=gone), generation + len(told))
    if hold.state is State.PRESERVED and before is not State.PRESERVED:
        told.append(leaves.hold_preserved(hold, generation + len(told)))
    return hold, told


def shared(
    store: Store, scope: Sequence[ScopeItem], prefixes: tuple[Prefix, ...]
) -> ScopeItem | None:
    """The first item that stands for all sharers of an address; None for none.

    Where the store does not answer, the configured prefixes alone decide: a hold protects first.
    """
    addresses = [item for item in scope if item.kind is Kind.ADDRESS and item.ports == ALL_PORTS]
    for item in addresses:
        if resolve.is_shared(item, prefixes, NOTHING["mapping"]):
            return item
    try:
        mappings = _ask(store, addresses)["mapping"]
    except StoreError:
        return None
    return next((item for item in addresses if resolve.is_shared(item, (), mappings)), None)


def _ask(store: Store, probes: Sequence[ScopeItem]) -> Histories:
    if not probes:
        return NOTHING
    try:
        found = store.history(probes)
        return {name: found.get(name) or NOTHING[name] for name in NOTHING}
    except StoreError:
        raise
    except RuntimeError as error:
        # The vault's own limit on rows, whose type stands beside this layer.
        if getattr(error, "code", None) != "too-many":
            raise
        raise HoldRefused(
            "too-wide",
            "too many records name what the scope names; place several holds for parts of the time",
        ) from None
