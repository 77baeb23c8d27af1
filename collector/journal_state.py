"""What the journal finds on disk: the state of a batch, and the events that come after it.

A state file is one line that describes it and one line of JSON; it is whole or not believed.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from collector import durable
from collector.framing import count_frames, frames

log = logging.getLogger(__name__)

MAX_SNAPSHOT_BYTES: Final = 256 * 1024 * 1024
"""Largest state: 100,000 sessions, calls and counters of about 1 KB each, twice over."""
STATE: Final = re.compile(r"state-(\d{20})\.json")
LOG: Final = re.compile(r"events-(\d{20})\.log")
_MAX_HEAD_BYTES: Final = 4096
MARK: Final = "rotate"
"""Kind of the frame that is written together with a state: what follows it came after."""


def state_path(folder: Path, sequence: int) -> Path:
    """The file of the state of batch `sequence`."""
    return folder / f"state-{sequence:020d}.json"


def log_path(folder: Path, sequence: int) -> Path:
    """The file of the events after batch `sequence`."""
    return folder / f"events-{sequence:020d}.log"


def numbers(folder: Path, pattern: re.Pattern[str]) -> list[int]:
    """Ascending sequences of the files of a pattern, STATE or LOG."""
    names = os.listdir(folder)
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def remove_all_but(folder: Path, sequence: int) -> None:
    """Remove states and logs of other batches, and files half written."""
    for name in os.listdir(folder):
        match = STATE.fullmatch(name) or LOG.fullmatch(name)
        if name.endswith(durable.TEMPORARY) or (match and int(match[1]) != sequence):
            with suppress(FileNotFoundError):
                os.unlink(folder / name)


def state_bytes(sequence: int, nonce: str, snapshot: Mapping[str, Any]) -> bytes:
    """The file of a state; ValueError where it is not JSON or too large.

    `nonce` ties the state to the mark in the log that was written with it.
    """
    try:
        body = json.dumps(snapshot, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError):
        raise ValueError("the state is not JSON") from None
    if len(body) > MAX_SNAPSHOT_BYTES:
        raise ValueError(f"the state has more than {MAX_SNAPSHOT_BYTES} bytes")
    head = {"sequence": sequence, "nonce": nonce, "size": len(body), "crc32": crc32(body)}
    return json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n" + body + b"\n"


def read_state(path: Path, sequence: int) -> tuple[dict[str, Any] | None, str | None]:
    """State and nonce of a file, both None where it is absent or corrupt; raises OSError."""
    try:
        data = durable.read_limited(path, MAX_SNAPSHOT_BYTES + _MAX_HEAD_BYTES)
        head_line, _, rest = data.partition(b"\n")
        head = json.loads(head_line)
        body = rest[: head["size"]]
        if len(body) != head["size"] or crc32(body) != head["crc32"]:
            raise ValueError("the checksum differs")
        if head["sequence"] != sequence:
            raise ValueError("the state is of another batch")
        snapshot = json.loads(body)
        if not isinstance(snapshot, dict):
            raise ValueError("the state is not an object")
        return snapshot, str(head["nonce"])
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.error("the state of batch %d is corrupt (%s)", sequence, type(error).__name__)
        return None, None


def tail_after(
    data: bytes, sequence: int, nonce: str | None, *, is_own: bool
) -> tuple[bytes, list[tuple[str, int]]]:
    """The whole frames of a log that come after the state of batch `sequence`, and what is lost.

    Losses are reason and events, -1 unknown. `is_own`: the log is the one that was begun after
    that state. Else the batch was committed but not its log, and the mark tells where to begin.
    """
    lost = []
    whole = frames(data)
    good = whole[-1][2] if whole else 0
    if good < len(data):
        log.warning("the journal ends in %d bytes of no event", len(data) - good)
        after = count_frames(data[good:])
        if after:  # not a torn tail: something in the middle is broken
            lost.append(("events-corrupt", after))
    if is_own:
        return data[:good], lost
    marks = [
        end
        for kind, payload, end in whole
        if kind == MARK
        and payload.get("sequence") == sequence
        and nonce in (None, payload.get("nonce"))
    ]
    if not marks:
        return b"", [*lost, ("mark-missing", -1)]
    return data[marks[-1] : good], lost
