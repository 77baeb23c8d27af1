"""Record classes in, the ClickHouse tables they live in out; and a check of the live tables.

The columns come from `collector.wire.records`; what a table adds to them stands here once. The
numbered migrations create the tables, and `check` compares what the engine really has with what
this code writes, so that a drift is an error at start and not a lost row at night.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from collector.wire.records import CLASSES, RecordClass

DATABASE: Final = "tallyhold"
"""Default database. The vault of the retention service is a database of its own."""

SCHEMA_NUMBER: Final = 1
"""`schema_version` of the rows this code writes: changes only with the meaning of a column."""

Period = Literal["day", "month"]

_TYPES: Final = {
    "id": "FixedString(16)",
    "addr": "FixedString(16)",
    "u8": "UInt8",
    "u16": "UInt16",
    "u32": "UInt32",
    "u64": "UInt64",
    "i64": "Int64",
    "str": "String",
}
_DAILY: Final = frozenset({"visit", "session", "binding", "call", "mapping"})
"""Classes whose retention is counted in days; the others are partitioned by month."""
_ATTRIBUTED: Final = frozenset({"usage", "visit", "call"})
_REPLACING: Final = frozenset({"session", "binding", "call"})
"""Classes that are written again under the same record_id; the newest `observed_us` counts."""
_PERSONAL: Final = frozenset({"usage", "session", "binding", "mapping", "visit", "call"})
_PROVENANCE: Final = (
    ("collector", "String"),
    ("boot", "String"),
    ("batch", "FixedString(16)"),
    ("schema_version", "UInt8"),
)
_MATERIALIZED: Final = (("time", "DateTime('UTC')"), ("clock_day", "Date"))


class SchemaError(RuntimeError):
    """The live tables are not the ones this code writes; the message names table and column."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of rows.

    columns: (name, ClickHouse type) of the columns an insert names, in order. computed: columns
    the engine fills. time: column in microseconds behind `time` and, but for mappings (the day
    the mapping ended), behind `clock_day`; "" where rows have no time. period: of the partitions.
    replacing: True where the newest version of a record_id replaces older ones. personal: True
    where rows belong to a person.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    computed: tuple[tuple[str, str], ...]
    time: str
    period: Period
    replacing: bool
    personal: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)


class Reader(Protocol):
    """The part of the store's client that the check needs."""

    def query_columns(
        self, sql: str, params: Mapping[str, object]
    ) -> Mapping[str, list[object]]: ...


def stored_name(name: str) -> str:
    """Column name in ClickHouse: nanoseconds on the wire are microseconds at rest."""
    return f"{name.removesuffix('_ns')}_us" if name.endswith("_ns") else name


def table_of(record_class: RecordClass) -> Table:
    """The table of one record class."""
    name = record_class.name
    columns = [(stored_name(each.name), _TYPES[each.type]) for each in record_class.columns]
    if name in _ATTRIBUTED:
        columns += [("subscriber", "String"), ("reason", "String")]
    return Table(
        name,
        (*columns, *_PROVENANCE),
        _MATERIALIZED,
        stored_name(record_class.time),
        "day" if name in _DAILY else "month",
        name in _REPLACING,
        name in _PERSONAL,
    )


DEMAND: Final = Table(
    "demand",
    (
        ("area", "String"),
        ("start_us", "Int64"),
        ("window_us", "Int64"),
        ("up_bytes", "UInt64"),
        ("down_bytes", "UInt64"),
        ("active_lines", "UInt32"),
        ("lines_known", "UInt8"),
        *_PROVENANCE,
    ),
    _MATERIALIZED,
    "start_us",
    "month",
    replacing=False,
    personal=False,
)
"""Volume of an area; `active_lines` is 0 and `lines_known` 0 where fewer than k lines were."""

LEDGER: Final = Table(
    "ingest_ledger",
    (
        ("collector", "String"),
        ("epoch", "String"),
        ("sequence", "UInt64"),
        ("batch", "FixedString(16)"),
        ("sha256", "String"),
        ("rows", "UInt64"),
        ("window_start_us", "Int64"),
        ("window_end_us", "Int64"),
        ("received_us", "Int64"),
        ("verdict", "String"),
        ("lag_us", "Int64"),
    ),
    (("time", "DateTime('UTC')"),),
    "received_us",
    "month",
    replacing=False,
    personal=False,
)
"""What was taken from whom. It outlives the rows, so that a resend brings no purged rows back."""

RECORD_TABLES: Final[dict[str, Table]] = {
    name: table_of(record_class) for name, record_class in CLASSES.items()
}
CLOSED: Final = Table(
    "closed_partitions",
    (("record_class", "String"), ("first_open", "UInt32"), ("version", "UInt64")),
    (),
    "",
    "month",
    replacing=True,
    personal=False,
)
"""Which partitions take no more rows: per class, all below the `first_open` of the newest version.
The retention service writes it, ingest reads it. Not partitioned: it has a row for each class."""

ARRIVED: Final = ("arrived", "DateTime('UTC')")
"""When the server took a late row, by its own clock; late tables are partitioned by it."""

LATE_TABLES: Final[dict[str, Table]] = {
    f"late_{name}": replace(table, name=f"late_{name}", computed=(*table.computed, ARRIVED))
    for name, table in RECORD_TABLES.items()
    if table.personal
}
"""Where rows of a closed partition go: only the retention service reads them. Their partitions are
slots of arrival and not the class's period, so that one that is over takes no more rows."""

TABLES: Final[dict[str, Table]] = {
    **RECORD_TABLES,
    "demand": DEMAND,
    "ingest_ledger": LEDGER,
    "closed_partitions": CLOSED,
    **LATE_TABLES,
}


def check(client: Reader, database: str) -> None:
    """Raise SchemaError unless every table has exactly the columns and types this code expects.

    Compression codecs are not part of a type and may differ by server version.
    """
    found: dict[str, dict[str, str]] = {}
    rows = client.query_columns(
        "SELECT table, name, type FROM system.columns WHERE database = %(database)s",
        {"database": database},
    )
    for table, name, kind in zip(rows["table"], rows["name"], rows["type"], strict=True):
        found.setdefault(str(table), {})[str(name)] = str(kind)
    problems = []
    for expected in TABLES.values():
        live = found.get(expected.name)
        if live is None:
            problems.append(f"table {expected.name} is missing")
            continue
        problems += _differences(expected, live)
    if problems:
        shown = "; ".join(problems[:10])
        raise SchemaError(
            f"the tables in database {database} are not the ones this version writes: {shown}."
            " Run `tallyhold aggregator migrate`, or install the version that made them."
        )


def _differences(expected: Table, live: Mapping[str, str]) -> list[str]:
    wanted = dict((*expected.columns, *expected.computed))
    problems = [f"{expected.name}.{name} is missing" for name in wanted if name not in live]
    problems += [f"{expected.name}.{name} is not known here" for name in live if name not in wanted]
    problems += [
        f"{expected.name}.{name} is {live[name]}, not {kind}"
        for name, kind in wanted.items()
        if name in live and live[name] != kind
    ]
    return problems
