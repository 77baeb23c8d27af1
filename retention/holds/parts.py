"""What the desk is built on, as it needs it, and what it answers: protocols and plain types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from retention.holds.errors import HoldRefused
from retention.holds.matcher import Columns
from retention.holds.rules import Actor, Ending
from retention.model import HeldRoot, Hold, Partition, Place, Purge, ScopeItem, Step, StoreName

DESTROYED: Final = frozenset({Step.DROPPED, Step.PENDING, Step.FINAL})
"""Steps of a purge after which its rows are gone."""

MAX_REQUEST_ID: Final = 100
"""Characters of the id by which a client tells a retry from a second request."""

Salt = Callable[[str, Place], bytes]


class Registry(Protocol):
    """The part of `register.store.Register` that the desk uses."""

    @property
    def generation(self) -> int: ...
    def now(self) -> int: ...
    def exclusive(self, timeout_s: float = 60.0) -> AbstractContextManager[None]: ...
    def holds(self) -> list[Hold]: ...
    def hold(self, id: str) -> Hold | None: ...
    def purges(self, *, step: Step | None = None) -> list[Purge]: ...
    def next_id(self, prefix: str) -> str: ...
    def note(self, key: str) -> str | None: ...
    def write(
        self,
        *,
        holds: Iterable[Hold] = (),
        notes: Mapping[str, str | None] | None = None,
        leaves: Sequence[dict[str, Any]] = (),
    ) -> list[int]: ...


class Commitments(Protocol):
    """The part of `audit.commit.CommitmentStore` that leaves need."""

    def person(self, name: str) -> str: ...
    def commit(self, text: str) -> str: ...


class Chosen(Protocol):
    """The part of a `vault.port.Selection` that coverage needs."""

    @property
    def rows(self) -> int: ...
    @property
    def held(self) -> tuple[HeldRoot, ...]: ...


class Store(Protocol):
    """The part of `vault.port.Vault` that the desk reads. Methods raise StoreError."""

    def history(self, items: Sequence[ScopeItem]) -> Mapping[str, Columns]: ...
    def partitions(self) -> list[Partition]: ...
    def vaulted(self) -> list[Partition]: ...
    def select(
        self, place: Place, sources: Collection[StoreName], holds: Sequence[Hold], salt: Salt
    ) -> Chosen: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What a hold has of one place; rows: in either store, a row in both counted once."""

    partition: Partition
    live: int
    vault: int
    rows: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What there is of a hold: places it meets, and purges that came before it."""

    hold: Hold
    places: tuple[Kept, ...]
    unavailable: tuple[Purge, ...]
    next: str

    def by_class(self) -> dict[str, tuple[int, int, int, int]]:
        """Class to places with rows, rows, and the interval [from, to) that those places cover."""
        found: dict[str, tuple[int, int, int, int]] = {}
        for kept in self.places:
            if kept.rows:
                each = kept.partition
                places, rows, start, end = found.get(
                    each.place.record_class, (0, 0, each.earliest_us, each.latest_us)
                )
                found[each.place.record_class] = (
                    places + 1,
                    rows + kept.rows,
                    min(start, each.earliest_us),
                    max(end, each.latest_us),
                )
        return found


@dataclass(slots=True)
class Ticked:
    """What a tick did: by hold id what ended it and how many items it grew by; what is late.

    problems: hold id to a code ("too-wide", "store", "busy"): growth, or an end, that did not come
    about. Each is an alarm: rows that the hold leads to may not be protected.
    """

    ended: dict[str, Ending] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    overdue_reviews: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def missed(items: Sequence[ScopeItem], purges: Iterable[Purge]) -> tuple[str, ...]:
    """Ids of the purges that destroyed rows of the items' classes and times, oldest first."""
    found = sorted(
        (purge.dropped_us, purge.id)
        for purge in purges
        if purge.step in DESTROYED and purge.destroyed and _meets(items, purge.partition)
    )
    return tuple(name for _, name in found)


def _meets(items: Sequence[ScopeItem], partition: Partition) -> bool:
    return any(
        partition.place.record_class in item.classes
        and item.from_us < partition.latest_us
        and partition.earliest_us < item.to_us
        for item in items
    )


def request_key(actor: Actor, request_id: str) -> str:
    """The note under which a request is known; "" for a request without an id."""
    if not request_id:
        return ""
    if len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        raise HoldRefused("bad-request", f"request id: at most {MAX_REQUEST_ID} characters")
    return "hold-request/" + digest_of(f"{actor.person}\0{request_id}")


def digest_of(text: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
