"""What every part of destruction works with, and the register's notes as the parts know them."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from retention.audit.canonical import Leaf
from retention.destruction.book import CLOSED_KEY, Book, Closure, parse_closed, widened
from retention.destruction.plan import SETTLE_US, Decision, Knowledge, Plan, meets, plan
from retention.model import Hold, Partition, Place, Purge, StoreName
from retention.policy.model import Policy
from retention.register import leaves as build
from retention.register.clock import MARK, ClockGuard
from retention.register.store import Register
from retention.vault.port import Salt, Vault

log = logging.getLogger(__name__)

SWEEP_KEY: Final = "sweep"
"""Note of the slot of late rows that is being swept; there is one at a time."""
LIVE: Final[tuple[StoreName, ...]] = ("live",)
VAULT: Final[tuple[StoreName, ...]] = ("vault",)
BOTH: Final[tuple[StoreName, ...]] = ("live", "vault")
BATCH: Final = 100
"""Leaves of one write; the log takes 256, and a write of the register is one transaction."""


class Unsettled(RuntimeError):
    """A purge or a sweep has no outcome yet; nothing is destroyed before it has one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it has to be; it is told to people, and never put right silently.

    code: for metrics and tests. It names places, holds and purges, and no identifier.
    """

    code: str
    place: Place
    text: str
    hold: str = ""


@dataclass(frozen=True)
class Context:
    """The parts that destruction is built on.

    policy: gives the one in force, which the log knows (`policy.loaded`). person: the commitment
    of a member of staff (`CommitmentStore.person`).
    """

    register: Register
    vault: Vault
    guard: ClockGuard
    policy: Callable[[], Policy]
    person: Callable[[str], str]

    def now_us(self) -> int:
        """The clock for display, µs since 1970: never earlier than the log's last leaf."""
        return self.register.now() // 1000

    def believed_us(self) -> int:
        """The time that decides and that leaves have: the latest that the guard has believed.

        It is at most a second old after `guard.check()`. Never the clock itself, which can jump
        between the guard's look and ours: that would decide what is due, or stand in the log.
        """
        mark = self.register.note(MARK)
        return min(int(mark), self.now_us()) if mark else self.now_us()

    def write(
        self,
        *,
        purges: Sequence[Purge] = (),
        notes: Mapping[str, str | None] | None = None,
        leaves: Sequence[Leaf] = (),
    ) -> None:
        """Write to register and log; leaves that name no time are of the time that is believed."""
        stamped = [{"at": self.believed_us()} | leaf for leaf in leaves]
        self.register.write(purges=purges, notes=notes, leaves=stamped)

    @property
    def salt(self) -> Salt:
        """Salts of row digests: by hold and place, so that no two roots can be compared."""
        return salts(self.register.secret)

    def book(self, place: Place) -> Book | None:
        """What the log knows to be in the vault's partition; None if nothing ever was."""
        return Book.parse(self.register.note(Book.key(place)))

    def closed(self) -> dict[str, Closure]:
        """What ingest was told."""
        return parse_closed(self.register.note(CLOSED_KEY))

    def meeting(self, partition: Partition) -> list[Hold]:
        """Holds that protect and can match a row of a partition."""
        return [hold for hold in self.register.protecting() if meets(hold, partition)]

    def spanned(self, partition: Partition) -> Partition:
        """A partition with all that the log has said it covers."""
        place = partition.place
        return widened(partition, self.register.seen().get(place), self.book(place))

    def listed(self) -> tuple[list[Partition], list[Partition]]:
        """Live and vaulted partitions of the store, with all that they cover."""
        seen = self.register.seen()
        live = [widened(each, seen.get(each.place)) for each in self.vault.partitions()]
        vaulted = [
            widened(each, seen.get(each.place), self.book(each.place))
            for each in self.vault.vaulted()
        ]
        return live, vaulted

    def decide(self, live: Sequence[Partition], vaulted: Sequence[Partition]) -> Plan:
        """The plan for these partitions as of now, by what the register knows."""
        trust = self.guard.check()
        books = {each.place: self.book(each.place) for each in vaulted}
        known = Knowledge(
            {place: book for place, book in books.items() if book is not None},
            self.closed(),
            self.register.generation,
            trust.reason,
        )
        return plan(
            live,
            vaulted,
            self.policy(),
            self.register.holds(),
            self.register.purges(),
            self.believed_us(),
            trust.trusted,
            known,
        )

    def again(self, decision: Decision) -> Decision:
        """A decision taken anew: holds, clock and policy may have changed since the plan."""
        partition = self.spanned(decision.partition)
        if decision.store == "live":
            return self.decide([partition], []).decisions[0]
        alive = [partition] if self.vault.count(decision.place, "live") else []
        found = self.decide(alive, [partition]).decisions
        return next(each for each in found if each.store == "vault")

    def frozen(self, decision: Decision) -> bool:
        """Whether no row can come to a live place any more."""
        told = self.closed().get(decision.place.record_class, Closure()).since(decision.place)
        now_us = self.believed_us()
        return (
            told is not None and told + SETTLE_US <= now_us and decision.retain_until_us <= now_us
        )

    def seen_leaves(self, decisions: Iterable[Decision]) -> list[Leaf]:
        """`partition.seen` for each place that the log does not know as it is now.

        What an open partition covers changes with every batch; that is told once it is closed.
        """
        seen, policy, now_us = self.register.seen(), self.policy(), self.believed_us()
        found = list[Leaf]()
        for each in decisions:
            fields = build.partition_seen(each.partition, each.retain_until_us, policy.digest)
            known = seen.get(each.place)
            compared = ["retain_until"]
            if now_us >= each.retain_until_us:
                compared += ["earliest", "latest"]
            if known is None or any(known[name] != fields[name] for name in compared):
                found.append(fields)
        return found

    def write_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Write leaves that change nothing else, in as many transactions as it takes."""
        for at in range(0, len(leaves), BATCH):
            self.write(leaves=leaves[at : at + BATCH])


def salts(secret: bytes) -> Salt:
    """HMAC-SHA256 of hold and place under the register's secret."""

    def salt(hold: str, place: Place) -> bytes:
        text = f"{hold}|{place.record_class}|{place.number}"
        return hmac.digest(secret, text.encode(), hashlib.sha256)

    return salt
