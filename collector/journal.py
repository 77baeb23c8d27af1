"""Journal: what the collector's state machines know, so that a SIGKILL loses nothing.

    state-<sequence>.json   the state as it was when batch <sequence> of the spool was closed
    events-<sequence>.log   what happened since, one framed line an event

The service writes an event before it applies it, and at the close of a window

    journal.rotate(sequence, snapshot)     the state, durable, not in force yet
    spool.commit(...)                      gives batch `sequence`: the one commit point of both
    journal.committed(sequence)            the old state and log go

After a crash `load(spool.last_sequence)` gives the state of exactly the batches that are committed
and every synced event after it, once: where the batch was not committed its state is discarded and
its events are replayed from the log before; where it was, a mark in that log says from where on.

Not thread-safe: one thread owns the journal. Disk use is bounded by `max_log_bytes` (see `append`)
and MAX_SNAPSHOT_BYTES.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from collector import durable
from collector.durable import NO_SPACE
from collector.framing import frame, frames
from collector.journal_state import (
    LOG,
    MARK,
    STATE,
    log_path,
    numbers,
    read_state,
    remove_all_but,
    state_bytes,
    state_path,
    tail_after,
)
from collector.wire.loss import Loss
from collector.wire.records import CLASSES

log = logging.getLogger(__name__)

Event = tuple[str, dict[str, Any]]
"""Kind and payload, as given to `append`."""

MAX_EVENT_BYTES: Final = 64 * 1024
"""Largest event. Accounting and SIP events come from packets of at most 64 KiB, without bodies."""
DEFAULT_LOG_BYTES: Final = 32 * 1024 * 1024
"""100,000 events of 300 bytes between two windows: 350 accounting events a second."""
_MAX_LOG_FILE_BYTES: Final = 1024 * 1024 * 1024
"""Largest log that is read back, whatever max_log_bytes was when it was written."""
_BUFFER_BYTES: Final = 256 * 1024


class JournalError(Exception):
    """The journal cannot be written or read; the message says why, in words for an operator."""


class JournalFullError(JournalError):
    """The log has twice its size: the window must be closed before anything more is taken."""


class Journal:
    """The journal in one folder, which it shares with nobody (the spool's lock sees to that).

    `losses` tells what could not be read back; the service takes them once after `load`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_log_bytes: int = DEFAULT_LOG_BYTES,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        if max_log_bytes < 1:
            raise ValueError("max_log_bytes must be positive")
        self.losses: list[Loss] = []
        self.counts: dict[str, int] = {"appended": 0, "synced": 0, "replayed": 0, "lost": 0}
        self._folder = folder
        self._max_log_bytes = max_log_bytes
        self._now = now
        self._descriptor: int | None = None
        self._path = folder
        self._buffer = bytearray()
        self._log_bytes = 0
        self._unsynced = 0
        self._tail_from: int | None = None
        self._failure = "the journal is not loaded"

    @property
    def is_full(self) -> bool:
        """The log has reached max_log_bytes: close the window early, which empties it.

        `append` goes on to twice that and then raises JournalFullError.
        """
        return self._log_bytes >= self._max_log_bytes

    @property
    def failure(self) -> str:
        """Why nothing more can be written until a restart; empty while all is well."""
        return self._failure

    @property
    def log_bytes(self) -> int:
        """Bytes of events since the last committed batch."""
        return self._log_bytes

    def load(self, last_sequence: int) -> tuple[dict[str, Any] | None, list[Event]]:
        """State and events since, as of the spool's last committed sequence.

        The state is None at the first start and where it cannot be read; the latter is told in
        `losses`, and the events are still given. Other states and logs are removed, a torn tail
        is cut, and the log is open for `append` afterwards. Raises JournalError.
        """
        self.close()
        self.losses = []
        try:
            durable.make_folder(self._folder)
            return self._load(last_sequence)
        except OSError as error:
            raise JournalError(f"the journal cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    def append(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Write one event of JSON values; it survives a crash once `sync` returned.

        Raises JournalFullError at twice max_log_bytes, and JournalError for an event that is too
        large, not JSON or called "rotate", and where the disk fails.
        """
        if kind == MARK:
            raise JournalError("an event cannot be called as the journal's own mark is")
        try:
            line = frame({"k": kind, "p": payload})
        except (TypeError, ValueError):
            raise JournalError(f"an event of kind {kind} is not JSON") from None
        if len(line) > MAX_EVENT_BYTES:
            raise JournalError(f"an event of kind {kind} has more than {MAX_EVENT_BYTES} bytes")
        if self._log_bytes + len(line) > 2 * self._max_log_bytes:
            raise JournalFullError("the journal is full: the window must be closed first")
        self._put(line)
        self.counts["appended"] += 1
        self._unsynced += 1

    def sync(self) -> None:
        """Make every event appended so far durable, in one go. Raises JournalError."""
        if not self._unsynced and not self._buffer:
            return
        descriptor = self._open_log()
        self._flush(descriptor)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise self._fail("the journal cannot be written", error) from error
        self.counts["synced"] += self._unsynced
        self._unsynced = 0

    def rotate(self, sequence: int, snapshot: Mapping[str, Any]) -> None:
        """Write the state that belongs to batch `sequence`, before that batch is committed.

        Events appended afterwards come after that state. May be repeated if the commit failed.
        Raises JournalError; the journal then still has the state before.
        """
        nonce = secrets.token_hex(8)
        try:
            data = state_bytes(sequence, nonce, snapshot)
        except ValueError as error:
            raise JournalError(str(error)) from None
        self._put(frame({"k": MARK, "p": {"sequence": sequence, "nonce": nonce}}))
        self.sync()
        self._tail_from = None
        try:
            durable.replace_file(state_path(self._folder, sequence), data)
        except OSError as error:
            raise JournalError(f"the state cannot be written: {error.strerror}") from error
        self._tail_from = self._log_bytes

    def committed(self, sequence: int) -> None:
        """Batch `sequence` is committed: its state is in force, what came before it goes.

        Raises JournalError; a restart then finds the same.
        """
        if self._tail_from is None:
            raise JournalError("no state was written for this batch")
        self.sync()
        try:
            with open(self._path, "rb") as file:
                file.seek(self._tail_from)
                tail = file.read()
            self._tail_from = None
            self._begin_log(sequence, tail)
            remove_all_but(self._folder, sequence)
        except OSError as error:
            raise self._fail("the journal cannot be written", error) from error

    def close(self) -> None:
        """Let the log go; what was not synced may be lost. May be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._buffer.clear()
        self._log_bytes = self._unsynced = 0
        self._tail_from = None
        self._failure = "the journal is not loaded"

    # -- loading

    def _load(self, last: int) -> tuple[dict[str, Any] | None, list[Event]]:
        states = numbers(self._folder, STATE)
        logs = numbers(self._folder, LOG)
        snapshot, nonce = read_state(state_path(self._folder, last), last)
        is_first = last == 0 and (0 in logs or not states)
        if snapshot is None and not is_first:
            what = "state-corrupt" if last in states else "state-missing"
            times = [state_path(self._folder, number).stat().st_mtime_ns for number in states]
            self._lose(what, -1, min(times, default=self._now() - 1))
        base = max((number for number in logs if number <= last), default=None)
        tail = b""
        if base is not None:
            data = durable.read_limited(log_path(self._folder, base), _MAX_LOG_FILE_BYTES)
            tail, lost = tail_after(data, last, nonce, is_own=base == last)
            for reason, amount in lost:
                self._lose(reason, amount, log_path(self._folder, base).stat().st_mtime_ns)
        # Written anew, so that from here on there is one state and one log, whatever was found.
        self._begin_log(last, tail)
        remove_all_but(self._folder, last)
        events = [(kind, payload) for kind, payload, _ in frames(tail)]
        events = [event for event in events if event[0] != MARK]
        self.counts["replayed"] += len(events)
        return snapshot, events

    def _lose(self, reason: str, amount: int, start_ns: int) -> None:
        end_ns = max(self._now(), start_ns + 1)
        self.counts["lost"] += max(amount, 0)
        self.losses.append(
            Loss(start_ns, end_ns, "track", reason, amount, "events", tuple(CLASSES))
        )

    # -- the log

    def _begin_log(self, sequence: int, content: bytes) -> None:
        """A new log, open for append, that has replaced any of that number in one step."""
        path = log_path(self._folder, sequence)
        durable.replace_file(path, content)
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._path = descriptor, path
        self._log_bytes = len(content)
        self._buffer.clear()
        self._failure = ""

    def _open_log(self) -> int:
        if self._failure or self._descriptor is None:
            raise JournalError(self._failure)
        return self._descriptor

    def _put(self, line: bytes) -> None:
        descriptor = self._open_log()
        self._buffer += line
        self._log_bytes += len(line)
        if len(self._buffer) >= _BUFFER_BYTES:
            try:
                self._flush(descriptor)
            except JournalFullError:
                # The caller is told that this event is not in the journal, so it must not be.
                del self._buffer[-len(line) :]
                self._log_bytes -= len(line)
                raise

    def _flush(self, descriptor: int) -> None:
        if not self._buffer:
            return
        written = self._log_bytes - len(self._buffer)
        try:
            try:
                durable.write_all(descriptor, bytes(self._buffer))
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                # Cut the half-written frame; the buffer is kept and written when there is room.
                os.ftruncate(descriptor, written)
                raise JournalFullError("the disk is full: the journal cannot be written") from error
        except OSError as error:
            raise self._fail("the journal cannot be written", error) from error
        self._buffer.clear()

    def _fail(self, what: str, error: OSError) -> JournalError:
        """Take no more: after a failed write or fsync only a restart knows what is on disk."""
        self._failure = f"{what}: {error.strerror}; restart the collector to go by what is on disk"
        return JournalError(self._failure)
