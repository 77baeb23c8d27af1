"""Columns of one table in, acknowledged blocks in ClickHouse out, each written once.

A batch becomes one block for each partition it touches (more where a partition gets more than
MAX_BLOCK_ROWS of its rows), always cut in the same places. A block is in whole or not at all, so
after a doubt the number of rows with the batch's id in a partition says which blocks are in.
Query ids are fixed, so that the ledger can see, and wait for, a block that is still being written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from aggregator.store.client import MAX_BLOCK_ROWS, Client, Corrupt, Misused
from aggregator.store.schema import LATE_TABLES, Table

Array: TypeAlias = np.ndarray[Any, Any]
Columns: TypeAlias = Mapping[str, Array]
"""Column name to array, all of one length, named and typed as in `schema.Table.columns`."""
Closed: TypeAlias = Callable[[str, int], bool]
"""Says whether a partition (table, number such as 20261122 or 202611) takes no more rows."""

DAY_US: Final = 86_400_000_000
MAX_PARTITIONS: Final = 400
"""Partitions one batch may touch in one table: a year of days and some. A batch with more has
nonsense in its times, and every partition costs a block."""
_LAST_DAY: Final = 49_709
"""Last whole day before 2106-02-07, where a 32-bit DateTime ends."""


class BadTimes(ValueError):
    """Rows whose times cannot be stored; the peer is at fault. The message has no values."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one partition: its number, their positions (None for all), the days they span."""

    number: int
    rows: Array | None
    count: int
    first_day: int
    last_day: int


@dataclass(frozen=True, slots=True)
class Written:
    """Rows of a table by what became of them: inserted now, found present, put aside as late."""

    inserted: int
    present: int
    late: int

    @property
    def rows(self) -> int:
        return self.inserted + self.present + self.late


def never_closed(table: str, partition: int) -> bool:
    """The default: every partition takes rows."""
    return False


def clock_days(table: Table, columns: Columns) -> Array:
    """Day number (since 1970) on which each row's retention clock starts; as `clock_day` in SQL."""
    times = columns[table.time]
    if table.name in ("mapping", "late_mapping"):
        ends = columns["end_us"]
        times = np.where(ends > times, ends - 1, times)
    days: Array = times // DAY_US
    return days


def partitions(table: Table, columns: Columns) -> list[Part]:
    """The rows of a batch by partition, in ascending order; raises BadTimes on impossible days."""
    days = clock_days(table, columns)
    if not len(days):
        return []
    low, high = int(days.min()), int(days.max())
    if low < 0 or high > _LAST_DAY:
        raise BadTimes(f"{table.name}: a time before 1970 or after 2106")
    if _number(low, table.period) == _number(high, table.period):
        return [Part(_number(low, table.period), None, len(days), low, high)]
    by_number: dict[int, list[int]] = {}
    for day in np.unique(days).tolist():
        by_number.setdefault(_number(day, table.period), []).append(day)
    if len(by_number) > MAX_PARTITIONS:
        raise BadTimes(f"{table.name}: times in {len(by_number)} partitions")
    parts = []
    for number, held in sorted(by_number.items()):
        rows = np.flatnonzero((days >= held[0]) & (days <= held[-1]))
        parts.append(Part(number, rows, len(rows), held[0], held[-1]))
    return parts


def _number(day: int, period: str) -> int:
    text = str(np.datetime64(day, "D")).replace("-", "")
    return int(text if period == "day" else text[:6])


def query_id(table: str, partition: int, batch: str, block: int) -> str:
    """The fixed id of one block's insert."""
    tail = f"-{block}" if block else ""
    return f"ingest-{table}-{partition}-{batch}{tail}"


class Writer:
    """The one writer of a table. Not safe for two threads on the same batch; the ledger's lock
    per collector sees to that."""

    def __init__(self, client: Client, table: Table, closed: Closed = never_closed) -> None:
        self.table = table
        self._client = client
        self._closed = closed
        self._late = LATE_TABLES.get(f"late_{table.name}")

    def write(self, columns: Columns, batch: str, *, in_doubt: bool) -> Written:
        """Insert the rows of one batch (32 hex digits), each block once.

        With `in_doubt` an earlier attempt may have left blocks behind: count, and insert only what
        is absent. No insert of the batch may be running then (`Ledger.await_quiet`). Raises
        BadTimes before anything is written, and StoreError with the state unknown: then call
        again with `in_doubt`.
        """
        if set(columns) != set(self.table.names):
            odd = sorted(set(columns) ^ set(self.table.names))
            raise Misused(f"table {self.table.name}: missing or unknown columns {odd}")
        parts = partitions(self.table, columns)
        inserted = present = late = 0
        for part in parts:
            found = self._probe(self.table, part, batch) if in_doubt else 0
            if found < part.count and self._late and self._closed(self.table.name, part.number):
                late += self._write_late(columns, part, batch, in_doubt=in_doubt)
                continue
            added = self._write_part(self.table, columns, part, batch, found)
            inserted += added
            present += part.count - added
        return Written(inserted, present, late)

    def _write_late(self, columns: Columns, part: Part, batch: str, *, in_doubt: bool) -> int:
        assert self._late is not None
        found = self._probe(self._late, part, batch) if in_doubt else 0
        self._write_part(self._late, columns, part, batch, found)
        return part.count

    def _write_part(
        self, table: Table, columns: Columns, part: Part, batch: str, found: int
    ) -> int:
        """Insert the blocks of one partition that are absent, given how many rows are there."""
        if table.replacing:
            # The engine itself drops older versions, so fewer rows than were written is no proof
            # of absence; writing a block again changes no answer, as the version is the same.
            found = part.count if found >= part.count else 0
        done = inserted = 0
        for block, rows in enumerate(_blocks(part)):
            size = len(rows) if rows is not None else part.count
            if found >= done + size:
                done += size
                continue
            if found > done:
                raise Corrupt(
                    f"table {table.name}, partition {part.number}: part of a block of batch"
                    f" {batch} is stored, which the engine never does by itself"
                )
            chosen = {
                name: columns[name] if rows is None else columns[name][rows] for name in table.names
            }
            inserted += self._client.insert(
                table.name, chosen, query_id(table.name, part.number, batch, block)
            )
            done += size
        return inserted

    def _probe(self, table: Table, part: Part, batch: str) -> int:
        """Rows of a batch that one partition holds."""
        answer = self._client.query_columns(
            f"SELECT count() AS n FROM {table.name} WHERE batch = unhex(%(batch)s)"
            " AND clock_day >= toDate(%(low)s) AND clock_day <= toDate(%(high)s)",
            {
                "batch": batch,
                "low": str(np.datetime64(part.first_day, "D")),
                "high": str(np.datetime64(part.last_day, "D")),
            },
        )
        return int(answer["n"][0])


def _blocks(part: Part) -> Iterator[Array | None]:
    """Positions of the rows of each block; None for all rows. The same for the same batch."""
    if part.rows is None and part.count <= MAX_BLOCK_ROWS:
        yield None
        return
    rows = np.arange(part.count) if part.rows is None else part.rows
    for start in range(0, part.count, MAX_BLOCK_ROWS):
        yield rows[start : start + MAX_BLOCK_ROWS]
