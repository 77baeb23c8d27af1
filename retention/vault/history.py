"""Identifiers of a hold in, the bindings, mappings and sessions that name them out.

Resolving a hold goes from identifier to identifier through these rows. They are read where they
are: live, late and in the vault. They decide nothing of what is kept; the matcher does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from retention.holds.narrowing import keys
from retention.model import DAY_US, NEVER, ScopeItem
from retention.vault.narrow import Clause, clause
from retention.vault.port import PreserveError
from retention.vault.scratch import scope_table
from retention.vault.shards import Shard
from retention.vault.tables import FINAL_BY_PARTITION, Kept, Names, in_days, names_of

CLASSES: Final = ("binding", "mapping", "session")
STORES: Final[tuple[Kept, ...]] = ("live", "late", "vault")
MAX_ROWS: Final = 1_000_000
"""Rows of one class read for one hold. One address has a few bindings a day, and a year of mappings
of one subscriber is a hundred thousand; more is a prefix of a whole region."""

Columns = Mapping[str, Sequence[Any]]


def history(
    shards: Sequence[Shard], names: Names, items: Sequence[ScopeItem]
) -> dict[str, Columns]:
    """All stored columns of the rows of each of CLASSES that could match; a superset.

    What classes the items are for does not count here. Raises PreserveError "too-many".
    """
    found: dict[str, Columns] = {}
    for record_class in CLASSES:
        asked = [replace(item, classes=(record_class,)) for item in items]
        narrowed = clause(keys(record_class, asked))
        columns: dict[str, list[Any]] = {}
        if narrowed is not None:
            days = _days(record_class, asked)
            for shard in shards:
                for kept in STORES:
                    _append(columns, _read(shard, names, record_class, kept, narrowed, days))
        for name in names_of(record_class).split(", "):
            columns.setdefault(name, [])
        found[record_class] = columns
    return found


def _read(
    shard: Shard, names: Names, record_class: str, kept: Kept, narrowed: Clause, days: str
) -> Columns:
    client = shard.first
    with scope_table(client, narrowed.lists) as scope:
        return client.query_columns(
            f"SELECT {names_of(record_class)} FROM {names.source(record_class, kept)}"
            f" {narrowed.over(scope).where(prewhere=False)} AND {days} LIMIT {MAX_ROWS + 1}",
            None,
            FINAL_BY_PARTITION,
        )


def _append(columns: dict[str, list[Any]], more: Columns) -> None:
    for name, values in more.items():
        columns.setdefault(name, []).extend(values)
    if len(columns["record_id"]) > MAX_ROWS:
        raise PreserveError(
            "too-many", f"more than {MAX_ROWS} rows name what the hold names: narrow its scope"
        )


def _days(record_class: str, items: Sequence[ScopeItem]) -> str:
    """Condition on the clock day of rows that meet the items' times.

    Sessions and bindings are sliced by UTC day, so none reaches two days beyond its clock day; the
    clock of a mapping is the day it ended, and it may have begun long before.
    """
    first = min(item.from_us for item in items)
    last = max(item.to_us for item in items)
    if record_class == "mapping":
        return in_days(first, max(first + 1, NEVER))
    return in_days(max(first - 2 * DAY_US, 0), max(last, first + 1))
