"""Replays what is where: periods in force, partitions that were seen, and what the vault keeps.

A partition must be gone 31 days after its retain-until. A policy that comes later moves that day:
a longer period to the new retain-until, a shorter one to 31 days from its loading at the earliest,
and never past the day that held before.
"""

from __future__ import annotations

import calendar
import datetime as dt
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from retention.audit.canonical import Leaf
from retention.audit.replay_holds import DAY_US, Holds, Place, Wrong

GRACE_US: Final = 31 * DAY_US
"""From the end of the period, or of the last hold, to the latest destruction."""
_SPAN: Final = ("start", "end", "earliest", "latest", "retain_until")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Period(NamedTuple):
    """Calendar months and then days, and the time at which the policy with them was loaded."""

    months: int
    days: int
    since: int
    before: tuple[int, int] | None
    """Months and days of the policy before, if they were others."""


@dataclass
class Partition:
    """A partition as it was last seen."""

    seen: tuple[int, ...]
    """start, end, earliest, latest and retain_until as the leaf has them."""
    until: int
    """retain_until under the policy in force."""
    deadline: int
    """Time by which it must be gone where rows live."""


@dataclass
class Vault:
    """Rows kept of one partition past its period.

    Between two rebuilds rows can come twice, as versions of one record, so their number is known
    as a range.
    """

    least: int = 0
    most: int = 0
    since: int = 0
    """Hold generation at which the first of them were put there."""
    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Hold to least and most rows; one that ended stays until the vault is rebuilt without it."""

    def put(self, rows: int, held: list[Leaf], generation: int) -> None:
        """Add what a purge or a sweep preserved."""
        self.since = self.since if self.most else generation
        self.least, self.most = max(self.least, rows), self.most + rows
        for item in held:
            least, most = self.held.get(item["hold"], (0, 0))
            self.held[item["hold"]] = (max(least, item["rows"]), most + item["rows"])


class Places:
    """All partitions of all classes, live and in the vault."""

    def __init__(self, wrong: Wrong, holds: Holds) -> None:
        self._wrong, self._holds = wrong, holds
        self.policy = ""
        self._periods: dict[str, Period] = {}
        self._known: dict[Place, Partition] = {}
        self._gone: set[Place] = set()  # destroyed where rows live; what is held is in the vault
        self._back: dict[Place, int] = {}  # destroyed, and there again, with so many rows
        self.vault: dict[Place, Vault] = {}

    def load(self, leaf: Leaf) -> None:
        """Take a policy.loaded."""
        self.policy, old = leaf["digest"], self._periods
        self._periods = {}
        for stated in leaf["periods"]:
            name, months, days = stated["class"], stated["months"], stated["days"]
            was = old.get(name)
            if name in self._periods:
                self._wrong("policy", "a policy names a class twice")
            new = Period(months, days, leaf["at"], was[:2] if was else None)
            self._periods[name] = was if was and was[:2] == new[:2] else new
        lost = {place[0] for place in self._known if place not in self._gone} - self._periods.keys()
        for name in sorted(lost):
            self._wrong("policy", f"a policy without a period for {name}, which has partitions")
        for place, known in self._known.items():
            if place[0] in self._periods:
                self._move(known, self.until(place[0], known.seen[1]), leaf["at"])

    def until(self, record_class: str, end: int) -> int:
        """Retain-until of a partition with this end; 0 for a class without a period."""
        period = self._periods.get(record_class)
        return after(end - DAY_US, *period[:2]) if period else 0

    def was_closed(self, leaf: Leaf) -> bool:
        """Whether late rows of a partition may go: its period is over, or was a day ago.

        Rows that came late under one policy can be swept minutes after a longer one was loaded.
        """
        name, at = leaf["class"], leaf["at"]
        period = self._periods.get(name)
        if period is None or at >= self.until(name, leaf["end"]):
            return period is not None
        recent = period.before is not None and at <= period.since + DAY_US
        return recent and at >= after(leaf["end"] - DAY_US, *(period.before or (0, 0)))

    def see(self, leaf: Leaf) -> None:
        """Take a partition.seen."""
        place, until = (leaf["class"], leaf["partition"]), leaf["retain_until"]
        if leaf["policy"] != self.policy:
            self._wrong("policy", "a partition's period comes from a policy not in force")
        if leaf["class"] not in self._periods:
            self._wrong("policy", "a partition of a class without a period")
        elif until != self.until(leaf["class"], leaf["end"]):
            self._wrong("policy", "a partition's retain-until is not the policy's")
        if days(leaf["partition"]) != (leaf["start"], leaf["end"]):
            self._wrong("partition", "a partition whose days are not those of its name")
        if leaf["earliest"] > leaf["start"] or leaf["latest"] < leaf["end"]:
            self._wrong("partition", "a partition that covers less than its days")
        known, span = self._known.get(place), tuple(leaf[name] for name in _SPAN)
        if known is None:
            period = self._periods.get(leaf["class"])
            deadline = max(until, period.since if period else 0) + GRACE_US
            self._known[place] = Partition(span, until, deadline)
            return
        known.seen, known.until = span, until

    def last_seen(self, place: Place) -> Partition | None:
        """The partition as last seen."""
        return self._known.get(place)

    def is_seen(self, leaf: Leaf, known: Partition) -> bool:
        """Whether an intent has the partition as it was last seen."""
        return known.seen == tuple(leaf[name] for name in _SPAN)

    def is_gone(self, place: Place) -> bool:
        """Whether it was destroyed where rows live: then it never opens again."""
        return place in self._gone

    def in_vault(self, place: Place) -> bool:
        """Whether the vault has rows of it."""
        return place in self.vault and self.vault[place].most > 0

    def kept_for(self, place: Place, hold: str) -> int | None:
        """Rows at least in the vault for a hold, or None where the partition was never purged."""
        if place not in self._gone:
            return None
        return self.vault.get(place, Vault()).held.get(hold, (0, 0))[0]

    def drop(self, place: Place, at: int) -> None:
        """Take the destruction of a live partition."""
        known = self._known.get(place)
        if known and at > known.deadline:
            self._wrong("kept-too-long", "dropped later than 31 days after retain-until")
        self._gone.add(place)

    def come_back(self, leaf: Leaf) -> None:
        """Take rows of a destroyed partition that a restore brought back."""
        place = (leaf["class"], leaf["partition"])
        if place not in self._gone:
            self._wrong("restored", "rows came back of a partition that was not destroyed")
        self._back[place] = leaf["rows"]

    def go_again(self, place: Place, rows: int) -> None:
        """Take the sweep of rows, which has to be of all that came back of their partition."""
        if self._back.pop(place, rows) != rows:
            self._wrong("restored", "other rows were swept than had come back")

    def overdue(self, place: Place, at: int) -> None:
        """Rows whose hold ended must leave the vault within the grace."""
        known, vault = self._known.get(place), self.vault.get(place, Vault())
        until = known.until if known else 0
        for name, (_, rows) in vault.held.items():
            hold = self._holds.all.get(name)
            if not rows or hold is None or hold.ended is None:
                continue
            late = at > max(hold.freed, until) + GRACE_US
            if late and not self._holds.covers(place, vault.most):
                self._wrong("kept-too-long", f"{place[0]} {place[1]}: hold {name} has ended")

    def finish(self, at: int) -> None:
        """Say what is owed when the log ends at this time."""
        for place, known in self._known.items():
            if place not in self._gone and at > known.deadline:
                self._wrong("kept-too-long", f"{place[0]} {place[1]} is past its period")
        for name, number in self._back:
            self._wrong("restored", f"{name} {number} came back and was not destroyed again")
        for place in self.vault:
            self.overdue(place, at)

    def _move(self, known: Partition, until: int, at: int) -> None:
        """Apply another policy's period to a partition."""
        if until > known.until:
            known.deadline = max(known.deadline, until + GRACE_US)
        elif until < known.until:
            known.deadline = min(known.deadline, max(until, at) + GRACE_US)
        known.until = until


def days(name: str) -> tuple[int, int] | None:
    """First instant and end of the day or month a partition is named after; None for no such."""
    try:
        day = dt.datetime.strptime(name + "01" * (len(name) == 6), "%Y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    length = calendar.monthrange(day.year, day.month)[1] if len(name) == 6 else 1
    start = (day - _EPOCH).days * DAY_US
    return (start, start + length * DAY_US) if len(name) in (6, 8) else None


def after(at_us: int, months: int, days: int) -> int:
    """The instant so many calendar months and days later, UTC; a day that is not is the last."""
    when = _EPOCH + dt.timedelta(microseconds=at_us)
    years, month = divmod(when.month - 1 + min(months, 1200), 12)  # a century: more is a slip
    year = when.year + years
    day = min(when.day, calendar.monthrange(year, month + 1)[1])
    moved = when.replace(year=year, month=month + 1, day=day)
    return at_us + ((moved - when).days + days) * DAY_US
