"""The vault's tables: names and expressions over them, how they are made, and that they are right.

For each personal class there is `vault_<class>`, where preserved rows live, and `staging_<class>`,
where a new content of one vault partition is put together. Both have the columns, partitions and
order of the live table, and both keep every row they are given: a version that replaces another in
the live table may be the very one that was preserved, so here none replaces any.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from aggregator.store.client import Client, Unavailable
from aggregator.store.migrate import statements
from aggregator.store.schema import DATABASE, RECORD_TABLES, SchemaError, Table
from retention.holds.columns import SPANS
from retention.model import DAY_US, Place
from retention.policy.partitions import span
from retention.vault.port import SLOT_S
from retention.vault.shards import Shard

VAULT_DATABASE: Final = "tallyhold_vault"
PERSONAL: Final = tuple(name for name, table in RECORD_TABLES.items() if table.personal)
FINAL_BY_PARTITION: Final = {"do_not_merge_across_partitions_select_final": 1}
"""All versions of a record lie in one partition. Servers that do not know the setting skip it."""

Kept: TypeAlias = Literal["live", "vault", "staging", "late"]

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_EPOCH: Final = dt.date(1970, 1, 1)

_TEXT: Final = """CREATE TABLE IF NOT EXISTS {vault}.{name} AS {live}.{record_class}
ENGINE = {engine}
PARTITION BY {partition_key}
ORDER BY ({sorting_key})
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE {vault}.{name}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
"""  # noqa: E501
"""A drop may follow a copy within a second, so a copy is through to the disk where a server can."""


@dataclass(frozen=True, slots=True)
class Names:
    """The databases: of ingest's tables and of the vault's."""

    live: str = DATABASE
    vault: str = VAULT_DATABASE

    def __post_init__(self) -> None:
        for name in (self.live, self.vault):
            if not _IDENTIFIER.fullmatch(name):
                raise SchemaError(f"{name!r} is not a name for a database")
        if self.live == self.vault:
            raise SchemaError("the vault needs a database of its own")

    def table(self, record_class: str, kept: Kept) -> str:
        """A class's table of one kind, with its database; ValueError for a class of no person."""
        if record_class not in PERSONAL:
            raise ValueError("no class of persons' records has this name")
        if kept == "live":
            return f"{self.live}.{record_class}"
        return f"{self.live if kept == 'late' else self.vault}.{kept}_{record_class}"

    def source(self, record_class: str, kept: Kept) -> str:
        """The same as it is read: where versions replace one another, the newest alone."""
        final = RECORD_TABLES[record_class].replacing and kept in ("live", "late")
        return self.table(record_class, kept) + (" FINAL" if final else "")


def names_of(record_class: str) -> str:
    """The stored columns of a class, in order, for a SELECT or an INSERT."""
    return ", ".join(RECORD_TABLES[record_class].names)


def row_hash(record_class: str) -> str:
    """A hash of all stored columns: with the record_id it tells versions of a record apart.

    Neither of the engine's hashes has a key that others do not know, and sipHash64 over the columns
    of a visit costs 1.4 µs a row, more than reading it; cityHash64 costs a tenth of that.
    """
    return f"cityHash64({names_of(record_class)})"


def row_key(record_class: str) -> str:
    """A row as `chosen` tables have it."""
    return f"(record_id, {row_hash(record_class)})"


def start_of(record_class: str) -> str:
    """First instant that a row covers, in microseconds."""
    return SPANS[record_class].start


def end_of(record_class: str) -> str:
    """First instant after what a row covers; as `holds.matcher.spans`, in SQL."""
    each = SPANS[record_class]
    ends = list(each.ends)
    if each.open_day:
        day_end = f"(intDiv({each.start}, {DAY_US}) + 1) * {DAY_US}"
        ends = [f"if({name} = 0, {day_end}, {name})" for name in ends]
    expression = f"{each.start} + 1"
    for name in ends:
        expression = f"greatest({expression}, {name})"
    return expression


def in_days(start_us: int, end_us: int) -> str:
    """Condition that a row's clock day is within [start, end); it rules out partitions."""
    first, last = start_us // DAY_US, (end_us - 1) // DAY_US
    return f"clock_day >= toDate('{_date(first)}') AND clock_day <= toDate('{_date(last)}')"


def in_place(place: Place) -> str:
    """Condition that a row is in a partition. ValueError for a number that is none of its class."""
    return in_days(*span(place))


def in_slot(number: int) -> str:
    """Condition that a late row came in a slot."""
    first = int(number) * SLOT_S
    return (
        f"arrived >= toDateTime({first}, 'UTC') AND arrived < toDateTime({first + SLOT_S}, 'UTC')"
    )


def partition_of(record_class: str) -> str:
    """The number of a row's partition."""
    daily = RECORD_TABLES[record_class].period == "day"
    return "toYYYYMMDD(clock_day)" if daily else "toYYYYMM(clock_day)"


def _date(day: int) -> str:
    # A Date of the older server ends in 2105 and one of the newer in 2149.
    return (_EPOCH + dt.timedelta(days=min(max(day, 0), 49_672))).isoformat()


def prepare(shard: Shard, names: Names) -> bool:
    """Make what is missing on each replica of a shard and check it; raises SchemaError on drift.

    Replicas are asked one by one and need no ON CLUSTER. Gives whether all answered: one that is
    down has to be prepared when it is back. Raises Unavailable where none answers.
    """
    down: Unavailable | None = None
    reached = 0
    for client in shard.replicas:
        try:
            _prepare(client, names)
        except Unavailable as error:
            down = error
        else:
            reached += 1
    if down is not None and not reached:
        raise down
    return down is None


def _prepare(client: Client, names: Names) -> None:
    client.outside(f"CREATE DATABASE IF NOT EXISTS {names.vault}")
    live = _described(client, names.live)
    missing = [name for name in PERSONAL if name not in live]
    if missing:
        raise SchemaError(
            f"database {names.live} has no table {', '.join(missing)}: run"
            " `tallyhold aggregator migrate` before the retention service"
        )
    version = client.capabilities().version
    for record_class in PERSONAL:
        for kept in ("vault", "staging"):
            for statement in _statements(names, record_class, kept, live, version):
                client.execute(statement)
    _check(client, names, live)


def _statements(
    names: Names, record_class: str, kept: str, live: Mapping[str, _Described], version: Any
) -> tuple[str, ...]:
    """CREATE TABLE and what newer servers add; the vault's is replicated where the live one is."""
    like = live[record_class]
    name = f"{kept}_{record_class}"
    replicated = kept == "vault" and like.engine.startswith("Replicated")
    text = _TEXT.format(
        vault=names.vault,
        live=names.live,
        name=name,
        record_class=record_class,
        engine=f"{{engine:{name}:MergeTree}}",
        partition_key=like.partition_key,
        sorting_key=like.sorting_key,
    )
    # Any name of a cluster asks for the replicated form; ON CLUSTER is not in the text.
    return statements(text, version, names.vault, "replicated" if replicated else "")


@dataclass(frozen=True, slots=True)
class _Described:
    engine: str
    partition_key: str
    sorting_key: str


def _described(client: Any, database: str) -> dict[str, _Described]:
    found = client.query_columns(
        "SELECT name, engine, partition_key, sorting_key FROM system.tables"
        " WHERE database = %(database)s",
        {"database": database},
    )
    return {
        name: _Described(*rest)
        for name, *rest in zip(
            found["name"],
            found["engine"],
            found["partition_key"],
            found["sorting_key"],
            strict=True,
        )
    }


def _check(client: Any, names: Names, live: Mapping[str, _Described]) -> None:
    made = _described(client, names.vault)
    rows = client.query_columns(
        "SELECT table, name, type FROM system.columns WHERE database = %(database)s",
        {"database": names.vault},
    )
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in zip(rows["table"], rows["name"], rows["type"], strict=True):
        columns.setdefault(table, {})[name] = kind
    problems = []
    for record_class in PERSONAL:
        for kept in ("vault", "staging"):
            name = f"{kept}_{record_class}"
            if name not in made:
                problems.append(f"table {name} is missing")
                continue
            problems += _drift(name, columns.get(name, {}), RECORD_TABLES[record_class])
            problems += _layout(name, made[name], live[record_class])
    if problems:
        raise SchemaError(
            f"the tables in database {names.vault} are not those of this version:"
            f" {'; '.join(problems[:10])}. They hold what orders protect, so nothing changes them"
            " by itself: install the version that made them, or have them altered as the live ones."
        )


def _layout(name: str, made: _Described, live: _Described) -> list[str]:
    problems = []
    if made.partition_key != live.partition_key or made.sorting_key != live.sorting_key:
        problems.append(f"{name} is not partitioned and ordered as the live table")
    if made.engine not in ("MergeTree", "ReplicatedMergeTree"):
        problems.append(f"{name} is of engine {made.engine}, which may lose rows")
    return problems


def _drift(name: str, found: Mapping[str, str], table: Table) -> list[str]:
    wanted = dict((*table.columns, *table.computed))
    problems = [f"{name}.{each} is missing" for each in wanted if each not in found]
    problems += [f"{name}.{each} is not known here" for each in found if each not in wanted]
    problems += [
        f"{name}.{each} is {found[each]}, not {kind}"
        for each, kind in wanted.items()
        if each in found and found[each] != kind
    ]
    return problems
