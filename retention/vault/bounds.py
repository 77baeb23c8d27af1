"""The engine's parts in, partitions with their rows and the instants these cover out.

Rows are read only where inserts changed a partition since it was last asked about: block numbers
say so, as merges keep them and nothing but a drop removes rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from aggregator.store.client import Client
from retention.model import Partition, Place
from retention.policy.partitions import span
from retention.vault.shards import Shard, name_of
from retention.vault.tables import (
    FINAL_BY_PARTITION,
    PERSONAL,
    Names,
    end_of,
    in_days,
    partition_of,
    start_of,
)

Extent = tuple[int, int, int]
"""Rows, first instant covered, first instant after."""
_Signature = tuple[str, int, int]
"""Server, lowest and highest block number of a partition's parts."""

_PARTS: Final = (
    "SELECT table, partition, min(min_block_number) AS low, max(max_block_number) AS high"
    " FROM system.parts WHERE database = %(database)s AND active AND rows > 0"
    " GROUP BY table, partition"
)


@dataclass(frozen=True, slots=True)
class _Known:
    signature: _Signature
    extent: Extent


class Bounds:
    """Partitions of the live tables or of the vault's; remembers what it has read."""

    def __init__(
        self, shards: Sequence[Shard], names: Names, kept: Literal["live", "vault"]
    ) -> None:
        self._shards = shards
        self._names = names
        self._kept = kept
        self._known: dict[tuple[int, Place], _Known] = {}

    def partitions(self) -> list[Partition]:
        """Partitions that have rows, by class and number; [earliest, latest) holds [start, end)."""
        extents: dict[Place, list[Extent]] = defaultdict(list)
        for number, shard in enumerate(self._shards):
            client = shard.first
            present = self._present(client)
            self._read(number, client, present)
            for place in present:
                known = self._known.get((number, place))
                if known is not None and known.extent[0]:
                    extents[place].append(known.extent)
            gone = [key for key in self._known if key[0] == number and key[1] not in present]
            for key in gone:
                del self._known[key]
        return [joined(place, each) for place, each in sorted(extents.items())]

    def _present(self, client: Client) -> dict[Place, _Signature]:
        database = self._names.live if self._kept == "live" else self._names.vault
        found = client.query_columns(_PARTS, {"database": database})
        classes = {self._names.table(name, self._kept).partition(".")[2]: name for name in PERSONAL}
        return {
            Place(classes[table], int(partition)): (name_of(client), low, high)
            for table, partition, low, high in zip(*found.values(), strict=True)
            if table in classes
        }

    def _read(self, number: int, client: Client, present: Mapping[Place, _Signature]) -> None:
        """Read those partitions whose blocks are others than before."""
        stale: dict[str, list[Place]] = defaultdict(list)
        for place, signature in present.items():
            known = self._known.get((number, place))
            if known is None or known.signature != signature:
                stale[place.record_class].append(place)
        for record_class, places in stale.items():
            found = self._extents(client, record_class, places)
            for place in places:
                if place in found:
                    self._known[number, place] = _Known(present[place], found[place])

    def _extents(
        self, client: Client, record_class: str, places: Sequence[Place]
    ) -> dict[Place, Extent]:
        spans = [span(place) for place in places]
        days = in_days(min(each[0] for each in spans), max(each[1] for each in spans))
        numbers = ", ".join(str(place.number) for place in places)
        number = partition_of(record_class)
        return extents(
            client,
            record_class,
            self._names.source(record_class, self._kept),
            f"{days} AND {number} IN ({numbers})",
        )


def extents(client: Client, record_class: str, source: str, where: str) -> dict[Place, Extent]:
    """What the rows of a table cover, by the clock partition they belong to."""
    found = client.query_columns(
        f"SELECT {partition_of(record_class)} AS number, count() AS total,"
        f" min({start_of(record_class)}) AS first, max({end_of(record_class)}) AS last"
        f" FROM {source} WHERE {where} GROUP BY number",
        None,
        FINAL_BY_PARTITION,
    )
    return {
        Place(record_class, int(number)): (int(total), int(first), int(last))
        for number, total, first, last in zip(*found.values(), strict=True)
    }


def joined(place: Place, parts: Iterable[Extent]) -> Partition:
    """One partition of what several servers have of it."""
    each = list(parts)
    start, end = span(place)
    return Partition(
        place,
        start,
        end,
        min(start, *(first for _, first, _ in each)),
        max(end, *(last for _, _, last in each)),
        sum(rows for rows, _, _ in each),
    )
