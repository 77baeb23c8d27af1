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
from pathlib import Path
from threading import Lock, RLock

from collector import durable
from collector.durable import NO_SPACE
from collector.spool_books import (
    MAX_PIECES,
    Books,
    SpoolConfig,
    SpoolError,
    SpoolFullError,
    with_gaps,
)
from collector.spool_folder import Entry
from collector.wire import codec
from collector.wire.batch import BatchError, Header, stable_word
from collector.wire.codec import Rows

__all__ = ["MAX_PIECES", "Spool", "SpoolConfig", "SpoolError", "SpoolFullError"]

log = logging.getLogger(__name__)

_NOT_STARTED = "the spool is not started"


class Spool:
    """One spool folder and its one owner. Thread-safe: `commit` in one, receipts in another."""

    def __init__(self, config: SpoolConfig, boot: str) -> None:
        self.config = config
        self.boot = boot
        self._books = Books(config)
        self._books.failure = _NOT_STARTED
        self._lock = RLock()
        self._commit_lock = Lock()
        self._owner: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """In batches and rows since `start` (what was found then counts as committed):

        committed = acknowledged + pending + dropped + dead, and the same with "_rows"; "errors".
        """
        with self._lock:
            pending = {"pending": len(self._books.pending), "pending_rows": self.pending_rows}
            return self._books.counts | pending

    @property
    def epoch(self) -> str:
        """Identity of the folder, in which sequences count."""
        return self._books.epoch

    @property
    def last_sequence(self) -> int:
        """Sequence of the batch committed last, 0 before the first; through restarts."""
        return self._books.last_sequence

    @property
    def pending_batches(self) -> int:
        """Batches that wait for a receipt."""
        return len(self._books.pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the batches that wait."""
        return self._books.pending_bytes

    @property
    def pending_rows(self) -> int:
        """Rows of the batches that wait."""
        return self._books.pending_rows

    @property
    def fill_ratio(self) -> float:
        """Bytes kept over max_bytes."""
        return self._books.fill_ratio

    @property
    def failure(self) -> str:
        """Why no more work is taken until a restart; empty while all is well."""
        return self._books.failure

    @property
    def alarm(self) -> str:
        """Empty, or the worst of "failed", "disk-full", "spool-full" and "filling"."""
        filling = "filling" if self.fill_ratio >= self.config.alarm_ratio else ""
        return "failed" if self.failure else self._books.alarm or filling

    def start(self) -> None:
        """Take the folder and put right what a crash left; SpoolError where that cannot be done."""
        try:
            durable.make_folder(self._books.folder)
            durable.make_folder(self._books.dead_folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._owner = os.open(self._books.folder / "lock", flags, durable.FILE_MODE)
            try:
                fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SpoolError("another collector owns this spool") from None
            self._books.failure = ""
            self._books.recover()
        except (OSError, SpoolError) as error:
            self.stop()
            if isinstance(error, SpoolError):
                raise
            raise SpoolError(f"the spool folder cannot be used: {error.strerror}") from error

    def stop(self) -> None:
        """Give the folder up; everything committed stays. May be called again."""
        with self._commit_lock, self._lock:
            if self._owner is not None:
                os.close(self._owner)
            self._owner = None
            self._books.failure = _NOT_STARTED

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
        nothing of the window is visible, unless `failure` is set: then only a restart can tell.
        """
        if not 1 <= len(pieces) <= MAX_PIECES:
            raise SpoolError(f"a window has 1 to {MAX_PIECES} pieces, not {len(pieces)}")
        with self._commit_lock:
            self._must_run()
            last = self.last_sequence + len(pieces)
            entries: list[Entry] = []
            try:
                with self._lock:
                    carried = self._books.ledger.begin(last)
                for sequence, columns in enumerate(pieces, self.last_sequence + 1):
                    if sequence == last and carried:
                        columns = with_gaps(columns, carried, created_ns)
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
                    path = self._books.path(sequence, "batch")
                    entries.append(Entry(codec.peek(data), path, len(data)))
                    with self._lock:
                        self._books.make_room(sum(entry.size for entry in entries))
                    self._write(path.with_suffix(".tmp" if sequence == last else ".part"), data)
                if len(entries) > 1:
                    durable.sync_folder(self._books.folder)
                os.rename(entries[-1].path.with_suffix(".tmp"), entries[-1].path)
            except (OSError, BatchError, SpoolError) as error:
                self._undo(entries)
                if not isinstance(error, OSError):
                    raise
                if error.errno in NO_SPACE:
                    raise SpoolFullError("the disk is full, even for the reserve") from error
                raise SpoolError(f"cannot write to the spool: {error.strerror}") from error
            self._publish(entries)
            return [entry.header for entry in entries]

    def oldest(self) -> tuple[Header, Path] | None:
        """The batch to send next. It is dropped last of all, because it may be under way."""
        with self._lock:
            self._must_run()
            for sequence, entry in self._books.pending.items():
                self._books.claimed = sequence
                return entry.header, entry.path
        return None

    def acknowledge(self, batch: str) -> bool:
        """A receipt came: free the batch. False where no such batch waits (it was dropped)."""
        with self._lock:
            if (entry := self._find(batch)) is None:
                return False
            try:
                self._books.acknowledge(entry)
            except OSError as error:
                raise SpoolError(f"cannot free a batch: {error.strerror}") from error
            return True

    def reject(self, batch: str, reason: str) -> bool:
        """The batch can never be taken: move it to dead/ and tell a loss. False as above."""
        with self._lock:
            if (entry := self._find(batch)) is None:
                return False
            word = stable_word(reason)
            try:
                self._books.bury(entry, f"rejected-{word}")
            except OSError as error:
                raise SpoolError(f"cannot set a batch aside: {error.strerror}") from error
            log.error("batch %s was refused (%s) and is in dead/", batch, word)
            return True

    def _write(self, path: Path, data: bytes) -> None:
        """One piece on disk under a name that is not a batch yet; drops the oldest for room."""
        books = self._books
        freed = 0
        while True:
            try:
                durable.write_new(path, data)
                break
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
            with self._lock:
                books.alarm = "disk-full"
                can_drop = bool(books.dead) or len(books.pending) > self.config.floor_batches
                if freed > 2 * len(data) or not can_drop:
                    raise SpoolFullError("the disk is full, and not with batches")
                freed += books.drop_oldest("disk-full")
        if freed == 0 and books.alarm == "disk-full":
            books.alarm = ""

    def _undo(self, entries: Sequence[Entry]) -> None:
        """Nothing was committed: no name stays behind, and the losses wait again."""
        for entry in entries:
            for suffix in (".part", ".tmp"):
                try:
                    os.unlink(entry.path.with_suffix(suffix))
                except FileNotFoundError:
                    pass
                except OSError:  # a part left behind would pass for committed one day
                    self._books.fail("a commit failed and its pieces cannot be removed")
        with self._lock:
            self._books.counts["errors"] += 1
            self._books.ledger.abort()

    def _publish(self, entries: Sequence[Entry]) -> None:
        """What follows from the rename of the last piece, which was the commit point.

        After an error here memory cannot tell what a power cut would leave, so the spool stops.
        """
        try:
            durable.sync_folder(self._books.folder)
            for entry in entries[:-1]:
                os.rename(entry.path.with_suffix(".part"), entry.path)
            if len(entries) > 1:
                durable.sync_folder(self._books.folder)
        except OSError as error:
            raise self._books.fail("a commit failed half way") from error
        with self._lock:
            for entry in entries:
                self._books.remember(entry)
            self._books.last_sequence = entries[-1].header.sequence
            self._books.ledger.finish()
            self._books.ledger.keep_reserve()

    def _find(self, batch: str) -> Entry | None:
        self._must_run()
        return self._books.find(batch)

    def _must_run(self) -> None:
        if self._books.failure:
            raise SpoolError(self._books.failure)
