"""What tells two sets of rows apart, whatever their order: asked of a table, or of rows' keys.

It finds copies that went wrong. That what is kept is what the log says is proved by digests over a
salt, which nobody can aim at (`digests`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from aggregator.store.client import Client
from retention.model import Place
from retention.vault.scratch import KEY_TYPE
from retention.vault.tables import FINAL_BY_PARTITION, row_hash


class Fingerprint(NamedTuple):
    """Count, xor and sum of row hashes."""

    rows: int = 0
    xor: int = 0
    total: int = 0

    def plus(self, other: Fingerprint) -> Fingerprint:
        """Of both sets together."""
        return Fingerprint(
            self.rows + other.rows, self.xor ^ other.xor, (self.total + other.total) % 2**64
        )

    def minus(self, part: Fingerprint) -> Fingerprint:
        """Of what is left of a set without a part of it."""
        return Fingerprint(
            self.rows - part.rows, self.xor ^ part.xor, (self.total - part.total) % 2**64
        )

    @classmethod
    def of(cls, ids: bytes) -> Fingerprint:
        """Of the rows of a selection, by what was read of them."""
        hashes = np.frombuffer(ids, dtype=KEY_TYPE)["row_hash"]
        xor = int(np.bitwise_xor.reduce(hashes)) if len(hashes) else 0
        return cls(len(hashes), xor, int(np.add.reduce(hashes, dtype=np.uint64)))

    @classmethod
    def together(cls, parts: Iterable[Fingerprint]) -> Fingerprint:
        """Of all these sets."""
        whole = cls()
        for part in parts:
            whole = whole.plus(part)
        return whole


def fingerprint(client: Client, place: Place, source: str) -> Fingerprint:
    """Of the rows that a FROM clause gives."""
    each = row_hash(place.record_class)
    found = client.query_columns(
        f"SELECT count() AS n, groupBitXor({each}) AS x, sum({each}) AS s FROM {source}",
        None,
        FINAL_BY_PARTITION,
    )
    return Fingerprint(int(found["n"][0]), int(found["x"][0]), int(found["s"][0]))
