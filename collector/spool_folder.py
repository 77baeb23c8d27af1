"""What a spool folder holds after a crash, put right: names, digests, removals begun, epoch."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collector import durable
from collector.spool_ledger import Ledger
from collector.wire import codec
from collector.wire.batch import MAX_BATCH_BYTES, BatchError, Header
from collector.wire.loss import Loss
from collector.wire.records import CLASSES

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"(\d{20})\.(batch|acked|part)")
_EPOCH: Final = re.compile(r"[0-9a-f]{32}")
_HOUR_NS: Final = 3_600_000_000_000
"""Extent of a loss whose beginning nothing tells: longer than any usual window."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One waiting batch: its header, its file and the bytes of that."""

    header: Header
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """The folder as it is. `dead` is bytes by sequence, `acked` the sequences, both ascending."""

    epoch: str
    last_sequence: int
    pending: list[Entry]
    dead: dict[int, int]
    acked: list[int]
    corrupt: int


def batch_path(folder: Path, sequence: int, suffix: str) -> Path:
    """The file of a sequence: twenty digits hold any, and names sort as numbers do."""
    return folder / f"{sequence:020d}.{suffix}"


def move_to_dead(path: Path, dead_folder: Path) -> None:
    """Move a batch to the dead letters, durably; raises OSError."""
    os.rename(path, dead_folder / path.name)
    durable.sync_folder(dead_folder)
    durable.sync_folder(path.parent)


def recover(folder: Path, dead_folder: Path, ledger: Ledger) -> Found:
    """Finish or undo what a crash interrupted and read every waiting batch; raises OSError.

    Losses (a corrupt batch, a corrupt ledger) go into the ledger, so the next batch tells them.
    """
    names: dict[str, dict[int, Path]] = {"batch": {}, "acked": {}, "part": {}}
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            names[match[2]][int(match[1])] = path
        elif path.name.endswith(durable.TEMPORARY):
            os.unlink(path)  # was never committed
    dead = _dead(dead_folder)
    batches = names["batch"]
    is_readable = ledger.load()
    last = max((*batches, *names["acked"], *dead, ledger.last), default=0)
    ledger.resolve(last)
    _settle_parts(names["part"], batches, last)
    for sequence in ledger.dropped:  # told as lost, so it must go
        if sequence in batches:
            os.unlink(batches.pop(sequence))
    for sequence in ledger.dead:
        if sequence in batches:
            move_to_dead(batches.pop(sequence), dead_folder)
    pending, corrupt = _read(batches, dead_folder, ledger, last)
    epoch = _epoch(folder / "epoch", pending)
    if not is_readable:
        at = os.stat(ledger.set_aside).st_mtime_ns
        loss = Loss(at - _HOUR_NS, at, "spool", "ledger-corrupt", -1, "rows", tuple(CLASSES))
        ledger.add([loss], last)
    ledger.keep_reserve()
    durable.sync_folder(folder)
    return Found(epoch, last, pending, _dead(dead_folder), sorted(names["acked"]), corrupt)


def _dead(dead_folder: Path) -> dict[int, int]:
    paths = [path for path in sorted(dead_folder.iterdir()) if _NAME.fullmatch(path.name)]
    return {int(path.stem): path.lstat().st_size for path in paths}


def _settle_parts(parts: Mapping[int, Path], batches: dict[int, Path], last: int) -> None:
    """A part before the last committed sequence was committed with it; others never were."""
    for sequence, path in parts.items():
        if sequence < last and sequence not in batches:
            batches[sequence] = path.with_suffix(".batch")
            os.rename(path, batches[sequence])
        else:
            os.unlink(path)


def _read(
    batches: Mapping[int, Path], dead_folder: Path, ledger: Ledger, last: int
) -> tuple[list[Entry], int]:
    """Every waiting batch, its digest checked; corrupt ones go to the dead letters, counted."""
    pending: list[Entry] = []
    corrupt = 0
    for sequence in sorted(batches):
        path = batches[sequence]
        try:
            data = durable.read_limited(path, MAX_BATCH_BYTES)
            header = codec.verify(data)
            if header.sequence != sequence:
                raise BatchError("name", "the file has another sequence than its name")
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, BatchError) else "unreadable"
            log.error("batch %d is corrupt (%s) and goes to dead/", sequence, reason)
            # It was closed when it was written, and began after the one before it ended.
            known_ns = pending[-1].header.window_end_ns if pending else 0
            end_ns = max(path.lstat().st_mtime_ns, known_ns + 1)
            span = (known_ns or end_ns - _HOUR_NS, end_ns)
            loss = Loss(*span, "spool", f"corrupt-{reason}", 1, "batches", tuple(CLASSES))
            ledger.add([loss], last, dead=(sequence,))
            move_to_dead(path, dead_folder)
            corrupt += 1
            continue
        pending.append(Entry(header, path, len(data)))
    return pending, corrupt


def _epoch(path: Path, pending: list[Entry]) -> str:
    """The epoch of its file, else of the newest batch, else a new one; the file has it then."""
    try:
        epoch = durable.read_limited(path, 64).decode("ascii").strip()
    except (FileNotFoundError, ValueError):
        epoch = ""
    if not _EPOCH.fullmatch(epoch):
        epoch = pending[-1].header.epoch if pending else secrets.token_hex(16)
        durable.replace_file(path, epoch.encode("ascii") + b"\n")
    return epoch
