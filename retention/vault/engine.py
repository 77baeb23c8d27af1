"""The vault on ClickHouse: `port.Vault` over one server, or over the shards of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from aggregator.store.client import Client
from retention.model import Hold, Partition, Place, Purge, ScopeItem
from retention.vault import history, select, tables
from retention.vault.bounds import Bounds
from retention.vault.copy import Copier, Origin
from retention.vault.folders import Outside
from retention.vault.late import Late
from retention.vault.physical import Physical
from retention.vault.port import (
    Approved,
    Columns,
    LateSlot,
    Residue,
    Salt,
    Selection,
    Source,
)
from retention.vault.shards import Shard
from retention.vault.tables import Names


class EngineVault:
    """Implements `port.Vault`. Its clients are those of the user that may remove rows.

    shards: the clients of each shard's replicas; one server is `[[client]]`. Everything is done in
    the caller's thread; two threads may use one vault, under the register's lock.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[Client]],
        *,
        names: Names | None = None,
        outside: Outside | None = None,
        now: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._names = names or Names()
        self._shards = [Shard(tuple(replicas)) for replicas in shards]
        if not self._shards:
            raise ValueError("a store has at least one shard")
        self._copier = Copier(self._shards, self._names, monotonic, sleep)
        self._late = Late(self._shards, self._names)
        self._live_bounds = Bounds(self._shards, self._names, "live")
        self._vault_bounds = Bounds(self._shards, self._names, "vault")
        self._physical = Physical(self._shards, self._names, outside or Outside(), now)

    def prepare(self) -> bool:
        reached = [tables.prepare(shard, self._names) for shard in self._shards]
        return all(reached)

    def partitions(self) -> list[Partition]:
        return self._live_bounds.partitions()

    def vaulted(self) -> list[Partition]:
        return self._vault_bounds.partitions()

    def select(
        self, place: Place, sources: Collection[Source], holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        return select.select(self._shards, self._names, place, sources, holds, salt)

    def count(self, place: Place, store: Source) -> int:
        return self._copier.count(place, store)

    def preserve(self, selection: Selection) -> None:
        self._copier.preserve(selection, Origin("live"))

    def drop(self, approved: Approved) -> None:
        self._copier.drop(approved)

    def rebuild(self, approved: Approved, selection: Selection) -> None:
        self._copier.rebuild(approved, selection)

    def slots(self) -> list[LateSlot]:
        return self._late.slots()

    def select_late(
        self, slot: LateSlot, place: Place, holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        return select.select_late(self._shards, self._names, place, slot, holds, salt)

    def preserve_late(self, slot: LateSlot, selection: Selection) -> None:
        returned = Origin("live", is_returned=True)
        self._copier.preserve(selection, returned if slot.is_returned else self._late.origin(slot))

    def drop_slot(self, approved: Approved, slot: LateSlot) -> None:
        if slot.is_returned:
            self._copier.drop_returned(approved)
        else:
            self._late.drop(approved, slot)

    def publish_closed(self, first_open: Mapping[str, int]) -> None:
        self._late.publish(first_open)

    def residue(self, purge: Purge) -> Residue:
        return self._physical.residue(purge)

    def history(self, items: Sequence[ScopeItem]) -> Mapping[str, Columns]:
        return history.history(self._shards, self._names, items)
