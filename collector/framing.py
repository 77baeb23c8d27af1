"""Framing of the journal's log: JSON lines with length and checksum, to find a torn one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

_FRAME: Final = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ")
_FRAME_BYTES: Final = 18


def frame(fields: Mapping[str, Any]) -> bytes:
    """One line: length and CRC-32 of the JSON in hex, the JSON. Raises TypeError or ValueError."""
    body = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %08x %s\n" % (len(body), crc32(body), body)


def _frame_at(data: bytes, at: int) -> tuple[str, dict[str, Any], int] | None:
    """Kind, payload and end of the frame at `at`; None where no whole one is."""
    match = _FRAME.match(data, at)
    if not match:
        return None
    body_at = at + _FRAME_BYTES
    end = body_at + int(match[1], 16)
    body = data[body_at:end]
    if data[end : end + 1] != b"\n" or crc32(body) != int(match[2], 16):
        return None
    try:
        fields = json.loads(body)
        return str(fields["k"]), dict(fields["p"]), end + 1
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def frames(data: bytes) -> list[tuple[str, dict[str, Any], int]]:
    """The frames from the beginning of `data` to the first that is not whole."""
    whole = []
    at = 0
    while found := _frame_at(data, at):
        whole.append(found)
        at = found[2]
    return whole


def count_frames(data: bytes) -> int:
    """Whole frames anywhere after a break, at the beginnings of lines."""
    count = 0
    at = data.find(b"\n") + 1
    while 0 < at < len(data):
        found = _frame_at(data, at)
        count += found is not None
        at = found[2] if found else data.find(b"\n", at) + 1
    return count
