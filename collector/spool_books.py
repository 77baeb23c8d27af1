"""Books of the spool: which batches wait, which were refused, and what goes when room is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collector import durable
from collector.spool_folder import Entry, batch_path, move_to_dead, recover
from collector.spool_ledger import Ledger
from collector.wire import codec
from collector.wire.batch import MAX_BATCH_BYTES, Header
from collector.wire.columns import Rows, concat, record_batch
from collector.wire.gaps import gap_columns, losses_of
from collector.wire.loss import Loss
from collector.wire.records import CLASSES, GAP

log = logging.getLogger(__name__)

MAX_PENDING: Final = 100_000
"""Most batches kept: a year of windows of five minutes, and a listing of a few MB in memory."""
MAX_PIECES: Final = 64
"""Most batches of one window: 4 GiB, more than a router's memory holds of one window."""
_OUTCOMES: Final = ("committed", "acknowledged", "dropped", "dead")
_COUNTS: Final = (*_OUTCOMES, *(f"{name}_rows" for name in _OUTCOMES), "errors")


class SpoolError(Exception):
    """The spool cannot do what was asked; the message says why, in words for an operator."""


class SpoolFullError(SpoolError):
    """There is no room and dropping old batches makes none; the window should be kept open."""


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Where batches are kept and how many.

    max_bytes bounds waiting and refused batches together. Where the disk is full although the
    spool is not, batches are dropped only while more than floor_batches are left: then something
    else fills the disk, and dropping would not help. alarm_ratio is the fill that `alarm` tells.
    """

    folder: Path
    collector: str
    max_bytes: int = 8 * 1024**3
    floor_batches: int = 12
    alarm_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.floor_batches < 1 or not 0 < self.alarm_ratio <= 1:
            raise ValueError("max_bytes, floor_batches or alarm_ratio of the spool is out of range")


class Books:
    """The batches of one folder by sequence, ascending. Not thread-safe: the spool locks.

    failure: why no more work is taken, empty while all is well. claimed: sequence of the batch
    handed out last. Methods raise OSError, and SpoolError where `failure` was set.
    """

    def __init__(self, config: SpoolConfig) -> None:
        self.config = config
        self.folder = config.folder
        self.dead_folder = config.folder / "dead"
        self.ledger = Ledger(config.folder)
        self.epoch = ""
        self.last_sequence = 0
        self.pending: dict[int, Entry] = {}
        self.dead: dict[int, int] = {}
        self.pending_bytes = self.pending_rows = self.dead_bytes = 0
        self.claimed = 0
        self.failure = ""
        self.alarm = ""
        self.counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        self._acked: list[int] = []

    def recover(self) -> None:
        """Read the folder and put it right; the counts begin anew."""
        found = recover(self.folder, self.dead_folder, self.ledger)
        self.epoch, self.last_sequence = found.epoch, found.last_sequence
        self.pending, self.claimed, self.alarm = {}, 0, ""
        self.pending_bytes = self.pending_rows = 0
        self.dead, self.dead_bytes = found.dead, sum(found.dead.values())
        self._acked = found.acked
        self._remove_old_acked()
        self.counts = dict.fromkeys(_COUNTS, 0)
        for entry in found.pending:
            self.remember(entry)
        self.counts["committed"] += found.corrupt
        self.counts["dead"] += found.corrupt

    @property
    def fill_ratio(self) -> float:
        """Bytes kept, of waiting and refused batches, over max_bytes."""
        return (self.pending_bytes + self.dead_bytes) / self.config.max_bytes

    def path(self, sequence: int, suffix: str) -> Path:
        """The file of a sequence."""
        return batch_path(self.folder, sequence, suffix)

    def fail(self, what: str) -> SpoolError:
        """Stop taking work: only the folder knows what is true, and a restart reads it."""
        self.failure = f"{what}; restart the collector to go by what is on disk"
        return SpoolError(self.failure)

    def find(self, batch: str) -> Entry | None:
        """The waiting batch of that id; at once for the oldest, which is asked for."""
        for entry in self.pending.values():
            if entry.header.batch == batch:
                return entry
        return None

    def remember(self, entry: Entry) -> None:
        """A batch has been committed."""
        self.pending[entry.header.sequence] = entry
        self.pending_bytes += entry.size
        self.pending_rows += entry.header.rows
        self.counts["committed"] += 1
        self.counts["committed_rows"] += entry.header.rows

    def acknowledge(self, entry: Entry) -> None:
        """Free a batch; the emptied file keeps its sequence known."""
        acked = entry.path.with_suffix(".acked")
        os.rename(entry.path, acked)
        self._forget(entry, "acknowledged")
        self._acked.append(entry.header.sequence)
        # Before emptying it: an emptied file under its old name would pass for corrupt.
        durable.sync_folder(self.folder)
        os.truncate(acked, 0)
        self._remove_old_acked()

    def bury(self, entry: Entry, reason: str) -> None:
        """Move a batch to dead/ after its loss, and those it carried, are written down."""
        sequence = entry.header.sequence
        losses = [*_loss_of(entry.header, "uplink", reason), *_gaps_in(entry)]
        self.ledger.add(losses, self.last_sequence, dead=(sequence,))
        try:
            move_to_dead(entry.path, self.dead_folder)
        except OSError as error:
            raise self.fail("a refused batch cannot be set aside") from error
        self.dead[sequence] = entry.size
        self.dead_bytes += entry.size
        self._forget(entry, "dead")

    def make_room(self, size: int) -> None:
        """Drop the oldest until `size` bytes more are within max_bytes."""
        if size > self.config.max_bytes:
            raise SpoolFullError("the window is larger than the whole spool")
        dropped = False
        while (
            self.pending_bytes + self.dead_bytes + size > self.config.max_bytes
            or len(self.pending) >= MAX_PENDING
        ):
            dropped = True
            self.drop_oldest("spool-full")
        self.alarm = "spool-full" if dropped else self.alarm.replace("spool-full", "")

    def drop_oldest(self, reason: str) -> int:
        """Remove the oldest refused batch, else the oldest waiting one; gives its bytes.

        The batch handed out last goes last, because it may be at the aggregator already.
        """
        if self.dead:
            return self._drop_dead()
        waiting = (sequence for sequence in self.pending if sequence != self.claimed)
        entry = self.pending[next(waiting, self.claimed)]
        sequence = entry.header.sequence
        losses = [*_loss_of(entry.header, "spool", reason), *_gaps_in(entry)]
        self.ledger.add(losses, self.last_sequence, dropped=(sequence,))
        try:
            os.unlink(entry.path)
        except OSError as error:
            raise self.fail("a batch told as lost cannot be removed") from error
        self._forget(entry, "dropped")
        log.error("%s: batch %d with %d rows dropped", reason, sequence, entry.header.rows)
        return entry.size

    def _drop_dead(self) -> int:
        sequence = next(iter(self.dead))
        self.ledger.add((), self.last_sequence)  # so that the last sequence stays known
        with suppress(FileNotFoundError):
            os.unlink(batch_path(self.dead_folder, sequence, "batch"))
        size = self.dead.pop(sequence)
        self.dead_bytes -= size
        return size

    def _forget(self, entry: Entry, outcome: str) -> None:
        del self.pending[entry.header.sequence]
        self.pending_bytes -= entry.size
        self.pending_rows -= entry.header.rows
        self.counts[outcome] += 1
        self.counts[f"{outcome}_rows"] += entry.header.rows

    def _remove_old_acked(self) -> None:
        for sequence in self._acked[:-1]:
            with suppress(FileNotFoundError):
                os.unlink(self.path(sequence, "acked"))
        self._acked = self._acked[-1:]


def _loss_of(header: Header, stage: str, reason: str) -> list[Loss]:
    """What goes with a batch, but for its gap rows, which are carried on.

    A gap is known by its interval, and pieces of one window have the same: so each ends a few
    nanoseconds earlier, or of two that were told in different batches one would count.
    """
    sections = [s for s in header.sections if s.record_class != GAP.name]
    if not sections:
        return []
    rows = sum(section.rows for section in sections)
    names = tuple(section.record_class for section in sections)
    start_ns = header.window_start_ns
    end_ns = max(header.window_end_ns - header.sequence % MAX_PIECES, start_ns + 1)
    return [Loss(start_ns, end_ns, stage, reason, rows, "rows", names)]


def _gaps_in(entry: Entry) -> list[Loss]:
    """The losses that a batch carries, which must not go with it."""
    if all(section.record_class != GAP.name for section in entry.header.sections):
        return []
    try:
        _, batches = codec.decode(durable.read_limited(entry.path, MAX_BATCH_BYTES))
    except (OSError, ValueError):  # BatchError is a ValueError
        header = entry.header
        span = (header.window_start_ns, header.window_end_ns)
        return [Loss(*span, "spool", "gaps-unreadable", -1, "rows", tuple(CLASSES))]
    return losses_of(batches[GAP.name])


def with_gaps(columns: Mapping[str, Rows], losses: Sequence[Loss], now_ns: int) -> dict[str, Rows]:
    """The columns of a batch with the losses as rows of the `gap` class added to those it has."""
    gaps = record_batch(GAP.name, gap_columns(losses, now_ns))
    if GAP.name in columns:
        gaps = concat([record_batch(GAP.name, columns[GAP.name]), gaps])
    return {**columns, GAP.name: gaps}
