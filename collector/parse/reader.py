"""Bounds-checked reading of hostile bytes: the one error and the one cursor of all parsers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")


class ParseError(ValueError):
    """The bytes are not what they claim to be.

    `reason` is one short stable word, fit for a metric label. Neither it nor the message ever
    holds bytes of the packet, so the error may be logged.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The bytes are right so far, but more are needed: at least `need` in all from the start."""

    need: int


class Reader:
    """A cursor over `data[start:end]` that never reads past its end.

    Every method that needs more bytes than remain raises ParseError("truncated").
    """

    __slots__ = ("_data", "_end", "_pos")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        if not 0 <= start <= self._end <= len(data):
            raise ParseError("truncated")
        self._pos = start

    @property
    def position(self) -> int:
        """Offset of the next byte in the whole data, not in the restricted part."""
        return self._pos

    @property
    def remaining(self) -> int:
        """Bytes left."""
        return self._end - self._pos

    def _advance(self, count: int) -> int:
        """Moves on by `count` bytes and gives the position before."""
        start = self._pos
        if not 0 <= count <= self._end - start:
            raise ParseError("truncated")
        self._pos = start + count
        return start

    def u8(self) -> int:
        return self._data[self._advance(1)]

    def u16(self) -> int:
        value: int = _U16.unpack_from(self._data, self._advance(2))[0]
        return value

    def u24(self) -> int:
        start = self._advance(3)
        return int.from_bytes(self._data[start : start + 3], "big")

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self._advance(4))[0]
        return value

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self._advance(count)
        return self._data[start : start + count]

    def rest(self) -> bytes:
        """All bytes left."""
        return self.take(self._end - self._pos)

    def skip(self, count: int) -> None:
        """Passes over `count` bytes."""
        self._advance(count)

    def peek(self, count: int = 1) -> bytes:
        """The next bytes without moving, fewer than `count` at the end."""
        return self._data[self._pos : min(self._pos + max(count, 0), self._end)]

    def restrict(self, count: int) -> Reader:
        """A reader of the next `count` bytes; this one moves past them.

        The caller reads the part to its end and then calls `done()` on it, which makes a length
        that disagrees with its content an error.
        """
        start = self._advance(count)
        return Reader(self._data, start, start + count)

    def done(self) -> None:
        """Raises ParseError("trailing") unless every byte was read."""
        if self._pos != self._end:
            raise ParseError("trailing")
