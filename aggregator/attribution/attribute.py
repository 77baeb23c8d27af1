"""Rows with an address and an interval in, a subscriber or a reason for each row out.

A row belongs to a subscriber when the binding history leaves no other answer. Where two
subscribers held the address within one row, the row stays unattributed: a bill is never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aggregator.attribution.bindings import BindingIndex

DEFAULT_TOLERANCE_US: Final = 500_000
"""How far a row may reach past its binding: the collector reads a counter some milliseconds
after the accounting message that it splits at."""

_DOMINANCE: Final = 4
"""A neighbour's share within the tolerance is slop only while it is at most a quarter of the
holder's own share; two short bindings side by side stay ambiguous."""

CERTAIN: Final = ""
BOUNDED: Final = "bounded"
NO_BINDING: Final = "no-binding"
SEVERAL_BINDINGS: Final = "several-bindings"
NO_SUBSCRIBER: Final = "no-subscriber"


def attribute_row(
    index: BindingIndex,
    collector: str,
    address: bytes,
    prefix_len: int,
    start_us: int,
    end_us: int,
    tolerance_us: int = DEFAULT_TOLERANCE_US,
) -> tuple[str, str]:
    """(subscriber, reason) of one row over [start, end).

    reason is CERTAIN where the binding covers the row, BOUNDED where the row reaches past the
    only binding it meets, and NO_BINDING, SEVERAL_BINDINGS or NO_SUBSCRIBER with an empty
    subscriber, the last where the address was held on a line that nobody says whose it is.
    """
    end_us = max(end_us, start_us + 1)
    holders = index.holders(
        collector, address, prefix_len, start_us - tolerance_us, end_us + tolerance_us
    )
    if not holders:
        return "", NO_BINDING
    shares: dict[str, int] = {}
    for each in holders:
        overlap = min(end_us, each.valid_to_us) - max(start_us, each.valid_from_us)
        shares[each.subscriber] = shares.get(each.subscriber, 0) + max(0, overlap)
    subscriber = max(shares, key=lambda name: (shares[name], name))
    own = shares[subscriber]
    others = sum(shares.values()) - own
    if own == 0:
        # Only neighbours: the whole row must lie within the tolerance of a single one.
        near = [
            each
            for each in holders
            if each.valid_from_us - tolerance_us <= start_us
            and end_us <= each.valid_to_us + tolerance_us
        ]
        if len({each.subscriber for each in near}) == 1:
            name = near[0].subscriber
            return name, BOUNDED if name else NO_SUBSCRIBER
        return "", NO_BINDING if not near else SEVERAL_BINDINGS
    if others > tolerance_us or others * _DOMINANCE > own:
        return "", SEVERAL_BINDINGS
    if not subscriber:
        return "", NO_SUBSCRIBER
    uncovered = (end_us - start_us) - own
    return subscriber, CERTAIN if uncovered <= tolerance_us else BOUNDED


def attribute(
    index: BindingIndex,
    collector: str,
    address: Sequence[bytes],
    prefix_len: Sequence[int],
    start_us: Sequence[int],
    end_us: Sequence[int],
    tolerance_us: int = DEFAULT_TOLERANCE_US,
) -> tuple[list[str], list[str]]:
    """Columns of subscribers and of reasons, one entry for each row; see `attribute_row`."""
    subscribers: list[str] = []
    reasons: list[str] = []
    for row in zip(address, prefix_len, start_us, end_us, strict=True):
        subscriber, reason = attribute_row(index, collector, *row, tolerance_us=tolerance_us)
        subscribers.append(subscriber)
        reasons.append(reason)
    return subscribers, reasons
