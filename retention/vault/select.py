"""A place and the holds in, the rows they match out: which, how many, and proofs over them.

The engine brings candidates, `holds.matcher` decides. Candidates come in slices by a hash of their
id, so memory depends on the rows held and not on the rows read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from aggregator.store.client import Client
from aggregator.store.schema import RECORD_TABLES
from retention.holds.matcher import match
from retention.holds.narrowing import keys
from retention.model import HeldRoot, Hold, Place
from retention.vault import digests
from retention.vault.blocks import MAX_ROWS, Block, block
from retention.vault.narrow import Clause, clause
from retention.vault.port import KEY_BYTES, LateSlot, PreserveError, Salt, Selection, Source
from retention.vault.scratch import chosen_table, scope_table
from retention.vault.shards import Shard
from retention.vault.tables import (
    FINAL_BY_PARTITION,
    Kept,
    Names,
    in_place,
    in_slot,
    names_of,
    row_hash,
    row_key,
)

SLICE_ROWS: Final = 100_000
"""Candidates read at a time: about 150 MB as columns of Python values."""
MAX_DIGESTS: Final = 5_000_000
"""Held rows of one place, counted once for each hold: a gigabyte while their roots are made. A
scope that holds more of one day is an order for everything, which no order may be."""

MAX_SUBSCRIBERS: Final = 50_000
"""Beyond it finding rows by their subscribers saves nothing against reading all ids."""

Columns: TypeAlias = Mapping[str, list[Any]]
Where: TypeAlias = tuple[Kept, str]
"""Which tables rows are read from, and a condition beside the place's."""


class Selecting:
    """Takes slices of candidates and grows a selection from them."""

    def __init__(self, place: Place, holds: Sequence[Hold], salt: Salt, shards: int) -> None:
        self._place = place
        self._table = RECORD_TABLES[place.record_class]
        self._scopes = {hold.id: hold.scope for hold in holds}
        if len(self._scopes) != len(holds):
            raise ValueError("two holds of one id: the scope of one would be lost")
        self._salts = {name: salt(name, place) for name in ("", *self._scopes)}
        self._digests = {name: bytearray() for name in self._salts}
        self._ids = bytearray()
        self._blocks: list[list[Block]] | None = [[] for _ in range(shards)]
        self.is_live = False
        """Whether every row taken is a live one."""
        self._subscribers: set[str] | None = set() if "subscriber" in self._table.names else None

    def take(
        self, shard: int, columns: Columns, known: Callable[[bytes], Collection[bytes]]
    ) -> bytes:
        """Match one slice of a shard; gives the keys of the rows taken.

        known: says of keys, one after the other, which are not to be taken.
        """
        masks = match(self._place.record_class, columns, self._scopes)
        held = np.zeros(len(columns["record_id"]), dtype=np.bool_)
        for mask in masks.values():
            held |= mask
        rows = np.flatnonzero(held)
        keyed = _keys_of(columns, rows)
        if keyed and (elsewhere := known(keyed)):
            new = [at not in elsewhere for at in _split(keyed)]
            rows = rows[np.array(new, dtype=np.bool_)]
            keyed = _keys_of(columns, rows)
        canonical = digests.canonical(self._table, columns, rows)
        self._ids += keyed
        self._carry(shard, columns, rows.tolist())
        if self._subscribers is not None:
            self._subscribers.update(columns["subscriber"][at] for at in rows.tolist())
            if len(self._subscribers) > MAX_SUBSCRIBERS:
                self._subscribers = None
        self._digests[""] += digests.salted(self._salts[""], canonical)
        for name, mask in masks.items():
            chosen = np.flatnonzero(mask[rows]).tolist()
            self._digests[name] += digests.salted(
                self._salts[name], (canonical[position] for position in chosen)
            )
        self._bound()
        return keyed

    def done(self) -> Selection:
        """The selection of all that was taken."""
        size = digests.DIGEST_BYTES
        held = tuple(
            HeldRoot(name, len(each) // size, digests.root_of(each).hex())
            for name, each in sorted(self._digests.items())
            if name
        )
        return Selection(
            self._place,
            len(self._ids) // KEY_BYTES,
            held,
            digests.digest_of(self._digests[""]),
            b"".join(digests.ordered(self._ids, KEY_BYTES)),
            None if self._subscribers is None else tuple(sorted(self._subscribers)),
            None if self._blocks is None else tuple(map(tuple, self._blocks)),
            self.is_live,
        )

    def _carry(self, shard: int, columns: Columns, positions: Sequence[int]) -> None:
        if len(self._ids) > MAX_ROWS * KEY_BYTES:
            self._blocks = None
        if self._blocks is not None and positions:
            self._blocks[shard].append(block(self._table, columns, positions))

    def _bound(self) -> None:
        total = sum(map(len, self._digests.values())) // digests.DIGEST_BYTES
        if total > MAX_DIGESTS:
            raise PreserveError(
                "too-many",
                f"holds match more than {MAX_DIGESTS} rows of {self._place.record_class}"
                f" {self._place.name}: narrow the scope, or keep the partition by a longer period",
            )


def select(
    shards: Sequence[Shard],
    names: Names,
    place: Place,
    sources: Collection[Source],
    holds: Sequence[Hold],
    salt: Salt,
) -> Selection:
    """The rows of a place in the stores that the holds match; a row in both counts once."""
    selecting = Selecting(place, holds, salt, len(shards))
    selecting.is_live = "live" in sources
    narrowed = clause(keys(place.record_class, (item for hold in holds for item in hold.scope)))
    if narrowed is None:
        return selecting.done()
    # What a purge copied before it was cut short is in both stores; what is live then counts.
    live: set[bytes] = set()
    for number, shard in enumerate(shards):
        client = shard.first
        shard.settle(client, [names.table(place.record_class, source) for source in sources])
        with scope_table(client, narrowed.lists) as scope:
            for source in sorted(sources):
                found = candidates(client, names, place, (source, "1"), narrowed.over(scope))
                for columns in found:
                    if source == "vault":
                        taken = selecting.take(number, columns, lambda _: live)
                        selecting.is_live &= not taken
                    elif "vault" in sources:
                        live.update(_split(selecting.take(number, columns, lambda _: ())))
                    else:
                        selecting.take(number, columns, lambda _: ())
    return selecting.done()


def select_late(
    shards: Sequence[Shard],
    names: Names,
    place: Place,
    slot: LateSlot,
    holds: Sequence[Hold],
    salt: Salt,
) -> Selection:
    """The rows of a place in a slot that holds match and that no other table has of the place."""
    selecting = Selecting(place, holds, salt, len(shards))
    narrowed = clause(keys(place.record_class, (item for hold in holds for item in hold.scope)))
    if narrowed is None:
        return selecting.done()
    clients = []
    for shard in shards:
        clients.append(shard.first)
        kinds: tuple[Kept, ...] = ("late", "live", "vault")
        shard.settle(clients[-1], [names.table(place.record_class, kept) for kept in kinds])
    where: Where = ("live", "1") if slot.is_returned else ("late", in_slot(slot.number))
    others: tuple[Kept, ...] = ("vault",) if slot.is_returned else ("live", "vault")
    for number, client in enumerate(clients):
        with scope_table(client, narrowed.lists) as scope:
            for columns in candidates(client, names, place, where, narrowed.over(scope)):
                selecting.take(
                    number,
                    columns,
                    lambda keyed: elsewhere(clients, names, place, others, keyed),
                )
    return selecting.done()


def candidates(
    client: Client, names: Names, place: Place, where: Where, narrowed: Clause
) -> Iterator[Columns]:
    """All stored columns of the candidates in one table, and `row_hash`, slice by slice.

    narrowed: over a scope table that is there until the last slice was taken.
    """
    kept, condition = where
    record_class = place.record_class
    source = names.source(record_class, kept)
    chosen = narrowed.where(prewhere=source == names.table(record_class, kept))
    tail = f" FROM {source} {chosen} AND {in_place(place)} AND {condition}"
    columns = f"SELECT {names_of(record_class)}, {row_hash(record_class)} AS row_hash"

    def read(tail: str) -> Columns:
        return client.query_columns(f"{columns}{tail}", None, FINAL_BY_PARTITION)

    # Few held rows are the rule: then this is the one look at the partition.
    found = read(f"{tail} LIMIT {SLICE_ROWS + 1}")
    if len(found["record_id"]) <= SLICE_ROWS:
        if found["record_id"]:
            yield found
        return
    counted = client.query_columns(f"SELECT count() AS rows{tail}", None, FINAL_BY_PARTITION)
    slices = -(-int(counted["rows"][0]) // SLICE_ROWS)
    for number in range(slices):
        found = read(f"{tail} AND sipHash64(record_id) % {slices} = {number}")
        if found["record_id"]:
            yield found


def elsewhere(
    clients: Sequence[Client], names: Names, place: Place, others: Sequence[Kept], keyed: bytes
) -> set[bytes]:
    """Which of these keys other tables have of the place."""
    found: set[bytes] = set()
    record_class = place.record_class
    for client in clients:
        with chosen_table(client, keyed) as chosen:
            for kept in others:
                rows = client.query_columns(
                    f"SELECT record_id, {row_hash(record_class)} AS row_hash"
                    f" FROM {names.source(record_class, kept)} WHERE {in_place(place)}"
                    f" AND record_id IN (SELECT record_id FROM {chosen})"
                    f" AND {row_key(record_class)} IN (SELECT record_id, row_hash FROM {chosen})",
                    None,
                    FINAL_BY_PARTITION,
                )
                found.update(_split(digests.packed(rows["record_id"], rows["row_hash"])))
    return found


def _keys_of(columns: Columns, rows: np.ndarray[Any, Any]) -> bytes:
    positions = rows.tolist()
    ids, hashes = columns["record_id"], columns["row_hash"]
    return digests.packed([ids[at] for at in positions], [hashes[at] for at in positions])


def _split(keyed: bytes) -> list[bytes]:
    return [keyed[at : at + KEY_BYTES] for at in range(0, len(keyed), KEY_BYTES)]
