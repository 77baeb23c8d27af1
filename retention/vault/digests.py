"""Rows in, salted digests and the Merkle root over them out. Pure.

A row's digest is SHA-256 over a salt and the row's canonical bytes: every stored column in the
order of its table, each behind its length (4 bytes, big end first), an integer as 8 bytes with the
little end first (two's complement), text as UTF-8, a fixed string as it is. A root is that of RFC
6962 over the sorted digests, so it does not depend on the order in which an engine gives rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from aggregator.store.schema import Table
from retention.audit.merkle import EMPTY_ROOT, leaf_hash, node_hash

DIGEST_BYTES: Final = 32
Array: TypeAlias = np.ndarray[Any, Any]


def canonical(table: Table, columns: Mapping[str, Sequence[Any]], rows: Array) -> list[bytes]:
    """Canonical bytes of the rows at these positions."""
    positions = rows.tolist()
    if not positions:
        return []
    pieces: list[Iterable[bytes]] = []
    run: list[Array] = []  # neighbouring columns of a fixed width, as octets
    for name, kind in table.columns:
        values = columns[name]
        chosen = [values[position] for position in positions]
        if kind == "String":
            pieces += _joined(run)
            run = []
            pieces.append(map(_Prefixed().__getitem__, chosen))
        else:
            run.append(_octets(kind, chosen))
    return list(map(b"".join, zip(*pieces, *_joined(run), strict=True)))


class _Prefixed(dict[str, bytes]):
    """Text behind its length, each distinct value encoded once."""

    def __missing__(self, text: str) -> bytes:
        data = text.encode()
        made = self[text] = len(data).to_bytes(4, "big") + data
        return made


def _octets(kind: str, values: list[Any]) -> Array:
    """Fixed strings or integers behind their length: a row of octets for each."""
    if kind.startswith("FixedString"):
        data = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)
    else:
        wide = np.array(values, dtype="<u8" if kind.startswith("U") else "<i8")
        data = wide.view(np.uint8).reshape(-1, 8)
    size = np.frombuffer(data.shape[1].to_bytes(4, "big"), dtype=np.uint8)
    return np.hstack([np.broadcast_to(size, (len(values), 4)), data])


def _joined(run: list[Array]) -> list[list[bytes]]:
    """Neighbouring columns of octets as one column of bytes; none for none."""
    if not run:
        return []
    wide = np.ascontiguousarray(np.hstack(run))
    return [wide.view(f"V{wide.shape[1]}").ravel().tolist()]


def salted(salt: bytes, rows: Iterable[bytes]) -> bytes:
    """The digests of canonical rows under one salt, one after the other."""
    sha256 = hashlib.sha256
    return b"".join([sha256(salt + row).digest() for row in rows])


def ordered(items: bytes | bytearray, size: int) -> list[bytes]:
    """Equal-sized items, one after the other, in ascending order of their bytes."""
    values: list[bytes] = np.frombuffer(bytes(items), dtype=f"V{size}").tolist()
    return sorted(values)


def root_of(digests: bytes | bytearray) -> bytes:
    """RFC 6962's root over the sorted digests.

    Level by level, a node without a neighbour moving up as it is: the same tree as the RFC's, which
    splits at the largest power of two.
    """
    level = [leaf_hash(digest) for digest in ordered(digests, DIGEST_BYTES)]
    while len(level) > 1:
        alone = level[-1:] if len(level) % 2 else []
        level = [*map(node_hash, level[:-1:2], level[1::2]), *alone]
    return level[0] if level else EMPTY_ROOT


def digest_of(digests: bytes | bytearray) -> str:
    """SHA-256, hex, over the sorted digests."""
    return hashlib.sha256(b"".join(ordered(digests, DIGEST_BYTES))).hexdigest()


def packed(ids: Sequence[bytes], hashes: Sequence[int]) -> bytes:
    """Keys of rows as `Selection.ids` has them, in the order given."""
    tails = [each.to_bytes(8, "little") for each in hashes]
    return b"".join(map(b"".join, zip(ids, tails, strict=True)))
