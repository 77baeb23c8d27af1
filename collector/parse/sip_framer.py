"""SIP over TCP: turns one direction of a connection into messages without their bodies."""

from __future__ import annotations

import re
from typing import Final

from collector.parse.sip_head import END, MAX_HEAD_BYTES, START

MAX_BODY_BYTES: Final = 1024 * 1024
"""Longest body stepped over in a stream; a larger Content-Length means that framing was lost."""
_LENGTH: Final = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?\n", re.I)


class Framer:
    """Cuts one direction of a TCP connection into messages by Content-Length.

    RFC 3261 sections 7.5 and 18.3. Give it contiguous bytes; it gives each message's start line
    and headers as soon as their empty line is there, and steps over the body. After bytes that
    cannot be a message, or after `gap`, it looks for the next start line; `skipped` counts bytes
    passed over so.
    """

    __slots__ = ("_body", "_buffer", "_scanned", "skipped")

    def __init__(self) -> None:
        self._buffer = b""
        self._body = 0
        self._scanned = 0
        self.skipped = 0

    def gap(self) -> None:
        """Bytes are missing here: the message at hand is given up."""
        self.skipped += len(self._buffer)
        self._buffer = b""
        self._body = self._scanned = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages, without bodies, whose headers end within the bytes so far."""
        out: list[bytes] = []
        data = self._buffer + data
        at = 0
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                at += step
                self._body -= step
            elif data[at] in b"\r\n":
                at += 1
            else:
                after = self._next(data, at, out)
                if after == at:
                    break
                at, self._scanned = after, 0
        self._buffer = data[at:]
        if len(self._buffer) > MAX_HEAD_BYTES:
            self.gap()
        return out

    def _next(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Appends the message at `at` and gives the position after its headers, or after a line
        that begins none; gives `at` where more bytes are needed."""
        line_end = data.find(b"\n", at)
        if line_end < 0:
            return at
        if START.match(data, at):
            end = END.search(data, max(at, at + self._scanned - 4), at + MAX_HEAD_BYTES)
            if end is None:
                self._scanned = len(data) - at
                if self._scanned <= MAX_HEAD_BYTES:
                    return at
            else:
                length = _content_length(data[at : end.end()])
                if length is not None:
                    out.append(data[at : end.end()])
                    self._body = length
                    return end.end()
        self.skipped += line_end + 1 - at
        return line_end + 1


def _content_length(message: bytes) -> int | None:
    """Bytes of body that follow; 0 without the header, None where it cannot be right."""
    match = _LENGTH.search(message)
    length = int(match[1]) if match else 0
    return length if length <= MAX_BODY_BYTES else None
