"""Unattributed rows in, those whose subscriber is known by now out.

A row may be stored before the binding it belongs to: the collectors restart, batches overtake one
another. Nothing is rewritten then; answers resolve such rows again, by the same rule as ingest and
the history as it is now. Whoever held an address in the period is looked up once for all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aggregator.attribution.attribute import DEFAULT_TOLERANCE_US, attribute_row
from aggregator.attribution.bindings import BindingIndex
from aggregator.attribution.feed import Prefix, bindings_over, prefixes_of
from aggregator.queries.arithmetic import Period
from aggregator.queries.reading import FINAL_BY_PARTITION, IN_DAYS, Reader, Row, rows_of, span

MAX_ROWS: Final = 200_000
"""Rows resolved at a time, about 200 MB: what one address has in a month of five minutes is 9,000,
so a chunk is at least one address whatever it has."""
MAX_ADDRESSES: Final = 1000
"""Addresses resolved at a time: 36 kB of a statement's text."""
_RANGES: Final = 100
"""Ranges of addresses in one statement."""

USAGE: Final = """start_us, end_us, up_bytes, down_bytes, up_packets, down_packets, flows"""
CALL: Final = """record_id, observed_us, direction, a_raw, a_e164, b_raw, b_e164, connected_raw,
       connected_e164, charged, presentation, start_us, ring_us, answer_us, end_min_us, end_max_us,
       setup_ms, ring_ms, talk_ms, disposition, sip_code, q850, released_by, emergency, partial,
       flags"""
_TABLES: Final = {"usage": ("usage", USAGE), "call": ("call FINAL", CALL)}


def late_rows(
    client: Reader,
    table: str,
    period: Period,
    subscriber: str = "",
    tolerance_us: int = DEFAULT_TOLERANCE_US,
) -> Iterator[tuple[str, str, Row]]:
    """(subscriber, reason, row) of each row of `usage` or `call` that was stored unattributed.

    `subscriber` limits them to one. Rows come in a fixed order; reason is "" or "bounded".
    """
    if subscriber:
        held = prefixes_of(client, subscriber, period.start_us, period.end_us)
        waiting = [
            each
            for first in range(0, len(held), _RANGES)
            for each in _waiting(client, table, period, held[first : first + _RANGES])
        ]
    else:
        waiting = list(_waiting(client, table, period))
    for chunk in _chunks(sorted(set(waiting))):
        for found, reason, row in _resolve(client, table, period, chunk, tolerance_us):
            if found and subscriber in ("", found):
                yield found, reason, row


def _waiting(
    client: Reader, table: str, period: Period, inside: Sequence[Prefix] = ()
) -> Iterator[tuple[Prefix, int]]:
    """Prefixes with unattributed rows, and how many, everywhere or inside the prefixes given."""
    where: dict[str, Any] = span(period.start_us, period.end_us)
    ranges = []
    for n, (collector, address, prefix_len) in enumerate(inside):
        last = int.from_bytes(address, "big") | ((1 << (128 - prefix_len)) - 1)
        where[f"collector_{n}"] = collector
        where[f"low_{n}"] = address.hex()
        where[f"high_{n}"] = last.to_bytes(16, "big").hex()
        ranges.append(
            f"(collector = %(collector_{n})s"
            f" AND address >= toFixedString(unhex(%(low_{n})s), 16)"
            f" AND address <= toFixedString(unhex(%(high_{n})s), 16))"
        )
    found = client.query_columns(
        f"SELECT collector, address, prefix_len, count() AS rows FROM {_TABLES[table][0]}"
        f" WHERE subscriber = '' AND {_IN_PERIOD} AND ({' OR '.join(ranges) or '1'})"
        " GROUP BY collector, address, prefix_len",
        where,
        FINAL_BY_PARTITION,
    )
    for collector, address, prefix_len, rows in zip(*found.values(), strict=True):
        yield (collector, address, int(prefix_len)), rows


def _chunks(waiting: list[tuple[Prefix, int]]) -> Iterator[list[Prefix]]:
    """Prefixes of one collector in portions of at most MAX_ROWS rows, or of one prefix."""
    chunk: list[Prefix] = []
    total = 0
    for prefix, rows in waiting:
        if chunk and (
            total + rows > MAX_ROWS or len(chunk) == MAX_ADDRESSES or chunk[0][0] != prefix[0]
        ):
            yield chunk
            chunk, total = [], 0
        chunk.append(prefix)
        total += rows
    if chunk:
        yield chunk


def _resolve(
    client: Reader, table: str, period: Period, chunk: list[Prefix], tolerance_us: int
) -> Iterator[tuple[str, str, Row]]:
    index = BindingIndex()
    for name, each in bindings_over(client, chunk, period.start_us, period.end_us):
        index.apply(name, [each])
    if not len(index):
        return
    source, columns = _TABLES[table]
    collector = chunk[0][0]
    where = {
        **span(period.start_us, period.end_us),
        "collector": collector,
        "bases": [address.hex() for _, address, _ in chunk],
    }
    sql = f"""
SELECT address, prefix_len, {columns} FROM {source}
WHERE subscriber = '' AND {_IN_PERIOD} AND collector = %(collector)s
  AND address IN (SELECT toFixedString(unhex(arrayJoin(%(bases)s)), 16))
ORDER BY start_us, record_id"""
    for row in rows_of(client, sql, where, FINAL_BY_PARTITION):
        # A call is attributed by the instant in which it began, as at ingest.
        end = row["end_us"] if "end_us" in row else row["start_us"]
        found, reason = attribute_row(
            index,
            collector,
            row.pop("address"),
            int(row.pop("prefix_len")),
            row["start_us"],
            end,
            tolerance_us,
        )
        yield found, reason, row


_IN_PERIOD: Final = f"start_us >= %(start)s AND start_us < %(end)s AND {IN_DAYS}"
