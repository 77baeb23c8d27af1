"""Leaf hashes in, one at a time; hash tiles and roots out, in memory that does not grow.

`merkle.Tree` keeps every hash, to give proofs. Who only checks a log needs the right edge of the
tree: one hash for each bit of its size, and the tile of each level that is not full yet.
"""

from __future__ import annotations

from collections.abc import Iterator

from retention.audit.merkle import EMPTY_ROOT, TILE, TILE_BITS, Tile, node_hash

_FULL = 32 * TILE


class Frontier:
    """The right edge of a growing tree."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # of 2^k leaves at k; empty where the size has no such bit
        self._rows: list[bytearray] = []  # hashes of each tile level since its last full tile

    def append(self, hashed: bytes) -> list[tuple[Tile, bytes]]:
        """Add one leaf hash; give the tiles that became full, with their bytes."""
        self.size += 1
        full, level = list[tuple[Tile, bytes]](), 0
        while True:
            if level % TILE_BITS == 0:
                full += self._in_row(level // TILE_BITS, hashed)
            if level == len(self._peaks):
                self._peaks.append(b"")
            if not self._peaks[level]:
                self._peaks[level] = hashed
                return full
            hashed, self._peaks[level] = node_hash(self._peaks[level], hashed), b""
            level += 1

    def partials(self) -> Iterator[tuple[Tile, bytes]]:
        """The tiles that are not full."""
        for level, row in enumerate(self._rows):
            if row:
                number = (self.size >> (level * TILE_BITS)) // TILE
                yield Tile(level, number, len(row) // 32), bytes(row)

    def root(self) -> bytes:
        """Root of the leaves so far (RFC 6962 section 2.1)."""
        root = b""
        for peak in self._peaks:
            if peak:
                root = node_hash(peak, root) if root else peak
        return root or EMPTY_ROOT

    def _in_row(self, level: int, hashed: bytes) -> list[tuple[Tile, bytes]]:
        if level == len(self._rows):
            self._rows.append(bytearray())
        row = self._rows[level]
        row += hashed
        if len(row) < _FULL:
            return []
        number = (self.size >> (level * TILE_BITS)) // TILE - 1
        self._rows[level] = bytearray()
        return [(Tile(level, number, TILE), bytes(row))]
