"""Values that a statement needs but must not contain: put into temporary tables as native blocks.

A statement's text stands in query logs, in system.processes and in a server's log files, so
identifiers and chosen rows never do. A temporary table lives in memory and in one connection, which
is a thread's: nobody else sees it, and it goes with the connection. Each use has a random name, so
that two runs never mix.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from aggregator.store.client import MAX_BLOCK_ROWS, Client, StoreError
from retention.vault.port import KEY_BYTES

KEY_TYPE: Final = np.dtype([("record_id", "V16"), ("row_hash", "<u8")])
assert KEY_TYPE.itemsize == KEY_BYTES

MAX_VALUES: Final = 4_000_000
"""Values of one scope table: 100,000 identifiers with every prefix that could hold them."""


@contextlib.contextmanager
def scope_table(client: Client, lists: Sequence[Sequence[bytes]]) -> Iterator[str]:
    """A table of (list UInt16, value String) with the values of each list under its position."""
    if sum(map(len, lists)) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values in the scopes of all holds")
    with _temporary(client, "scope", "list UInt16, value String") as name:
        for number, values in enumerate(lists):
            for first in range(0, len(values), MAX_BLOCK_ROWS):
                block = list(values[first : first + MAX_BLOCK_ROWS])
                numbers = np.full(len(block), number, dtype=np.uint16)
                client.insert(name, {"list": numbers, "value": block})
        yield name


@contextlib.contextmanager
def chosen_table(client: Client, ids: bytes) -> Iterator[str]:
    """A table of (record_id FixedString(16), row_hash UInt64) with the rows of a selection."""
    rows = np.frombuffer(ids, dtype=KEY_TYPE)
    kinds = "record_id FixedString(16), row_hash UInt64"
    with _temporary(client, "chosen", kinds) as name:
        for first in range(0, len(rows), MAX_BLOCK_ROWS):
            block = rows[first : first + MAX_BLOCK_ROWS]
            client.insert(name, {n: np.ascontiguousarray(block[n]) for n in KEY_TYPE.names or ()})
        yield name


@contextlib.contextmanager
def _temporary(client: Client, kind: str, columns: str) -> Iterator[str]:
    name = f"tallyhold_{kind}_{secrets.token_hex(8)}"
    client.execute(f"CREATE TEMPORARY TABLE {name} ({columns})")
    try:
        yield name
    finally:
        # Where the connection was lost, so is the table; there is nothing to clean then.
        with contextlib.suppress(StoreError):
            client.execute(f"DROP TEMPORARY TABLE IF EXISTS {name}")
