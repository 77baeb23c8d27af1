"""Replays destruction: intent, preservation, drop and certificate; and that nothing stays too long.

What a hold protects is known from two counts made apart: the hold's evidence before the purge, and
the purge's own. A purge that keeps fewer rows than the evidence states destroyed held ones.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from retention.audit.canonical import Leaf
from retention.audit.replay_holds import DAY_US, Holds, Place, Wrong

OPEN_US: Final = DAY_US
"""From retain-until to the first instant at which destruction may begin."""
GRACE_US: Final = 31 * DAY_US
"""From the end of the period, or of the last hold, to the latest destruction."""
OUTCOME_US: Final = DAY_US
"""From an intent to its outcome, and from a drop to its certificate, pending at least."""


@dataclass
class Purge:
    """One purge as the leaves so far have it."""

    intent: Leaf
    preserved: Leaf | None = None
    dropped: Leaf | None = None
    certified: bool = False
    failed: bool = False


@dataclass
class Vault:
    """Rows kept of one partition past its period."""

    rows: int = 0
    held: dict[str, int] = field(default_factory=dict)
    """Hold to its rows; holds that ended stay until the vault is rebuilt without them."""


class Purges:
    """All partitions, purges and vault contents."""

    def __init__(self, wrong: Wrong, holds: Holds) -> None:
        self._wrong, self._holds = wrong, holds
        self._partitions: dict[Place, Leaf] = {}
        self._purges: dict[str, Purge] = {}
        self._vault: dict[Place, Vault] = {}
        self._gone: set[Place] = set()  # destroyed where rows live; what is held is in the vault
        self._dropped: set[str] = set()
        self._policy = ""
        self._periods: dict[str, tuple[int, int]] = {}

    def underway(self) -> bool:
        """Whether a purge is between what it preserved and its outcome."""
        return any(p.preserved and not p.dropped and not p.failed for p in self._purges.values())

    def dropped_ids(self) -> set[str]:
        """Purges that destroyed."""
        return self._dropped

    def kept_for(self, place: Place, hold: str) -> int | None:
        """Rows in the vault for a hold, or None where the partition was never purged."""
        return self._vault[place].held.get(hold, 0) if place in self._gone else None

    def step(self, leaf: Leaf, policy: str, periods: dict[str, tuple[int, int]]) -> None:
        """Take one leaf of kind purge.*, late.swept or partition.seen."""
        self._policy, self._periods = policy, periods
        kind = leaf["kind"]
        if kind == "partition.seen":
            self._seen(leaf)
        elif kind == "late.swept":
            self._swept(leaf)
        elif kind == "purge.intent":
            self._intent(leaf)
        elif leaf["purge"] not in self._purges:
            self._wrong("intent", f"{kind} without an intent before it")
        else:
            _HANDLERS[kind](self, self._purges[leaf["purge"]], leaf)

    def finish(self, at: int) -> None:
        """Say what is owed when the log ends at this time."""
        for name, purge in self._purges.items():
            if purge.dropped:
                if not purge.certified and at > purge.dropped["at"] + OUTCOME_US:
                    self._wrong("certificate", f"no certificate follows the drop of purge {name}")
            elif not purge.failed and at > purge.intent["at"] + OUTCOME_US:
                self._wrong("outcome", f"no outcome follows the intent of purge {name}")
        for place, leaf in self._partitions.items():
            if place not in self._gone and at > leaf["retain_until"] + GRACE_US:
                self._wrong("kept-too-long", f"{place[0]} {place[1]} is past its period")
        for place in self._vault:
            self._overdue(place, at)

    def _seen(self, leaf: Leaf) -> None:
        if leaf["policy"] != self._policy:
            self._wrong("policy", "a partition's period comes from a policy not in force")
        months, days = self._periods.get(leaf["class"], (-1, 0))
        if months < 0:
            self._wrong("policy", "a partition of a class without a period")
        elif not leaf["start"] < leaf["end"] or leaf["earliest"] > leaf["start"]:
            self._wrong("policy", "a partition that ends before it starts, or starts too early")
        else:
            first, last = (_after(leaf[side], months, days) for side in ("start", "end"))
            if not first <= leaf["retain_until"] <= last:
                self._wrong("policy", "a partition's retain-until is not the policy's")
        self._partitions[leaf["class"], leaf["partition"]] = leaf

    def _intent(self, leaf: Leaf) -> None:
        place = (leaf["class"], leaf["partition"])
        if leaf["purge"] in self._purges:
            self._wrong("intent", "two intents for one purge")
        self._at_generation(leaf)
        if leaf["policy"] != self._policy:
            self._wrong("policy", "an intent under a policy that is not in force")
        seen = self._partitions.get(place)
        if seen is None:
            self._wrong("intent", "an intent for a partition the log has not seen")
        elif any(leaf[name] != seen[name] for name in _SAME):
            self._wrong("intent", "an intent that has the partition otherwise than it was seen")
        if leaf["store"] == "live" and leaf["at"] < leaf["retain_until"] + OPEN_US:
            self._wrong("too-early", "an intent before the partition was open for destruction")
        if leaf["store"] == "vault" and place not in self._vault:
            self._wrong("intent", "an intent for the vault, which holds nothing of the partition")
        if leaf["store"] == "live" and place in self._gone:
            self._wrong("intent", "a partition to be destroyed a second time")
        self._purges[leaf["purge"]] = Purge(leaf)
        meeting = self._holds.meeting(leaf["class"], leaf["earliest"], leaf["end"])
        if leaf["holds"] != len(meeting):
            self._wrong("holds", f"an intent that sees {leaf['holds']} holds of {len(meeting)}")
        for name, hold in meeting.items():
            if place not in hold.evidence:
                self._wrong("evidence", f"hold {name} was not counted before the purge")

    def _preserved(self, purge: Purge, leaf: Leaf) -> None:
        if purge.failed or purge.dropped:
            self._wrong("intent", "preserved for a purge that was over")
        self._at_generation(leaf)
        place = (purge.intent["class"], purge.intent["partition"])
        self._keeps(purge.intent, leaf["rows"], leaf["holds"])
        vault = self._vault.get(place)
        self._keeps_evidence(purge.intent, leaf["holds"], vault or Vault())
        if purge.intent["store"] == "vault" and vault and leaf["rows_before"] != vault.rows:
            self._wrong("counts", "the vault has other rows than were put there")
        purge.preserved = leaf

    def _dropped_leaf(self, purge: Purge, leaf: Leaf) -> None:
        intent, kept = purge.intent, purge.preserved
        if purge.failed or purge.dropped:
            self._wrong("intent", "dropped by a purge that was over")
        self._at_generation(leaf)
        if intent["generation"] != self._holds.generation:
            self._wrong("generation", "dropped on an intent of another hold generation")
        purge.dropped = leaf
        self._dropped.add(leaf["purge"])
        if kept is None:
            self._wrong("preserve-first", "dropped before anything was preserved")
            return
        if kept["generation"] != leaf["generation"]:
            self._wrong("generation", "dropped after the holds changed since the preservation")
        if kept["rows_before"] != kept["rows"] + leaf["rows"]:
            self._wrong("counts", "rows before are not those preserved and destroyed")
        place = (intent["class"], intent["partition"])
        if intent["store"] == "live":
            if leaf["at"] > intent["retain_until"] + GRACE_US:
                self._wrong("kept-too-long", "dropped later than 31 days after retain-until")
            self._gone.add(place)
        else:
            self._overdue(place, leaf["at"])
            self._vault[place] = Vault()
        self._put(place, kept["rows"], kept["holds"])

    def _certificate(self, purge: Purge, leaf: Leaf) -> None:
        kept, dropped = purge.preserved, purge.dropped
        if dropped is None or kept is None:
            self._wrong("certificate", "a certificate without a destruction")
            return
        stated = [leaf[name] for name in _CERTIFIED]
        real = [kept["rows_before"], kept["rows"], dropped["rows"], dropped["generation"]]
        if stated != real or leaf["policy"] != purge.intent["policy"]:
            self._wrong("certificate", "a certificate that states another purge than was logged")
        if leaf["holds"] != kept["holds"]:
            self._wrong("certificate", "a certificate with other held roots than were preserved")
        purge.certified = True

    def _failed(self, purge: Purge, _: Leaf) -> None:
        if purge.dropped:
            self._wrong("outcome", "a purge that failed after it had destroyed")
        purge.failed = True

    def _swept(self, leaf: Leaf) -> None:
        place = (leaf["class"], leaf["partition"])
        self._at_generation(leaf)
        self._keeps(leaf, leaf["preserved"], leaf["holds"])
        if leaf["rows_before"] != leaf["preserved"] + leaf["destroyed"]:
            self._wrong("counts", "late rows before are not those preserved and destroyed")
        if leaf["preserved"]:
            self._put(place, leaf["preserved"], leaf["holds"])

    def _keeps(self, span: Leaf, rows: int, held: list[Leaf]) -> None:
        """Check that what is preserved is preserved for holds that are there, in sane numbers."""
        meeting = self._holds.meeting(span["class"], span["earliest"], span["end"])
        names = {item["hold"] for item in held}
        if len(names) != len(held) or not names <= meeting.keys():
            self._wrong("holds", "rows preserved for a hold twice, or for one that protects none")
        most = max((item["rows"] for item in held), default=0)
        if not most <= rows <= sum(item["rows"] for item in held):
            self._wrong("counts", "rows preserved are fewer than a hold's, or more than all holds'")

    def _keeps_evidence(self, intent: Leaf, held: list[Leaf], vault: Vault) -> None:
        """Check that a purge preserves at least what each hold's evidence states.

        Late rows can be in the vault before the partition is destroyed; evidence counts them too.
        """
        kept = {item["hold"]: item for item in held}
        meeting = self._holds.meeting(intent["class"], intent["earliest"], intent["end"])
        for name, hold in meeting.items():
            had, root = hold.evidence.get((intent["class"], intent["partition"]), (0, ""))
            there = vault.held.get(name, 0) if intent["store"] == "live" else 0
            has = there + (kept[name]["rows"] if name in kept else 0)
            if has < had:
                self._wrong("held-destroyed", f"hold {name}: {had} rows held, {has} preserved")
            elif has == had > 0 == there and kept[name]["root"] != root:
                self._wrong("held-changed", f"hold {name}: other rows preserved than were held")

    def _put(self, place: Place, rows: int, held: list[Leaf]) -> None:
        vault = self._vault.setdefault(place, Vault())
        vault.rows += rows
        for item in held:
            vault.held[item["hold"]] = vault.held.get(item["hold"], 0) + item["rows"]

    def _overdue(self, place: Place, at: int) -> None:
        """Rows whose hold ended must leave the vault within the grace."""
        for name, rows in self._vault.get(place, Vault()).held.items():
            ended = self._holds.all[name].ended if name in self._holds.all else None
            if rows and ended is not None and at > ended + GRACE_US:
                self._wrong("kept-too-long", f"{place[0]} {place[1]}: hold {name} has ended")

    def _at_generation(self, leaf: Leaf) -> None:
        if leaf["generation"] != self._holds.generation:
            self._wrong("generation", f"{leaf['kind']} at an old hold generation")


def _after(at_us: int, months: int, days: int) -> int:
    """The instant so many calendar months and days later, UTC; a day that is not is the last."""
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    years, month = divmod(when.month - 1 + min(months, 1200), 12)  # a century: more is a slip
    year = when.year + years
    day = min(when.day, calendar.monthrange(year, month + 1)[1])
    moved = when.replace(year=year, month=month + 1, day=day)
    return at_us + ((moved - when).days + days) * DAY_US


_SAME: Final = ("start", "end", "earliest", "retain_until")
_CERTIFIED: Final = ("rows_before", "preserved", "destroyed", "generation")

_HANDLERS: Final[dict[str, Callable[[Purges, Purge, Leaf], None]]] = {
    "purge.preserved": Purges._preserved,
    "purge.dropped": Purges._dropped_leaf,
    "purge.certificate-pending": Purges._certificate,
    "purge.certificate-final": Purges._certificate,
    "purge.failed": Purges._failed,
}
