"""The stored tables in, what is in them that must not be, or is not and must be, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from collector.wire.records import CLASSES
from safeguard import ledger
from safeguard.document import Document
from safeguard.model import Cell, Release
from safeguard.stored import Reader

COUNTS: Final[Mapping[str, str]] = {
    "record_id": "FixedString(16)",
    "observed_us": "Int64",
    "start_us": "Int64",
    "end_us": "Int64",
    "marginal": "String",
    "region": "String",
    "category": "String",
    "count": "Int64",
    "mechanism": "FixedString(16)",
    "release": "FixedString(16)",
}
ENTRIES: Final[Mapping[str, str]] = {
    "record_id": "FixedString(16)",
    "observed_us": "Int64",
    "start_us": "Int64",
    "end_us": "Int64",
    "release": "FixedString(16)",
    "mechanism": "FixedString(16)",
    "marginal": "String",
    "scale_num": "UInt32",
    "scale_den": "UInt32",
    "l0": "UInt32",
    "epsilon_micro": "UInt64",
    "routers": "UInt32",
    "restarts": "UInt32",
    "rows": "UInt32",
    "outcome": "String",
}
OF_EVERY_TABLE: Final[Mapping[str, str]] = {
    "collector": "String",
    "boot": "String",
    "batch": "FixedString(16)",
    "schema_version": "UInt8",
    "time": "DateTime('UTC')",
    "clock_day": "Date",
}
"""Where a row came from, and the window's start again; none of it is of a household."""
ALLOWED: Final = {"block_count": COUNTS, "safeguard_ledger": ENTRIES}
"""The contract, written down a second time: not read from the code that it is to judge."""
_TELLING: Final = frozenset(
    {"category", "categories", "blocked", "block", "tag", "household", "household_tag", "noise"}
)
"""No column of any other table may be called so."""
MAX_FOUND: Final = 10

_COLUMNS: Final = """
SELECT table, name, type FROM system.columns WHERE database = %(database)s"""
_TIMES: Final = """
SELECT count() AS odd FROM {table}
WHERE start_us >= %(start)s AND start_us < %(end)s AND (
    observed_us != end_us OR end_us <= start_us OR start_us %% (end_us - start_us) != 0
    OR %(day)s %% (end_us - start_us) != 0)"""


def schema(client: Reader, database: str) -> list[str]:
    """Columns that the contract does not know, in the tables and in what collectors send."""
    found = []
    columns: dict[str, dict[str, str]] = defaultdict(dict)
    listed = client.query_columns(_COLUMNS, {"database": database})
    for table, name, kind in zip(*listed.values(), strict=True):
        columns[table][name] = kind
    for table, allowed in ALLOWED.items():
        wanted = {**allowed, **OF_EVERY_TABLE}
        if columns[table] != wanted:
            odd = {name for name in columns[table] if columns[table][name] != wanted.get(name)}
            found.append(f"{table}: {', '.join(sorted(odd)) or 'a column is missing'}")
        sent = {f"{n[:-3]}_us" if n.endswith("_ns") else n for n in CLASSES[table].names}
        if sent != set(allowed):
            found.append(f"collectors send of {table}: {', '.join(sorted(sent ^ set(allowed)))}")
    for table, names in columns.items():
        if table not in ALLOWED and not _TELLING.isdisjoint(names):
            found.append(f"{table}: {', '.join(sorted(_TELLING & names.keys()))}")
    return found


def times(client: Reader, span: tuple[int, int], day_us: int) -> list[str]:
    """Rows whose times are not the bounds of a window."""
    found = []
    for table in ALLOWED:
        params = {"start": span[0], "end": span[1], "day": day_us}
        (odd,) = client.query_columns(_TIMES.format(table=table), params)["odd"]
        if odd:
            found.append(f"{table}: {odd} rows have a time that is not a bound of their window")
    return found


def domain(releases: Sequence[Release]) -> list[str]:
    """Releases that lack a cell, or have one that they should not."""
    found = []
    domains: dict[bytes, set[Cell]] = {}
    for each in releases:
        where = f"{each.collector} {each.marginal} {each.start_us}"
        if each.is_released:
            if len(each.counts) != each.rows:
                found.append(f"{where}: {len(each.counts)} cells of {each.rows}")
            if each.own_mechanism() != each.mechanism:
                found.append(f"{where}: its cells are not those that its mechanism was named by")
            if domains.setdefault(each.mechanism, set(each.counts)) != set(each.counts):
                found.append(f"{where}: other cells than the windows before it")
        elif each.counts:
            found.append(f"{where}: silent, with counts")
    return found[:MAX_FOUND]


def charges(releases: Sequence[Release], budget_micro: int, day_us: int) -> list[str]:
    """Charges that are not of their parameters, days over the budget, windows told twice."""
    return ledger.wrong(releases, budget_micro, day_us)[:MAX_FOUND]


def logged(
    releases: Sequence[Release], leaves: Mapping[str, Document], twice: int, span: tuple[int, int]
) -> list[str]:
    """What the audit log has otherwise."""
    found = [f"{twice} releases have two leaves"] if twice else []
    found += ledger.unlike(releases, leaves) + ledger.gone(releases, leaves, *span)
    return found[:MAX_FOUND]
