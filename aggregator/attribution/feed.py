"""Stored bindings in, `Binding` values out: to fill the index at start and to resolve late rows.

A binding is written in slices of a UTC day, so one that is still open says nothing about the next
day: its end is taken to be its midnight. A slice that its collector forgot to close can then never
claim an address that somebody else has had since.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from aggregator.attribution.bindings import Binding

DAY_US: Final = 86_400_000_000
_TOLERANCE_DAYS: Final = 1
"""A row at midnight may be attributed, within the tolerance, by a slice of the day before."""
_ADDRESSES: Final = 1000
"""Addresses in one statement: 36 kB of its text, of 256 kB that a server takes by default."""
_SETTINGS: Final = {"do_not_merge_across_partitions_select_final": 1}
"""All versions of a slice lie in the partition of its day; other partitions are not read."""
_EPOCH: Final = dt.date(1970, 1, 1)

Prefix = tuple[str, bytes, int]
"""Collector, base address and prefix length in 128 bits."""


class Reader(Protocol):
    """The part of the store's client that the feed needs."""

    def query_columns(
        self,
        sql: str,
        params: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> Mapping[str, list[Any]]: ...


def closed_end(valid_from_us: int, valid_to_us: int) -> int:
    """End of a slice, 0 for open: an open one holds until the midnight after its start."""
    return valid_to_us or valid_from_us // DAY_US * DAY_US + DAY_US


def recent_bindings(client: Reader, since_us: int) -> Iterator[tuple[str, Binding]]:
    """(collector, binding) of every slice of the day of `since_us` and of later days."""
    first = since_us // DAY_US
    found = client.query_columns(
        "SELECT DISTINCT intDiv(valid_from_us, 86400000000) AS day FROM binding"
        " WHERE clock_day >= toDate(%(first_day)s) ORDER BY day",
        {"first_day": _text(first)},
    )
    names: dict[str, str] = {}
    # A day at a time, and each collector's name once: a month of a large network is millions.
    for day in found.get("day", []):
        for collector, binding in _read(client, "1", _days(day * DAY_US, day * DAY_US + 1, 0)):
            yield names.setdefault(collector, collector), binding


def prefixes_of(client: Reader, subscriber: str, start_us: int, end_us: int) -> list[Prefix]:
    """Every prefix that a subscriber held at some time around [start, end), in order."""
    found = client.query_columns(
        "SELECT DISTINCT collector, address, prefix_len FROM binding"
        f" WHERE subscriber = %(subscriber)s AND {_IN_DAYS}"
        " ORDER BY collector, address, prefix_len",
        {"subscriber": subscriber, **_days(start_us, end_us, _TOLERANCE_DAYS)},
    )
    return list(zip(*found.values(), strict=True)) if found else []


def bindings_over(
    client: Reader, prefixes: Iterable[Prefix], start_us: int, end_us: int
) -> Iterator[tuple[str, Binding]]:
    """Bindings around [start, end) of every prefix given and of every wider one that holds it."""
    wanted = set(prefixes)
    days = _days(start_us, end_us, _TOLERANCE_DAYS)
    lengths = client.query_columns(
        f"SELECT DISTINCT prefix_len FROM binding WHERE {_IN_DAYS} ORDER BY prefix_len", days
    )
    for length in map(int, lengths.get("prefix_len", [])):
        bases: dict[str, set[str]] = {}
        for collector, address, prefix_len in wanted:
            if length <= prefix_len:
                bases.setdefault(collector, set()).add(_base(address, length))
        for collector, found in sorted(bases.items()):
            ordered = sorted(found)
            for first in range(0, len(ordered), _ADDRESSES):
                part = {
                    **days,
                    "collector": collector,
                    "length": length,
                    "bases": ordered[first : first + _ADDRESSES],
                }
                yield from _read(client, f"{_ONE_OF} AND prefix_len = %(length)s", part)


def _base(address: bytes, prefix_len: int) -> str:
    shift = 128 - prefix_len
    number = int.from_bytes(address, "big") >> shift << shift
    return number.to_bytes(16, "big").hex()


def _days(start_us: int, end_us: int, around: int) -> dict[str, Any]:
    first = start_us // DAY_US - around
    last = (end_us - 1) // DAY_US + around
    return {
        "low": first * DAY_US,
        "high": (last + 1) * DAY_US,
        "first_day": _text(first),
        "last_day": _text(last),
    }


def _text(day: int) -> str:
    # 2105-12-31: ClickHouse's Date ends within the year after.
    return (_EPOCH + dt.timedelta(days=min(max(day, 0), 49_672))).isoformat()


_IN_DAYS: Final = (
    "valid_from_us >= %(low)s AND valid_from_us < %(high)s"
    " AND clock_day >= toDate(%(first_day)s) AND clock_day <= toDate(%(last_day)s)"
)
_ONE_OF: Final = (
    "collector = %(collector)s"
    " AND address IN (SELECT toFixedString(unhex(arrayJoin(%(bases)s)), 16))"
)


def _read(client: Reader, where: str, params: Mapping[str, Any]) -> Iterator[tuple[str, Binding]]:
    columns = client.query_columns(
        "SELECT collector, record_id, observed_us, subscriber, address, prefix_len,"
        " valid_from_us, valid_to_us FROM binding FINAL"
        f" WHERE {where} AND {_IN_DAYS}"
        " ORDER BY valid_from_us, record_id",
        params,
        _SETTINGS,
    )
    for collector, record, observed, subscriber, address, length, start, end in zip(
        *columns.values(), strict=True
    ):
        yield (
            collector,
            Binding(
                record, observed, subscriber, address, int(length), start, closed_end(start, end)
            ),
        )
