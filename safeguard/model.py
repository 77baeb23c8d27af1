"""What the tables hold of SafeGuard: releases, each an entry of the ledger with its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from collector.wire.releases import RELEASED, charge_micro, mechanism_id, release_id

_SAME: Final = ("collector", "marginal", "l0", "routers", "restarts", "rows", "outcome")
Cell = tuple[str, str]
"""Region and category; "" where the marginal has none."""


@dataclass(frozen=True, slots=True)
class Release:
    """One window of one marginal of one collector; times in microseconds UTC, half-open."""

    release: bytes
    mechanism: bytes
    collector: str
    marginal: str
    start_us: int
    end_us: int
    l0: int
    routers: int
    scale: Fraction
    epsilon_micro: int
    restarts: int
    rows: int
    outcome: str
    counts: Mapping[Cell, int] = field(default_factory=dict)

    @property
    def is_released(self) -> bool:
        return self.outcome == RELEASED

    @property
    def charge_micro(self) -> int:
        """What all windows of a day cost a household under these parameters, in millionths."""
        return charge_micro(self.l0, self.routers, self.scale)

    def own_id(self) -> bytes:
        """The id that the entry has to have by what it says."""
        start_ns = self.start_us * 1000
        return release_id(self.collector, self.mechanism, self.marginal, start_ns, self.outcome)

    def leaf(self) -> dict[str, Any]:
        """The fields that the audit log's `safeguard.window` has to have of it."""
        same = {name: getattr(self, name) for name in _SAME}
        return same | {
            "release": self.release.hex(),
            "mechanism": self.mechanism.hex(),
            "start": self.start_us,
            "end": self.end_us,
            "scale_num": self.scale.numerator,
            "scale_den": self.scale.denominator,
            "epsilon": self.epsilon_micro,
            "delta": 0,
        }

    def own_mechanism(self) -> bytes:
        """The mechanism's id by the parameters and the cells that there are."""
        return mechanism_id(self.marginal, self.l0, self.routers, self.scale, self.counts)


def of_document(document: Mapping[str, Any], entry: Mapping[str, Any]) -> Release:
    """An entry of a report's ledger, without counts."""
    mechanism = document["mechanisms"][entry["mechanism"]]
    same = {name: entry[name] for name in ("collector", "epsilon_micro", "restarts", "rows")}
    return Release(
        release=bytes.fromhex(entry["release"]),
        mechanism=bytes.fromhex(entry["mechanism"]),
        marginal=mechanism["marginal"],
        start_us=entry["start"],
        end_us=entry["end"],
        l0=mechanism["l0"],
        routers=mechanism["routers"],
        scale=Fraction(*mechanism["scale"]),
        outcome=entry["outcome"],
        **same,
    )
