"""The start of a byte stream, put together from pieces that come in any order.

TCP segments and QUIC CRYPTO frames both carry (offset, bytes) with losses, repeats and overlaps.
"""

from __future__ import annotations

from typing import Final

from collector.parse.reader import ParseError

MAX_PIECES: Final = 64
"""Pieces kept that wait for one before them. The largest hello, 64 KiB, is 47 segments of 1,400
bytes; Chromium cuts its own into some ten CRYPTO frames."""


class Prefix:
    """The first `limit` bytes of a stream.

    Where two pieces disagree about a byte, the copy that came first wins, whether it is already
    part of the whole or still waits.
    """

    __slots__ = ("_limit", "_waiting", "data")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        """The bytes that are there without a hole, from offset 0."""
        self._waiting: list[tuple[int, bytes]] = []
        self._limit = limit

    @property
    def held(self) -> int:
        """Bytes in memory, those that wait among them."""
        return len(self.data) + sum(len(piece) for _, piece in self._waiting)

    @property
    def full(self) -> bool:
        return len(self.data) >= self._limit

    def add(self, offset: int, piece: bytes) -> bool:
        """Takes a piece in; whether `data` grew.

        `offset` may be negative: what lies before the stream is cut off, as is what lies beyond
        the limit. Raises ParseError("pieces") when more than MAX_PIECES would wait.
        """
        data = self.data
        end = min(offset + len(piece), self._limit)
        start = max(offset, len(data))
        if start >= end:
            return False
        if not self._waiting and start == len(data):
            data += piece[start - offset : end - offset] if end - start < len(piece) else piece
            return True
        self._wait(offset, piece, start, end)
        return self._drain()

    def _wait(self, offset: int, piece: bytes, start: int, end: int) -> None:
        """Keeps the parts of piece[start:end] (in stream offsets) that nothing kept covers."""
        fresh: list[tuple[int, bytes]] = []
        for begin, kept in self._waiting:
            if begin >= end:
                break
            if start < begin:
                fresh.append((start, piece[start - offset : begin - offset]))
            start = max(start, begin + len(kept))
        if start < end:
            fresh.append((start, piece[start - offset : end - offset]))
        if not fresh:
            return
        self._waiting = sorted(self._waiting + fresh)
        if len(self._waiting) > MAX_PIECES + 1:
            raise ParseError("pieces")

    def _drain(self) -> bool:
        """Moves what has become contiguous into `data`; whether there was any."""
        data = self.data
        taken = 0
        for begin, kept in self._waiting:
            if begin != len(data):
                break
            data += kept
            taken += 1
        if taken:
            del self._waiting[:taken]
        return taken > 0
