"""What every question to the store has in common: its reader, its rows, its span of days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from aggregator.queries.arithmetic import DAY_US

Row = dict[str, Any]

FINAL_BY_PARTITION: Final = {"do_not_merge_across_partitions_select_final": 1}
"""All versions of a record lie in one partition, as `clock_day` follows from the sorting key. Where
a server knows this setting, FINAL then reads the partitions of a question and not all there are;
servers without it prune anyway."""

IN_DAYS: Final = "clock_day >= toDate(%(first_day)s) AND clock_day <= toDate(%(last_day)s)"
"""Condition beside every condition on a time in microseconds: it alone rules out partitions."""

_EPOCH: Final = dt.date(1970, 1, 1)
_LAST_DAY: Final = 49_672
"""2105-12-31: ClickHouse's Date ends within the year after."""


class Reader(Protocol):
    """The part of the store's client that answers need."""

    def query_columns(
        self,
        sql: str,
        params: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> Mapping[str, list[Any]]: ...


def rows_of(
    client: Reader,
    sql: str,
    params: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Row]:
    """The answer's rows as dictionaries; for results of a size that people read."""
    columns = client.query_columns(sql, params, settings)
    names = list(columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def span(start_us: int, end_us: int) -> dict[str, Any]:
    """Parameters of [start, end): `start` and `end` in microseconds, the days for IN_DAYS."""
    return {
        "start": start_us,
        "end": end_us,
        "first_day": _day(start_us),
        "last_day": _day(end_us - 1),
    }


def _day(us: int) -> str:
    number = min(max(us // DAY_US, 0), _LAST_DAY)
    return (_EPOCH + dt.timedelta(days=number)).isoformat()
