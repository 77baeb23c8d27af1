"""SIP over TCP: turns one direction of a connection into messages, of whose bodies only the origin
of a session description is left."""

from __future__ import annotations

import re
from typing import Final

from collector.parse.sip_head import END, MAX_BODY_READ, MAX_HEAD_BYTES, ORIGIN, START

MAX_BODY_BYTES: Final = 1024 * 1024
"""Longest body stepped over in a stream; a larger Content-Length means that framing was lost."""
_LENGTH: Final = re.compile(rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?\n", re.I)


class Framer:
    """Cuts one direction of a TCP connection into messages by Content-Length.

    RFC 3261 sections 7.5 and 18.3. Give it contiguous bytes; it gives each message's start line
    and headers as soon as their empty line is there, and steps over the body. An INVITE has its
    session's origin (o=) after its empty line; where that comes only later, the INVITE is given
    once more with it, as what acts on a message must not wait for a segment that may never be
    seen. After bytes that cannot be a message, or after `gap`, it looks for the next start line;
    `skipped` counts bytes passed over so.
    """

    __slots__ = ("_body", "_buffer", "_invite", "_opening", "_scanned", "skipped")

    def __init__(self) -> None:
        self._buffer = b""
        self._invite = b""
        """Start line and headers of an INVITE whose origin has not come yet."""
        self._opening = b""
        """What there is of that one's body."""
        self._body = 0
        self._scanned = 0
        self.skipped = 0

    def gap(self) -> None:
        """Bytes are missing here: the message at hand is given up."""
        self.skipped += len(self._buffer)
        self._buffer = self._invite = self._opening = b""
        self._body = self._scanned = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages whose headers, or whose origin, end within the bytes so far."""
        out: list[bytes] = []
        data = self._buffer + data
        at = 0
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                if self._invite:
                    self._describe(data[at : at + step], out)
                at += step
                self._body -= step
                if not self._body:
                    self._invite = self._opening = b""
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
                    self._body = length
                    out.append(self._begun(data[at : end.end()], data[end.end() :][:length]))
                    return end.end()
        self.skipped += line_end + 1 - at
        return line_end + 1

    def _begun(self, head: bytes, body: bytes) -> bytes:
        """A message as it is given first; remembers an INVITE whose origin is yet to come."""
        if not self._body or head[:7].upper() != b"INVITE ":
            return head
        origin = _origin(body[:MAX_BODY_READ])
        if not origin:
            self._invite = head
        return head + origin

    def _describe(self, data: bytes, out: list[bytes]) -> None:
        """Takes in some of an INVITE's body; appends the INVITE again once the origin is there."""
        self._opening += data[: MAX_BODY_READ - len(self._opening)]
        origin = _origin(self._opening)
        if origin:
            out.append(self._invite + origin)
        if origin or len(self._opening) >= MAX_BODY_READ:
            self._invite = self._opening = b""


def _origin(body: bytes) -> bytes:
    """The origin line in what there is of a body; empty where none is whole."""
    match = ORIGIN.search(body, 0, body.rfind(b"\n") + 1)
    return match[0] if match else b""


def _content_length(message: bytes) -> int | None:
    """Bytes of body that follow; 0 without the header, None where it cannot be right."""
    match = _LENGTH.search(message)
    length = int(match[1]) if match else 0
    return length if length <= MAX_BODY_BYTES else None
