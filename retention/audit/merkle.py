"""Turns leaf hashes into roots, proofs and tiles: RFC 6962 section 2.1, C2SP tlog-tiles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

EMPTY_ROOT: Final = hashlib.sha256().digest()
TILE: Final = 256
"""Hashes in a full tile and entries in a full bundle."""
TILE_BITS: Final = 8
ENTRIES: Final = -1
"""The level that stands for entry bundles."""

_TILE_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf's bytes; the prefix keeps leaves and nodes apart (RFC 6962 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Every complete subtree's hash: `levels[k][i]` covers leaves [i·2^k, (i+1)·2^k)."""

    def __init__(self) -> None:
        self.levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self.levels[0])

    def append(self, hashed: bytes) -> None:
        """Add one leaf hash."""
        level = 0
        self.levels[0].append(hashed)
        while len(self.levels[level]) % 2 == 0:
            parent = node_hash(*self.levels[level][-2:])
            level += 1
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(parent)

    def root(self, size: int | None = None) -> bytes:
        """Root of the first `size` leaves."""
        return self._range(0, self._known(self.size if size is None else size))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Audit path of leaf `index` in the tree of `size` (RFC 6962 2.1.1); else ValueError."""
        if not 0 <= index < self._known(size):
            raise ValueError(f"no leaf {index} among {size}")
        low, high, path = 0, size, list[bytes]()
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Proof that the tree of `new` leaves extends that of `old` (2.1.2); else ValueError."""
        if not 0 <= old <= self._known(new):
            raise ValueError(f"no tree of {old} leaves in one of {new}")
        if old in (0, new):
            return []
        low, high, path = 0, new, list[bytes]()
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return ([self._range(low, high)] if low else []) + path[::-1]

    def tile(self, tile: Tile) -> bytes:
        """Bytes of a hash tile of this tree."""
        first = tile.number * TILE
        return b"".join(self.levels[tile.level * TILE_BITS][first : first + tile.width])

    def _known(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")
        return size

    def _range(self, low: int, high: int) -> bytes:
        """MTH(D[low:high]) for the ranges that RFC 6962's recursion meets."""
        count = high - low
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self.levels[level][low >> level]
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def included(hashed: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """Whether `path` proves leaf `index` in the tree of `size` and `root` (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    low, last, result = index, size - 1, hashed
    for step in path:
        if last == 0:
            return False
        if low & 1 or low == last:
            result = node_hash(step, result)
            while not low & 1 and low:
                low, last = low >> 1, last >> 1
        else:
            result = node_hash(result, step)
        low, last = low >> 1, last >> 1
    return last == 0 and result == root


def consistent(old: int, new: int, path: list[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether `path` proves that the tree of `new` extends the one of `old` (RFC 9162 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    steps = ([old_root] if old & (old - 1) == 0 else []) + path
    low, last = old - 1, new - 1
    while low & 1:
        low, last = low >> 1, last >> 1
    if not path or not steps:
        return False
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if low & 1 or low == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not low & 1 and low:
                low, last = low >> 1, last >> 1
        else:
            second = node_hash(second, step)
        low, last = low >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


class Tile(NamedTuple):
    """One tile or entry bundle: `width` hashes or entries from `number`·256 on at `level`."""

    level: int
    number: int
    width: int

    @property
    def path(self) -> str:
        """Where it stands in the log's folder."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{name}" + (f".p/{self.width}" if self.width < TILE else "")


def parse_path(path: str) -> Tile | None:
    """The tile whose path this is, or None for any other path."""
    match = _TILE_PATH.fullmatch(path)
    if not match:
        return None
    level = ENTRIES if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("/", "").replace("x", ""))
    tile = Tile(level, index, int(match["width"] or TILE))
    return tile if tile.path == path else None


def tiles(new: int, old: int = 0) -> Iterator[Tile]:
    """The tiles and bundles of a tree of `new` leaves that one of `old` does not have."""
    for level in range(ENTRIES, 8):
        before, now = (size >> (max(level, 0) * TILE_BITS) for size in (old, new))
        if before == now:
            return
        for index in range(before // TILE, -(-now // TILE)):
            yield Tile(level, index, min(TILE, now - index * TILE))


def superseded(new: int, old: int) -> Iterator[Tile]:
    """The partial tiles and bundles of a tree of `old` leaves that `new` leaves make needless."""
    for level in range(ENTRIES, 8):
        before, now = (size >> (max(level, 0) * TILE_BITS) for size in (old, new))
        if before == now:
            return
        if before % TILE:
            yield Tile(level, before // TILE, before % TILE)


def bundle(entries: list[bytes]) -> bytes:
    """An entry bundle: each entry behind its length in two bytes, big end first."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundle(data: bytes) -> list[bytes]:
    """The entries of a bundle; raises ValueError where it ends inside one."""
    entries, at = list[bytes](), 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise ValueError("an entry bundle ends inside an entry")
        entries.append(data[at + 2 : end])
        at = end
    return entries
