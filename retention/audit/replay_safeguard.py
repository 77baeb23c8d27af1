"""Replays the privacy ledger: what SafeGuard's releases told of a household-day at most.

A window is told of once, and its ε is what l0 cells on R routers cost under noise of its scale. The
windows of a day share the day's caps, so one of a marginal carries the charge and the rest carry 0.
A day's charges never come to more than the budget that was in force when its first window came: a
budget that is raised later helps no day that has begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from retention.audit.canonical import Leaf
from retention.audit.replay_holds import Wrong

MICRO: Final = 1_000_000
"""ε is in millionths."""
_OUTCOMES: Final = ("released", "silent")


@dataclass(slots=True)
class _Day:
    """One collector's household-day: what it may cost, and what it has cost."""

    budget: int
    spent: int = 0
    is_over: bool = False


@dataclass(slots=True)
class _Told:
    """Windows of one marginal in a day: their length, a bit for each, and what was charged."""

    length: int
    bits: int = 0
    charged: frozenset[str] = frozenset()
    """Mechanisms under which one of them carried the charge."""


class Releases:
    """What the log's `safeguard.*` leaves say; `wrong` takes rule and text of a finding.

    Memory grows with collectors and days, not with households, cells or windows.
    """

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self._budget = self._length = 0
        self._days: dict[tuple[str, int], _Day] = {}
        self._told: dict[tuple[str, str, int], _Told] = {}

    def step(self, leaf: Leaf) -> None:
        """Take the next `safeguard.budget` or `safeguard.window`."""
        if leaf["kind"] == "safeguard.budget":
            if not leaf["day"]:
                self._wrong("safeguard-budget", "a household-day of no length")
            elif self._length and leaf["day"] != self._length:
                self._wrong("safeguard-budget", "the household-day has another length than before")
            self._budget, self._length = leaf["budget"], leaf["day"] or self._length
        elif not self._length:
            self._wrong("safeguard-budget", "a release before any budget was stated")
        else:
            self._window(leaf)

    def notes(self) -> list[str]:
        """A day that is none is for a laboratory."""
        if self._length in (0, 86_400 * MICRO):
            return []
        return [f"SafeGuard's household-day is {self._length // MICRO} s and not a day"]

    def _window(self, leaf: Leaf) -> None:
        start, end, collector = leaf["start"], leaf["end"], leaf["collector"]
        number = start // self._length
        if not start < end <= (number + 1) * self._length or self._length % (end - start):
            self._wrong("safeguard-window", f"a window of {collector} that is no part of a day")
            return
        if leaf["outcome"] not in _OUTCOMES or leaf["delta"]:
            self._wrong("safeguard-window", "an outcome or a δ that there is not")
        told = self._told.setdefault((collector, leaf["marginal"], number), _Told(end - start))
        place = (start - number * self._length) // (end - start)
        if told.length != end - start or start % (end - start):
            self._wrong("safeguard-window", f"windows of {collector} that overlap")
            return
        if told.bits >> place & 1:
            self._wrong("safeguard-twice", f"a window of {leaf['marginal']} was told of twice")
        told.bits |= 1 << place
        self._charge(leaf, told, number)

    def _charge(self, leaf: Leaf, told: _Told, number: int) -> None:
        """Compare the stated ε with the parameters, and add it to the day's."""
        day = self._days.setdefault((leaf["collector"], number), _Day(self._budget))
        day.spent += leaf["epsilon"]
        if day.spent > day.budget and not day.is_over:
            day.is_over = True
            self._wrong("safeguard-overspent", f"a day of {leaf['collector']} cost too much")
        if leaf["outcome"] == "silent":
            if leaf["epsilon"] or leaf["rows"]:
                self._wrong("safeguard-charge", "a silent window that cost or told something")
            return
        due = charge(leaf)
        if not due or not leaf["rows"]:
            self._wrong("safeguard-charge", "a release without rows, cells, routers or scale")
        elif leaf["epsilon"] == due:
            told.charged |= {leaf["mechanism"]}
        elif leaf["epsilon"] or leaf["mechanism"] not in told.charged:
            self._wrong("safeguard-charge", f"ε is {leaf['epsilon']} and not l0·R/scale = {due}")


def charge(leaf: Leaf) -> int:
    """ε of a household-day by the parameters, in millionths, rounded up; 0 where there is none."""
    over = leaf["l0"] * leaf["routers"] * leaf["scale_den"] * MICRO
    return -(-over // leaf["scale_num"]) if leaf["scale_num"] else 0
