"""Stored bindings in, `Binding` values out: to fill the index at start and to resolve late rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from aggregator.attribution.bindings import OPEN, Binding

_DAY_US: Final = 86_400_000_000


class Reader(Protocol):
    """The part of the store's client that the feed needs."""

    def query_columns(self, sql: str, params: Mapping[str, Any]) -> Mapping[str, list[Any]]: ...


def recent_bindings(client: Reader, since_us: int) -> Iterator[tuple[str, Binding]]:
    """(collector, binding) of every slice that starts at or after `since_us`."""
    yield from _read(client, "1", {"low": since_us - _DAY_US, "high": OPEN})


def bindings_of_subscriber(
    client: Reader, subscriber: str, start_us: int, end_us: int
) -> Iterator[tuple[str, Binding]]:
    """Bindings of one subscriber that can meet [start, end); slices are at most a day long."""
    where = {"subscriber": subscriber, "low": start_us - _DAY_US, "high": end_us + _DAY_US}
    yield from _read(client, "subscriber = %(subscriber)s", where)


def bindings_of_addresses(
    client: Reader, collector: str, address: bytes, prefix_len: int, start_us: int, end_us: int
) -> Iterator[tuple[str, Binding]]:
    """Bindings of whoever held any part of a prefix, or all of it, around [start, end)."""
    last = int.from_bytes(address, "big") | ((1 << (128 - prefix_len)) - 1)
    where = {
        "collector": collector,
        "first": address.hex().upper(),
        "last": last.to_bytes(16, "big").hex().upper(),
        "low": start_us - _DAY_US,
        "high": end_us + _DAY_US,
    }
    # A wider binding starts at or before the prefix; the index itself tests containment.
    inside = "hex(address) >= %(first)s AND hex(address) <= %(last)s"
    wider = f"prefix_len < {int(prefix_len)} AND hex(address) <= %(first)s"
    yield from _read(client, f"collector = %(collector)s AND (({inside}) OR ({wider}))", where)


def _read(client: Reader, where: str, params: Mapping[str, Any]) -> Iterator[tuple[str, Binding]]:
    columns = client.query_columns(
        "SELECT collector, record_id, observed_us, subscriber, address, prefix_len,"
        " valid_from_us, valid_to_us FROM binding FINAL"
        f" WHERE {where} AND valid_from_us >= %(low)s AND valid_from_us < %(high)s"
        " ORDER BY valid_from_us",
        params,
    )
    for collector, record, observed, subscriber, address, length, start, end in zip(
        *columns.values(), strict=True
    ):
        yield (
            collector,
            Binding(record, observed, subscriber, address, int(length), start, end or OPEN),
        )
