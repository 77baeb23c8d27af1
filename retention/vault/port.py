"""What the rest of retention may ask of the store: the Vault protocol and the types it speaks in.

`vault.engine.EngineVault` implements it on ClickHouse; the purge is written against this alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from retention.model import HeldRoot, Hold, Partition, Place, Purge, ScopeItem, StoreName
from retention.vault.blocks import Block

Source: TypeAlias = StoreName
"""Where rows are read from: "live" or "vault"."""
Target: TypeAlias = Literal["live", "vault", "late"]
"""What is destroyed: a live partition, vault rows no hold matches any more, a slot of late rows."""
Salt: TypeAlias = Callable[[str, Place], bytes]
"""Hold id and place to the salt of its row digests; hold id "" for the digest of a whole purge."""
Columns: TypeAlias = Mapping[str, Sequence[Any]]

KEY_BYTES: Final = 24
"""A chosen row in `Selection.ids`: its record_id (16) and a hash of its columns (8)."""
SLOT_S: Final = 300
"""Late rows are partitioned by the five minutes, of the server's clock, in which they came."""


class PreserveError(RuntimeError):
    """What should be preserved is not, in the vault, what was selected. Nothing was destroyed.

    `code` is a stable word for the `purge.failed` leaf, e.g. "fingerprint"; neither it nor the
    message has values of rows.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of a place that at least one hold matches, each once.

    held: one root for each hold asked about, by id, rows 0 included (RFC 6962's root of an empty
    tree, `audit.merkle.EMPTY_ROOT`). digest: SHA-256, hex, over the sorted digests of all rows,
    salted with `salt("", place)`. ids: KEY_BYTES for each row, sorted. subscribers: all that the
    rows have, by which tables are sorted; None where they are too many, or not known. blocks: by
    shard, the rows themselves; None where they are too many. These three are for the vault's use,
    and never in a log or a leaf. is_live: all rows are live ones, so that this is the selection of
    live rows, wherever it was looked for.
    """

    place: Place
    rows: int
    held: tuple[HeldRoot, ...]
    digest: str
    ids: bytes = field(default=b"", repr=False)
    subscribers: tuple[str, ...] | None = field(default=None, repr=False)
    blocks: tuple[tuple[Block, ...], ...] | None = field(default=None, repr=False, compare=False)
    is_live: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class LateSlot:
    """Five minutes of arrivals of one class that take no more rows, by the place they belong to.

    number: seconds since 1970 by SLOT_S, the slot's partition in table `late_<class>`.
    partitions: one for each place with rows in it; `rows` counts those of this slot alone.
    is_returned: not a slot, but a live partition that was destroyed and has rows again, as after a
    restore: they are late ones, too. `number` is that partition's.
    """

    record_class: str
    number: int
    partitions: tuple[Partition, ...]
    is_returned: bool = False

    @property
    def place(self) -> Place:
        """What an Approved of store "late" names: the slot, or the partition that came back."""
        return Place(self.record_class, self.number)

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.partitions)


@dataclass(frozen=True, slots=True)
class Approved:
    """Leave to destroy one thing at one hold generation; made by `destruction.plan.approve` alone.

    purge: id of the purge, or of the sweep for store "late", where `place` is `LateSlot.place`.
    """

    purge: str
    place: Place
    store: Target
    generation: int


@dataclass(frozen=True, slots=True)
class Residue:
    """What is left of a purged partition. Empty `waiting`: it is gone from every disk we know.

    waiting: stable words, sorted, of what is waited for ("parts", "detached", "shadow",
    "mutations", "spool", "logs", "staging", "replica-down"). evidence: replica name to what was
    seen there, JSON-able. backups: those made before the drop, each {"id", "created", "expires"}.
    """

    waiting: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    backups: tuple[Mapping[str, Any], ...] = ()


class Vault(Protocol):
    """Every method raises StoreError where the engine does not do as asked; then ask again.

    Writes and drops can be repeated without harm. The caller holds the register's lock from
    `select` to `drop`.
    """

    def prepare(self) -> bool:
        """Make the vault's tables, idempotent, and check them; raises SchemaError on drift.

        Gives whether every server answered; on others it has to be done when they are back.
        """

    def partitions(self) -> list[Partition]:
        """Live partitions of personal classes that have rows, by class and number."""

    def vaulted(self) -> list[Partition]:
        """Partitions with rows in the vault, by class and number."""

    def select(
        self, place: Place, sources: Collection[Source], holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        """The rows of a place in these stores that the holds match; a row in both counts once.

        Raises PreserveError "too-many" over the limit of rows held of one partition.
        """

    def count(self, place: Place, store: Source) -> int:
        """Rows of a place in one store; of replacing classes the newest versions."""

    def preserve(self, selection: Selection) -> None:
        """Copy a selection of live rows to the vault, beside what the vault has of the place.

        Call it also for a selection of no rows: it takes copies out of the vault that an unfinished
        purge left there. Verified by fingerprints on both sides; raises PreserveError.
        """

    def drop(self, approved: Approved) -> None:
        """Destroy a live partition; nothing to do where it is gone."""

    def rebuild(self, approved: Approved, selection: Selection) -> None:
        """Make the vault's partition exactly a selection of its own rows; none: drop it."""

    def slots(self) -> list[LateSlot]:
        """Slots of late rows that take no more, oldest first, by class."""

    def select_late(
        self, slot: LateSlot, place: Place, holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        """The rows of one place in a slot that holds match and that are not kept elsewhere yet.

        A row that is already in the vault, or still in the live partition, is not selected: it
        counts as destroyed in this slot, as the other copy is the one kept. So note a selection's
        counts durably before `preserve_late`: after a crash behind it they cannot be had again.
        """

    def preserve_late(self, slot: LateSlot, selection: Selection) -> None:
        """Add a slot's selection to the vault, all or nothing; raises PreserveError."""

    def drop_slot(self, approved: Approved, slot: LateSlot) -> None:
        """Destroy a slot of late rows, or a partition that came back; raises PreserveError "open"
        while a slot may still take rows."""

    def publish_closed(self, first_open: Mapping[str, int]) -> None:
        """Tell ingest which partitions take no more rows: per class all below this number."""

    def residue(self, purge: Purge) -> Residue:
        """What is left on disk of a partition that was dropped or rebuilt."""

    def history(self, items: Sequence[ScopeItem]) -> Mapping[str, Columns]:
        """Columns of "binding", "mapping" and "session" rows, live, late and vaulted, that a
        scope's items name: those that resolving a hold needs."""
