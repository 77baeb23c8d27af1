"""Spool: closed windows into durable batch files, the only queue between router and aggregator.

    <sequence>.batch   waits for a receipt, or dead/<sequence>.batch where it was refused
    <sequence>.acked   the newest one received, emptied; it keeps the sequence known
    <sequence>.part    piece of a window whose last piece is not committed yet
    lost.json          losses that the next batch will carry (spool_ledger.py)
    epoch, lock        identity of this folder, and its one owner

A batch is committed by one rename, after its bytes are on disk. A window of several pieces is
committed by the rename of its last. What a crash leaves is put right by `start`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Final

from collector import durable
from collector.durable import NO_SPACE
from collector.spool_folder import Entry, batch_path, move_to_dead, recover
from collector.spool_ledger import Ledger
from collector.wire import codec
from collector.wire.batch import MAX_BATCH_BYTES, BatchError, Header, stable_word
from collector.wire.codec import Rows
from collector.wire.columns import concat, record_batch
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


class Spool:
    """One spool folder and its one owner. Thread-safe: `commit` in one, receipts in another.

    `counts`, in batches and rows since `start` (what was found then counts as committed):
    committed = acknowledged + pending + dropped + dead, and `errors`.
    """

    def __init__(self, config: SpoolConfig, boot: str) -> None:
        if config.max_bytes < 1 or config.floor_batches < 1 or not 0 < config.alarm_ratio <= 1:
            raise ValueError("max_bytes, floor_batches or alarm_ratio of the spool is out of range")
        self.config = config
        self.boot = boot
        self.epoch = ""
        self.last_sequence = 0
        self.pending_bytes = 0
        self.pending_rows = 0
        self.dead_bytes = 0
        self._folder = config.folder
        self._dead_folder = config.folder / "dead"
        self._ledger = Ledger(config.folder)
        self._pending: dict[int, Entry] = {}
        self._dead: dict[int, int] = {}
        self._acked: list[int] = []
        self._claimed = 0
        self._lock = RLock()
        self._commit_lock = Lock()
        self._owner: int | None = None
        self._failure = "the spool is not started"
        self._alarm = ""
        self._counts = dict.fromkeys(_COUNTS, 0)

    @property
    def counts(self) -> dict[str, int]:
        """See the class."""
        with self._lock:
            pending = {"pending": len(self._pending), "pending_rows": self.pending_rows}
            return self._counts | pending

    @property
    def pending_batches(self) -> int:
        """Batches that wait for a receipt."""
        return len(self._pending)

    @property
    def fill_ratio(self) -> float:
        """Bytes kept over max_bytes."""
        return (self.pending_bytes + self.dead_bytes) / self.config.max_bytes

    @property
    def alarm(self) -> str:
        """Empty, or the worst of "failed", "disk-full", "spool-full" and "filling"."""
        if self._failure:
            return "failed"
        return self._alarm or ("filling" if self.fill_ratio >= self.config.alarm_ratio else "")

    def start(self) -> None:
        """Take the folder and put right what a crash left; SpoolError where that cannot be done."""
        try:
            durable.make_folder(self._folder)
            durable.make_folder(self._dead_folder)
            self._owner = os.open(
                self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE
            )
            try:
                fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SpoolError("another collector owns this spool") from None
            self._failure = ""
            self._recover()
        except OSError as error:
            self.stop()
            raise SpoolError(f"the spool folder cannot be used: {error.strerror}") from error
        except SpoolError:
            self.stop()
            raise

    def stop(self) -> None:
        """Give the folder up; everything committed stays. May be called again."""
        with self._commit_lock, self._lock:
            if self._owner is not None:
                os.close(self._owner)
            self._owner = None
            self._failure = "the spool is not started"

    def commit(
        self,
        *,
        window_start_ns: int,
        window_end_ns: int,
        created_ns: int,
        columns: Mapping[str, Rows],
    ) -> Header:
        """One batch, durable on return: `commit_all` of one piece."""
        return self.commit_all(
            window_start_ns=window_start_ns,
            window_end_ns=window_end_ns,
            created_ns=created_ns,
            pieces=[columns],
        )[0]

    def commit_all(
        self,
        *,
        window_start_ns: int,
        window_end_ns: int,
        created_ns: int,
        pieces: Sequence[Mapping[str, Rows]],
    ) -> list[Header]:
        """The pieces of one window, all or none, durable on return.

        They get the sequences after `last_sequence`, in order; the last one also carries the
        losses that wait. Oldest batches are dropped, and told as losses, where the spool is full.
        Raises BatchError (columns that do not fit), SpoolFullError and SpoolError; after those
        nothing of the window is visible, unless `alarm` is "failed": then only a restart can tell.
        """
        if not 1 <= len(pieces) <= MAX_PIECES:
            raise SpoolError(f"a window has 1 to {MAX_PIECES} pieces, not {len(pieces)}")
        with self._commit_lock:
            self._must_run()
            last = self.last_sequence + len(pieces)
            entries: list[Entry] = []
            try:
                with self._lock:
                    carried = self._ledger.begin(last)
                for sequence, columns in enumerate(pieces, self.last_sequence + 1):
                    if sequence == last and carried:
                        columns = _with_gaps(columns, carried, created_ns)
                    data = codec.encode(
                        collector=self.config.collector,
                        boot=self.boot,
                        epoch=self.epoch,
                        sequence=sequence,
                        window_start_ns=window_start_ns,
                        window_end_ns=window_end_ns,
                        created_ns=created_ns,
                        columns=columns,
                    )
                    entry = Entry(codec.peek(data), self._path(sequence, "batch"), len(data))
                    entries.append(entry)
                    self._make_room(sum(entry.size for entry in entries))
                    self._write(sequence, "tmp" if sequence == last else "part", data)
                if len(entries) > 1:
                    durable.sync_folder(self._folder)
                os.rename(self._path(last, "tmp"), entries[-1].path)
            except (OSError, BatchError, SpoolError) as error:
                self._undo(entries)
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    raise SpoolFullError("the disk is full, even for the reserve") from error
                if isinstance(error, OSError):
                    raise SpoolError(f"cannot write to the spool: {error.strerror}") from error
                raise
            self._publish(entries)
            return [entry.header for entry in entries]

    def oldest(self) -> tuple[Header, Path] | None:
        """The batch to send next. It is dropped last of all, because it may be under way."""
        with self._lock:
            self._must_run()
            for sequence, entry in self._pending.items():
                self._claimed = sequence
                return entry.header, entry.path
        return None

    def acknowledge(self, batch: str) -> bool:
        """A receipt came: free the batch. False where no such batch waits (it was dropped)."""
        with self._lock:
            self._must_run()
            entry = self._find(batch)
            if entry is None:
                return False
            acked = entry.path.with_suffix(".acked")
            try:
                os.rename(entry.path, acked)
                self._forget(entry, "acknowledged")
                self._acked.append(entry.header.sequence)
                # Before emptying it: an emptied file under its old name would pass for corrupt.
                durable.sync_folder(self._folder)
                os.truncate(acked, 0)
                self._remove_old_acked()
            except OSError as error:
                raise SpoolError(f"cannot free a batch: {error.strerror}") from error
            return True

    def reject(self, batch: str, reason: str) -> bool:
        """The batch can never be taken: move it to dead/ and tell a loss. False as above."""
        with self._lock:
            self._must_run()
            entry = self._find(batch)
            if entry is None:
                return False
            word = stable_word(reason)[:40]
            try:
                self._bury(entry, _loss_of(entry.header, "uplink", f"rejected-{word}"))
            except OSError as error:
                raise SpoolError(f"cannot set a batch aside: {error.strerror}") from error
            log.error("batch %s was refused (%s) and is in dead/", batch, word)
            return True

    # -- commit

    def _write(self, sequence: int, suffix: str, data: bytes) -> None:
        """One piece on disk under a name that is not a batch yet; drops the oldest for room."""
        freed = 0
        while True:
            try:
                durable.write_new(self._path(sequence, suffix), data)
                break
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
            with self._lock:
                self._alarm = "disk-full"
                can_drop = bool(self._dead) or len(self._pending) > self.config.floor_batches
                if freed > 2 * len(data) or not can_drop:
                    raise SpoolFullError("the disk is full, and not with batches")
                freed += self._drop_oldest("disk-full")
        if freed == 0 and self._alarm == "disk-full":
            self._alarm = ""

    def _undo(self, entries: Sequence[Entry]) -> None:
        """Nothing was committed: no name stays behind, and the losses wait again."""
        for entry in entries:
            for suffix in (".part", ".tmp"):
                try:
                    os.unlink(entry.path.with_suffix(suffix))
                except FileNotFoundError:
                    pass
                except OSError:  # a part left behind would pass for committed one day
                    self._fail("a commit failed and its pieces cannot be removed")
        with self._lock:
            self._counts["errors"] += 1
            self._ledger.abort()

    def _publish(self, entries: Sequence[Entry]) -> None:
        """What follows from the rename of the last piece, which was the commit point.

        After an error here memory cannot tell what a power cut would leave, so the spool stops.
        """
        try:
            durable.sync_folder(self._folder)
            for entry in entries[:-1]:
                os.rename(entry.path.with_suffix(".part"), entry.path)
            if len(entries) > 1:
                durable.sync_folder(self._folder)
        except OSError as error:
            raise self._fail("a commit failed half way") from error
        with self._lock:
            for entry in entries:
                self._remember(entry)
            self.last_sequence = entries[-1].header.sequence
            self._ledger.finish()
            self._ledger.keep_reserve()

    def _make_room(self, size: int) -> None:
        """Drop the oldest until `size` bytes more are within max_bytes."""
        if size > self.config.max_bytes:
            raise SpoolFullError("the window is larger than the whole spool")
        dropped = False
        with self._lock:
            while (
                self.pending_bytes + self.dead_bytes + size > self.config.max_bytes
                or len(self._pending) >= MAX_PENDING
            ):
                dropped = True
                self._drop_oldest("spool-full")
            self._alarm = "spool-full" if dropped else self._alarm.replace("spool-full", "")

    def _drop_oldest(self, reason: str) -> int:
        """Remove the oldest refused batch, else the oldest waiting one; gives its bytes."""
        if self._dead:
            sequence = next(iter(self._dead))
            size = self._dead[sequence]
            self._ledger.add((), self.last_sequence)  # so that its sequence stays known
            with suppress(FileNotFoundError):
                os.unlink(batch_path(self._dead_folder, sequence, "batch"))
            del self._dead[sequence]
            self.dead_bytes -= size
            return size
        waiting = [sequence for sequence in self._pending if sequence != self._claimed]
        entry = self._pending[waiting[0] if waiting else self._claimed]
        loss = _loss_of(entry.header, "spool", reason)
        sequence = entry.header.sequence
        losses = [*loss, *self._gaps_in(entry)]
        self._ledger.add(losses, self.last_sequence, dropped=(sequence,))
        try:
            os.unlink(entry.path)
        except OSError as error:
            raise self._fail("a batch told as lost cannot be removed") from error
        self._forget(entry, "dropped")
        log.error("%s: batch %d with %d rows dropped", reason, sequence, entry.header.rows)
        return entry.size

    def _bury(self, entry: Entry, losses: Sequence[Loss]) -> None:
        """Move a batch to dead/ after its losses, and those it carried, are written down."""
        sequence = entry.header.sequence
        gaps = self._gaps_in(entry)
        self._ledger.add([*losses, *gaps], self.last_sequence, dead=(sequence,))
        try:
            move_to_dead(entry.path, self._dead_folder)
        except OSError as error:
            raise self._fail("a refused batch cannot be set aside") from error
        self._dead[sequence] = entry.size
        self.dead_bytes += entry.size
        self._forget(entry, "dead")

    def _gaps_in(self, entry: Entry) -> list[Loss]:
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

    def _recover(self) -> None:
        found = recover(self._folder, self._dead_folder, self._ledger)
        self.epoch, self.last_sequence = found.epoch, found.last_sequence
        self._pending, self._claimed = {}, 0
        self.pending_bytes = self.pending_rows = 0
        self._dead, self.dead_bytes = found.dead, sum(found.dead.values())
        self._acked = found.acked
        self._remove_old_acked()
        self._counts = dict.fromkeys(_COUNTS, 0)
        for entry in found.pending:
            self._remember(entry)
        self._counts["committed"] += found.corrupt
        self._counts["dead"] += found.corrupt

    # -- book-keeping

    def _path(self, sequence: int, suffix: str) -> Path:
        return batch_path(self._folder, sequence, suffix)

    def _must_run(self) -> None:
        if self._failure:
            raise SpoolError(self._failure)

    def _fail(self, what: str) -> SpoolError:
        """Stop taking work: only the folder knows what is true, and a restart reads it."""
        self._failure = f"{what}; restart the collector to go by what is on disk"
        return SpoolError(self._failure)

    def _find(self, batch: str) -> Entry | None:
        for entry in self._pending.values():
            if entry.header.batch == batch:
                return entry
        return None

    def _remember(self, entry: Entry) -> None:
        self._pending[entry.header.sequence] = entry
        self.pending_bytes += entry.size
        self.pending_rows += entry.header.rows
        self._counts["committed"] += 1
        self._counts["committed_rows"] += entry.header.rows

    def _forget(self, entry: Entry, outcome: str) -> None:
        del self._pending[entry.header.sequence]
        self.pending_bytes -= entry.size
        self.pending_rows -= entry.header.rows
        self._counts[outcome] += 1
        self._counts[f"{outcome}_rows"] += entry.header.rows

    def _remove_old_acked(self) -> None:
        for sequence in self._acked[:-1]:
            with suppress(FileNotFoundError):
                os.unlink(self._path(sequence, "acked"))
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


def _with_gaps(columns: Mapping[str, Rows], losses: Sequence[Loss], now_ns: int) -> dict[str, Rows]:
    gaps = record_batch(GAP.name, gap_columns(losses, now_ns))
    if GAP.name in columns:
        gaps = concat([record_batch(GAP.name, columns[GAP.name]), gaps])
    return {**columns, GAP.name: gaps}
