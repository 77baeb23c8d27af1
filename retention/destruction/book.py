"""What the register notes of the vault and of closed partitions: facts as text and back. Pure.

The books say what the audit log knows to be in the vault, so that the two can be compared: a vault
with other rows than its book is an alarm. They change in the transaction that queues the leaf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retention.model import HeldRoot, Partition, Place


@dataclass(frozen=True, slots=True)
class Book:
    """Rows in the vault's partition of a place, how many each hold keeps, and what they cover.

    rows, and those of each hold in `held`, are sums of what was put there; of classes whose rows
    have versions the vault may count fewer, down to `least`. Holds that ended stay in `held` until
    the partition is rebuilt without them.
    """

    rows: int = 0
    least: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    earliest_us: int = 0
    latest_us: int = 0

    def plus(self, rows: int, held: Sequence[HeldRoot], span: Partition) -> Book:
        """With rows that were added."""
        counts = dict(self.held)
        for each in held:
            if each.rows:
                counts[each.hold] = counts.get(each.hold, 0) + each.rows
        known = self.rows > 0
        return Book(
            self.rows + rows,
            max(self.least, rows),
            counts,
            min(self.earliest_us, span.earliest_us) if known else span.earliest_us,
            max(self.latest_us, span.latest_us) if known else span.latest_us,
        )

    @staticmethod
    def key(place: Place) -> str:
        """The key of its note in the register."""
        return f"vault/{place.record_class}/{place.name}"

    def text(self) -> str:
        """Its note."""
        return json.dumps(
            [self.rows, self.least, dict(self.held), self.earliest_us, self.latest_us]
        )

    @classmethod
    def parse(cls, text: str | None) -> Book | None:
        """The book of a note, None where there is none."""
        if text is None:
            return None
        rows, least, held, earliest, latest = json.loads(text)
        counts = {str(hold): int(number) for hold, number in held.items()}
        return cls(int(rows), int(least), counts, int(earliest), int(latest))


@dataclass(frozen=True, slots=True)
class Closure:
    """Ingest was told at `since_us` that numbers below `first_open` take no more rows; below
    `settled` it was told longer ago. It never goes back."""

    first_open: int = 0
    settled: int = 0
    since_us: int = 0

    def moved(self, first_open: int, now_us: int, settle_us: int) -> Closure:
        """As it is after telling `first_open` now."""
        if first_open <= self.first_open:
            return self
        settled = self.first_open if now_us >= self.since_us + settle_us else self.settled
        return Closure(first_open, settled, now_us)

    def since(self, place: Place) -> int | None:
        """When ingest was told that a place is closed, at the latest; None if it was not."""
        if place.number >= self.first_open:
            return None
        return 0 if place.number < self.settled else self.since_us


CLOSED_KEY = "closed"


def closed_text(closed: Mapping[str, Closure]) -> str:
    """The note of all classes' closures."""
    return json.dumps({k: [v.first_open, v.settled, v.since_us] for k, v in closed.items()})


def parse_closed(text: str | None) -> dict[str, Closure]:
    """The closures of a note; none where there is no note."""
    raw: dict[str, Any] = json.loads(text) if text else {}
    return {name: Closure(*(int(each) for each in values)) for name, values in raw.items()}


def widened(partition: Partition, *others: Mapping[str, Any] | Book | None) -> Partition:
    """A partition that also covers what the log has seen of it, and its book.

    Spans in the log only grow, so that a hold that was counted for a place stays counted.
    """
    earliest = min(partition.earliest_us, partition.start_us)
    latest = max(partition.latest_us, partition.end_us)
    for other in others:
        if isinstance(other, Book) and other.rows:
            earliest, latest = min(earliest, other.earliest_us), max(latest, other.latest_us)
        elif isinstance(other, Mapping) and other:
            earliest = min(earliest, int(other["earliest"]))
            latest = max(latest, int(other["latest"]))
    return Partition(
        partition.place, partition.start_us, partition.end_us, earliest, latest, partition.rows
    )
