"""The statements of look-ups: what is read of each class, and the conditions on it.

Every condition names the first columns of its table's key and the days, so that it reads a few
granules however much is stored.
"""

from __future__ import annotations

from typing import Final

from aggregator.queries.reading import IN_DAYS

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "mapping": (
        *("record_id", "observed_us", "kind", "collector", "inside_address", "inside_port"),
        *("protocol", "port_first", "port_last", "start_us", "end_us", "batch"),
    ),
    "binding": (
        *("collector", "record_id", "session_id", "subscriber", "address", "prefix_len"),
        *("valid_from_us", "valid_to_us", "certainty", "source", "batch"),
    ),
    "session": (
        *("session_id", "nas", "line", "acct_session_id", "start_source", "slice_start_us"),
        *("slice_end_us", "end_min_us", "end_max_us", "end_reason", "batch"),
    ),
}
ORDER: Final[dict[str, tuple[str, ...]]] = {
    "mapping": ("start_us", "record_id"),
    "binding": ("collector", "valid_from_us", "record_id"),
    "session": ("session_id", "slice_start_us"),
}
"""What rows are sorted by here, as they come of several shards and tables."""

PORT: Final = """public_address = toFixedString(unhex(%(public)s), 16)
  AND port_first <= %(port)s AND port_last >= %(port)s
  AND (%(any)s = 1 OR protocol = 0 OR protocol = %(protocol)s)"""

FLOWS: Final = f"""
WHERE {PORT} AND kind != 'block' AND start_us < %(end)s AND end_us >= %(start)s AND {IN_DAYS}"""

BLOCKS: Final = f"""
WHERE {PORT} AND kind = 'block' AND start_us < %(end)s AND {IN_DAYS}"""

SHARERS: Final = f"""
SELECT uniqExact(inside_address) AS inside FROM mapping
WHERE public_address = toFixedString(unhex(%(public)s), 16)
  AND start_us < %(end)s AND end_us >= %(start)s AND {IN_DAYS}"""

BINDINGS: Final = f"""
WHERE collector IN (SELECT arrayJoin(%(collectors)s))
  AND address IN (SELECT toFixedString(unhex(arrayJoin(%(bases)s)), 16)) AND {IN_DAYS}"""

SESSIONS: Final = f"""
WHERE subscriber IN (SELECT arrayJoin(%(subscribers)s))
  AND session_id IN (SELECT toFixedString(unhex(arrayJoin(%(ids)s)), 16)) AND {IN_DAYS}"""

GAPS: Final = """
SELECT DISTINCT collector, start_us, end_us, stage, reason, classes
FROM gap
WHERE start_us < %(end)s AND end_us >= %(start)s AND clock_day <= toDate(%(last_day)s)"""

MARKS: Final = """
SELECT collector, max(window_end_us) AS mark FROM ingest_ledger
WHERE time >= toDateTime(toDate(%(first_day)s), 'UTC')
  AND time < toDateTime(toDate(%(last_day)s), 'UTC')
GROUP BY collector ORDER BY collector"""

ARRIVED: Final = """
SELECT batch, min(received_us) AS received FROM ingest_ledger
WHERE time >= toDateTime(toDate(%(first_day)s), 'UTC')
  AND batch IN (SELECT toFixedString(unhex(arrayJoin(%(batches)s)), 16))
GROUP BY batch"""
