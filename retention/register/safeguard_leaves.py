"""Builds the leaves of the privacy ledger from the rows of `safeguard_ledger`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from retention.audit.canonical import Leaf

SAME: Final = ("marginal", "l0", "routers", "scale_num", "scale_den", "restarts", "rows", "outcome")
"""Columns whose names and values the leaf has too."""


def safeguard_budget(budget_micro: int, day_us: int) -> Leaf:
    """Say what a household-day may cost, in millionths of ε, and how long it is."""
    return {"kind": "safeguard.budget", "budget": budget_micro, "day": day_us}


def safeguard_window(entry: Mapping[str, Any]) -> Leaf:
    """Say what one window told at most; `entry` is its row. δ is 0: nothing is left to chance."""
    return {
        "kind": "safeguard.window",
        "release": entry["release"].hex(),
        "collector": entry["collector"],
        "mechanism": entry["mechanism"].hex(),
        "start": entry["start_us"],
        "end": entry["end_us"],
        "epsilon": entry["epsilon_micro"],
        "delta": 0,
        **{name: entry[name] for name in SAME},
    }
