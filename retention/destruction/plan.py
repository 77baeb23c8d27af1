"""Partitions, policy, holds and the time in, one decision for each place out. Pure.

What a dry run prints is the `Plan` that a run carries out. Only `approve` makes the `Approved`
without which the store destroys nothing.

A live partition is closed for writing at retain-until and open for destruction a day later; ingest
must have known for `SETTLE_US` that it is closed. The vault's partition is rebuilt when a hold
that kept rows there ended; while live rows of the place are left, they go first, so that a place
has one home at a time and the audit log's counts of live and vault never mix.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from retention.destruction.book import Book, Closure
from retention.model import GRACE_US, NEVER, OPEN_US, Hold, Partition, Place, Purge, Step, StoreName
from retention.policy.model import Policy
from retention.policy.partitions import first_open, retain_until
from retention.vault.port import Approved, LateSlot

SETTLE_US: Final = 15 * 60 * 1_000_000
"""From telling ingest that a partition is closed until no insert into it can be under way: ingest
asks again after 60 s, and an insert that hangs is given up within minutes."""
CAP: Final = 40
"""Partitions of one run: a week's. More at once is a new policy or a wrong clock, worth a look."""

_DESTROYED: Final = frozenset({Step.DROPPED, Step.PENDING, Step.FINAL})


class Action(StrEnum):
    """What is done with a place."""

    KEEP = "keep"
    PRESERVE = "preserve"  # rows that holds match go to the vault, the others are destroyed
    DROP = "drop"
    REBUILD = "rebuild"  # the vault's partition, without rows that no hold matches any more


@dataclass(frozen=True, slots=True)
class Decision:
    """One place of one store: what happens to it, why, and the instants that decide.

    opens_us: destroyed from then on. due_us: destroyed by then at the latest. holds: ids of those
    that protect and meet it.
    """

    partition: Partition
    store: StoreName
    action: Action
    reason: str
    retain_until_us: int
    opens_us: int
    due_us: int
    holds: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return self.partition.place

    @property
    def destroys(self) -> bool:
        return self.action is not Action.KEEP


@dataclass(frozen=True, slots=True)
class Plan:
    """All places, oldest first, as of `now_us`; `generation` is the holds' that it knows."""

    now_us: int
    trusted: bool
    policy: str
    generation: int
    decisions: tuple[Decision, ...]

    @property
    def due(self) -> tuple[Decision, ...]:
        """What is to be destroyed."""
        return tuple(each for each in self.decisions if each.destroys)

    def cap(self, most: int) -> Plan:
        """The same, with only the oldest `most` places to be destroyed."""
        left, kept = most, list[Decision]()
        for each in self.decisions:
            if each.destroys and left <= 0:
                each = replace(each, action=Action.KEEP, reason=f"beyond the cap of {most} places")
            left -= each.destroys
            kept.append(each)
        return replace(self, decisions=tuple(kept))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the register knows beyond holds and purges: the vault's books and what is closed.

    closed: by class; None where ingest is not told, so nothing is waited for (tests, reports).
    """

    books: Mapping[Place, Book] = field(default_factory=dict)
    closed: Mapping[str, Closure] | None = None
    generation: int = 0
    distrust: str = "it has not been confirmed"


def plan(
    partitions: Iterable[Partition],
    vaulted: Iterable[Partition],
    policy: Policy,
    holds: Sequence[Hold],
    purges: Sequence[Purge],
    now_us: int,
    trusted: bool,
    known: Knowledge | None = None,
) -> Plan:
    """Decide for every place. `holds`: all of them, ended ones too; `purges`: all of them."""
    known = known or Knowledge()
    view = _View(policy, {hold.id: hold for hold in holds}, purges, now_us, trusted, known)
    live = list(partitions)
    view.alive = {each.place for each in live}
    decisions = [view.live(each) for each in live] + [view.vault(each) for each in vaulted]
    decisions.sort(key=lambda each: (each.due_us, each.place, each.store))
    return Plan(now_us, trusted, policy.digest, known.generation, tuple(decisions))


class _View:
    """The arguments of `plan`, as the decision for one place needs them."""

    def __init__(
        self,
        policy: Policy,
        holds: Mapping[str, Hold],
        purges: Sequence[Purge],
        now_us: int,
        trusted: bool,
        known: Knowledge,
    ) -> None:
        self._policy, self._holds, self._known = policy, holds, known
        self._now_us, self._trusted = now_us, trusted
        self._unsettled = unsettled(purges)
        self._destroyed = {
            purge.partition.place: purge.id
            for purge in purges
            if purge.store == "live" and purge.step in _DESTROYED
        }
        self.alive: set[Place] = set()

    def live(self, partition: Partition) -> Decision:
        keep = self._keep(partition, "live")
        if keep.reason:
            return keep
        if keep.place in self._destroyed:
            # A restore. A second purge could not be told from one of the same rows.
            by = self._destroyed[keep.place]
            return replace(keep, reason=f"destroyed by {by}; what came back is swept as late rows")
        over = f"its period ended {iso(keep.retain_until_us)}"
        if keep.holds:
            count = f"{len(keep.holds)} hold{'s' * (len(keep.holds) != 1)}"
            reason = f"{over}; rows that {count} may match go to the vault, the rest is destroyed"
            return replace(keep, action=Action.PRESERVE, reason=reason)
        return replace(keep, action=Action.DROP, reason=f"{over}; no hold meets it")

    def vault(self, partition: Partition) -> Decision:
        keep = self._keep(partition, "vault")
        book = self._known.books.get(keep.place)
        ended = [] if book is None else self._ended(book)
        keep = replace(keep, due_us=ended[0][1] + GRACE_US if ended else NEVER)
        if keep.reason:
            return keep
        if book is None:
            # A copy that a purge made before it failed; the next purge of the place removes it.
            return replace(keep, reason="copied by a purge that did not finish")
        if not ended:
            names = f"{len(book.held)} hold{'s' * (len(book.held) != 1)}"
            return replace(keep, reason=f"{names} keep its rows")
        if keep.place in self.alive:
            return replace(keep, reason="its live partition is destroyed first")
        names = ", ".join(name for name, _ in ended[:3]) + (" and others" if ended[3:] else "")
        return replace(
            keep,
            action=Action.REBUILD,
            reason=f"{names} ended; rows that no other hold matches are destroyed",
        )

    def _keep(self, partition: Partition, store: StoreName) -> Decision:
        """The decision to keep a place, with what speaks for it, or no reason if nothing does."""
        name = partition.place.record_class
        meeting = tuple(
            sorted(
                each.id for each in self._holds.values() if each.protects and meets(each, partition)
            )
        )
        if name not in self._policy.periods():
            return Decision(
                partition, store, Action.KEEP, "the policy has no period for its class",
                0, 0, self._now_us, meeting,
            )  # fmt: skip
        until = retain_until(partition.place, self._policy.period(name))
        opens = until + OPEN_US
        closed, is_told = self._known.closed, True
        if closed is not None:
            told = closed[name].since(partition.place) if name in closed else None
            is_told = told is not None
            opens = max(opens, (self._now_us if told is None else told) + SETTLE_US)
        reason = ""
        if not self._trusted:
            reason = f"the clock is not trusted: {self._known.distrust}"
        elif self._unsettled:
            reason = f"purge {self._unsettled[0].id} has to be settled first"
        elif self._now_us < until:
            reason = f"its period ends {iso(until)}"
        elif self._now_us < opens:
            state = "closed" if is_told else "to be closed"
            reason = f"{state} for writing; open for destruction from {iso(opens)}"
        return Decision(
            partition, store, Action.KEEP, reason, until, opens, until + GRACE_US, meeting
        )

    def _ended(self, book: Book) -> list[tuple[str, int]]:
        """Holds with rows in the vault that protect no more, and since when, by that time."""
        gone = list[tuple[str, int]]()
        for name, rows in book.held.items():
            hold = self._holds.get(name)
            if rows and (hold is None or not hold.protects):
                gone.append((name, (hold.ended_us if hold else None) or self._now_us))
        return sorted(gone, key=lambda each: (each[1], each[0]))


def meets(hold: Hold, partition: Partition) -> bool:
    """Whether a hold can match a row of a partition."""
    return hold.meets(partition.place.record_class, partition.earliest_us, partition.latest_us)


def unsettled(purges: Iterable[Purge]) -> list[Purge]:
    """Purges of which it is not known whether they destroyed; nothing goes on before they are."""
    return [each for each in purges if each.step in (Step.INTENT, Step.PRESERVED)]


def approve(decision: Decision, purge: str, generation: int) -> Approved:
    """Leave to carry out a decision; raises ValueError for one that destroys nothing."""
    if not decision.destroys:
        raise ValueError("a place that is kept is not approved for destruction")
    if (decision.action is Action.REBUILD) != (decision.store == "vault"):
        raise ValueError("live partitions are dropped, the vault's are rebuilt")
    return Approved(purge, decision.place, decision.store, generation)


def approve_again(purge: Purge) -> Approved:
    """Leave to repeat what a purge had preserved for when it was cut off."""
    if purge.step is not Step.PRESERVED:
        raise ValueError("only a purge that has preserved can destroy")
    return Approved(purge.id, purge.partition.place, purge.store, purge.generation)


def returned(partitions: Iterable[Partition], purges: Iterable[Purge]) -> dict[Place, str]:
    """Live places that have rows though they were destroyed, each with the purge that did it."""
    destroyed = {
        each.partition.place: each.id
        for each in purges
        if each.store == "live" and each.step in _DESTROYED
    }
    places = (each.place for each in partitions)
    return {place: destroyed[place] for place in places if place in destroyed}


def approve_slot(slot: LateSlot, sweep: str, swept: Iterable[Place], generation: int) -> Approved:
    """Leave to drop a slot of late rows, each place of which has been swept; else ValueError."""
    if {each.place for each in slot.partitions} != set(swept):
        raise ValueError("a slot with rows that were not swept")
    return Approved(sweep, slot.place, "late", generation)


def late_reason(slot: LateSlot, policy: Policy, now_us: int, trusted: bool) -> str:
    """Why a slot of late rows is kept; "" if it can go.

    Its rows came too late for their partitions, so their periods are over, unless the policy was
    changed since to a longer one: then they wait here, unread, until that is over.
    """
    if not trusted:
        return "the clock is not trusted"
    for each in slot.partitions:
        if each.place.record_class not in policy.periods():
            return "the policy has no period for its class"
        until = retain_until(each.place, policy.period(each.place.record_class))
        if now_us < until:
            return f"the period of rows in it ends {iso(until)}"
    return ""


def closures(
    policy: Policy, purges: Iterable[Purge], told: Mapping[str, Closure], now_us: int
) -> dict[str, Closure]:
    """Per class what ingest has to take as closed, from what it was told before.

    A place that was destroyed never opens again, whatever a later policy says: rows in it would
    have to be destroyed a second time.
    """
    lowest = dict[str, int]()
    for purge in purges:
        place = purge.partition.place
        if purge.store == "live" and purge.step in _DESTROYED:
            lowest[place.record_class] = max(lowest.get(place.record_class, 0), place.number + 1)
    return {
        name: told.get(name, Closure()).moved(
            max(first_open(name, period, now_us), lowest.get(name, 0)), now_us, SETTLE_US
        )
        for name, period in policy.periods().items()
    }


def unavailable(hold: Hold, purges: Iterable[Purge]) -> tuple[str, ...]:
    """Ids of purges that have destroyed rows of places that the hold's scope meets, oldest first.

    Called under the register's lock when a hold is placed, it is what the hold came too late for.
    """
    found = sorted(
        (purge.dropped_us, purge.id)
        for purge in purges
        if purge.step in _DESTROYED and purge.destroyed and meets(hold, purge.partition)
    )
    return tuple(name for _, name in found)


def iso(at_us: int) -> str:
    """An instant for people: "2026-11-22T00:00:00Z"; with microseconds where it has them."""
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    return when.replace(tzinfo=None).isoformat() + "Z"
