"""Slots of late rows in: what can be swept, what holds match of it, slots gone; and what is closed.

A late row was past its day when it came. Late tables are partitioned by when rows came, five
minutes of the server's clock to a slot, so one that is over takes no more rows: it can be read,
what holds match be kept, and be dropped as a whole, while ingest writes to the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from aggregator.store.client import Client, StoreError, Unavailable
from aggregator.store.closed import FIRST_OPEN
from aggregator.store.schema import CLOSED, LATE_TABLES
from retention.model import Place
from retention.vault.bounds import Extent, extents, joined
from retention.vault.copy import Origin
from retention.vault.port import SLOT_S, Approved, LateSlot, PreserveError
from retention.vault.shards import Shard
from retention.vault.tables import PERSONAL, Names, in_slot

SETTLE_S: Final = 900
"""From the end of a slot until it is taken to be whole: the clocks of a shard's servers may differ,
and the time of an insert is that of its beginning."""
MAX_SLOTS: Final = 500
"""Slots listed at a time, oldest first; six classes make as many in seven hours."""

assert all(f"late_{name}" in LATE_TABLES for name in PERSONAL)


class Late:
    """The late tables of all shards."""

    def __init__(self, shards: Sequence[Shard], names: Names) -> None:
        self._shards = shards
        self._names = names

    def slots(self) -> list[LateSlot]:
        """Slots that have rows and take no more, by class, oldest first."""
        waiting: dict[tuple[str, int], list[Client]] = defaultdict(list)
        limit = self._settled_before()
        busy = self._oldest_inserts()
        for shard in self._shards:
            client = shard.first
            shard.settle(client, [self._names.table(name, "late") for name in PERSONAL])
            found = client.query_columns(
                "SELECT table, partition FROM system.parts WHERE database = %(database)s"
                " AND active AND rows > 0 GROUP BY table, partition",
                {"database": self._names.live},
            )
            for table, partition in zip(found["table"], found["partition"], strict=True):
                if table in LATE_TABLES:
                    record_class, number = table.removeprefix("late_"), int(partition)
                    if _is_settled(number, min(limit, busy.get(record_class, limit))):
                        waiting[record_class, number].append(client)
        chosen = sorted(waiting, key=lambda key: (key[1], key[0]))[:MAX_SLOTS]
        listed = [self._slot(*key, waiting[key]) for key in sorted(chosen)]
        return [slot for slot in listed if slot.partitions]

    def origin(self, slot: LateSlot) -> Origin:
        """Where the rows of a slot are copied from."""
        return Origin("late", in_slot(slot.number))

    def drop(self, approved: Approved, slot: LateSlot) -> None:
        """Destroy a slot; PreserveError "open" while it may still take rows."""
        if approved.store != "late" or approved.place != slot.place:
            raise PreserveError("approval", "the approval is for something else")
        limit = self._settled_before()
        busy = self._oldest_inserts()
        if not _is_settled(slot.number, min(limit, busy.get(slot.record_class, limit))):
            raise PreserveError("open", "the slot may still take rows")
        table = self._names.table(slot.record_class, "late")
        for shard in self._shards:
            shard.leader(table).execute(f"ALTER TABLE {table} DROP PARTITION {int(slot.number)}")

    def publish(self, first_open: Mapping[str, int]) -> None:
        """Say per class below which number partitions take no more rows; nothing if it is said."""
        unknown = first_open.keys() - set(PERSONAL)
        if unknown:
            raise ValueError("a class that has no persons' records cannot be closed")
        for shard in self._shards:
            client = shard.first
            found = client.query_columns(FIRST_OPEN)
            said = dict(zip(found["record_class"], found["first"], strict=True))
            changed = {n: first for n, first in sorted(first_open.items()) if said.get(n) != first}
            if changed:
                version = max(found["newest"], default=0) + 1
                client.insert(
                    f"{self._names.live}.{CLOSED.name}",
                    {
                        "record_class": list(changed),
                        "first_open": np.array(list(changed.values()), dtype=np.uint32),
                        "version": np.full(len(changed), version, dtype=np.uint64),
                    },
                )

    def _slot(self, record_class: str, number: int, clients: Sequence[Client]) -> LateSlot:
        found: dict[Place, list[Extent]] = defaultdict(list)
        source = self._names.source(record_class, "late")
        for client in clients:
            for place, extent in extents(client, record_class, source, in_slot(number)).items():
                found[place].append(extent)
        partitions = tuple(joined(place, parts) for place, parts in sorted(found.items()))
        return LateSlot(record_class, number, partitions)

    def _settled_before(self) -> int:
        """Slots that end by this second take no more rows; by the slowest clock that answers."""
        return min(int(n) for n in self._asked("SELECT toUnixTimestamp(now()) AS v")) - SETTLE_S

    def _oldest_inserts(self) -> dict[str, int]:
        """For each class with inserts of late rows under way: when the oldest began, in seconds."""
        began = {}
        for record_class in PERSONAL:
            running = self._asked(
                "SELECT toInt64(toUnixTimestamp(now())) - toInt64(ceil(max(elapsed))) AS v"
                f" FROM system.processes WHERE query_id LIKE 'ingest-late_{record_class}-%'"
                " HAVING count() > 0"
            )
            if running:
                began[record_class] = min(map(int, running))
        return began

    def _asked(self, sql: str) -> list[int]:
        """One value of every server that answers. Those that do not take no inserts either."""
        values: list[int] = []
        answered = False
        for shard in self._shards:
            clients = [shard.first]
            for client in (*clients, *shard.others(clients[0])):
                try:
                    values += client.query_columns(sql)["v"]
                    answered = True
                except StoreError:
                    if client is clients[0]:
                        raise
        if not answered:
            raise Unavailable("no server answers")
        return values


def _is_settled(number: int, limit_s: int) -> bool:
    return (number + 1) * SLOT_S <= limit_s
