"""The register: holds, purges and notes in; their state, and leaves in the audit log, out.

    folder/register.sqlite   rows (rows.py), with SQLite's own -wal and -shm beside it
    folder/secret            32 bytes, from which the salts of row digests are made
    folder/lock              taken by the service that has the register open

For any number of threads: one connection, and one thread at a time in it and in the audit log, for
as long as one call takes. `exclusive` is another lock, held over several calls: by who changes
what is held, and by a purge from its intent to its outcome. `write` takes it by itself for leaves
that need it. The log must be open first, and nothing but the register may append to it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from retention.audit import disk
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import Key
from retention.audit.log import AuditLog, LogError
from retention.model import PROTECTING, Hold, Purge, Step
from retention.register import database
from retention.register.database import Database, Uncertain, secret_digest
from retention.register.leaves import raises_generation
from retention.register.lock import (
    Busy,
    Exclusive,
    FolderLock,
    LogPending,
    RegisterError,
    Underway,
)
from retention.register.notes import Notes
from retention.register.outbox import EXCLUSIVE, SETTLED_ONLY, Outbox, stamp
from retention.register.reading import Reading
from retention.register.rows import (
    HOLDS,
    NOTES,
    PURGES,
    SEEN,
    STATE,
    Note,
    State,
    damaged,
)

__all__ = ["Busy", "LogPending", "Register", "RegisterError", "Underway"]

SECRET_BYTES: Final = 32
TIMEOUT_S: Final = 60.0
"""How long to wait for `exclusive`: a purge of a partition takes seconds."""
_WIDTHS: Final = {"H": 4}
"""Digits of an id's number by prefix; six for the others. More where there are more."""
_PROTECTING: Final = frozenset(state.value for state in PROTECTING)


class Register(Reading):
    """Open it before use; every method then raises RegisterError where it cannot do as asked."""

    def __init__(self, folder: Path, log: AuditLog, now: Callable[[], int]) -> None:
        super().__init__()
        self.folder = folder
        self._path = folder / "register.sqlite"
        self._now = now
        self._outbox = Outbox(log)
        self._folder_lock = FolderLock(folder / "lock")
        self._exclusive = Exclusive()
        self._database: Database | None = None
        self._last_us = 0
        self._secret = b""
        # open: the folder is taken. sound: memory is what the file has. settled: the log has all.
        self._open = self._sound = self._settled = False

    # Opening and closing.

    def open(self) -> None:
        """Take the folder, check every row, and bring the log what a crash kept from it.

        Raises RegisterError: another service has it, it is damaged, or it is not of this log; the
        text says what to do, and nothing on disk was changed. With a log that cannot be written
        now it opens all the same; `is_settled` is False and the next write tries again.
        """
        with self._mutex, _plainly():
            disk.make_folder(self.folder, 0o700)
            self.folder.chmod(0o700)
            self._folder_lock.take()
            try:
                if not self._path.exists():
                    self._create()
                self._load()
                self._open = True
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Give the folder back; what was written is durable already."""
        with self._mutex:
            self._open = self._sound = self._settled = False
            try:
                if self._database:
                    self._database.close()
            finally:
                self._database = None
                self._folder_lock.give()

    def __enter__(self) -> Register:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self) -> None:
        """Begin a register where there is none, unless one is known to be missing."""
        if Path(f"{self._path}-wal").exists():
            raise damaged("its file is missing, its write-ahead log is there")
        log = self._outbox.check_new()
        secret = disk.secret(self.folder / "secret", secrets.token_bytes(SECRET_BYTES))
        state = State(self._outbox.origin, log.size, log.tree.root().hex(), secret_digest(secret))
        database.create(self._path, state)

    def _load(self) -> None:
        """Read and check everything, open the file for writing, settle the queue."""
        self._settled = False
        if self._database:
            self._database.close()
            self._database = None
        found = database.inspect(self._path)
        secret_path = self.folder / "secret"
        self._secret = secret_path.read_bytes() if secret_path.exists() else b""
        if found.state.secret != secret_digest(self._secret):
            raise damaged("its secret, with which all evidence was made, is missing or another")
        self._outbox.check_belongs(found.state)
        for path in (*self.folder.glob("register.sqlite*"), secret_path):
            path.chmod(0o600)
        self._database = Database(self._path)
        self._state, self._notes = found.state, Notes(found.notes)
        self._last_us = self._outbox.last_at(found.state.queue)
        self._sound = True
        try:
            self._settle()
        except LogPending as error:
            if isinstance(error.__cause__, LogError):
                raise

    @property
    def secret(self) -> bytes:
        """32 bytes that salts are made of; never in a log, a leaf or an answer."""
        self._ready()
        return self._secret

    @property
    def is_settled(self) -> bool:
        """Whether the audit log has every leaf."""
        return self._settled

    def now(self) -> int:
        """Nanoseconds, never earlier than the last leaf: what rows should take their times from,
        so that a row never says an earlier time than its leaf."""
        return max(self._now(), self._last_us * 1000)

    def exclusive(self, timeout_s: float = TIMEOUT_S) -> AbstractContextManager[None]:
        """Lock out all other changes of what is held; again in the same thread is no wait.

        Raises Busy if another thread does not give it up in time.
        """
        return self._exclusive(timeout_s)

    @contextlib.contextmanager
    def audit(self) -> Iterator[AuditLog]:
        """The audit log, to read from (tail, proofs, checkpoint) while nobody appends to it."""
        with self._mutex:
            self._ready()
            yield self._outbox.log

    # Changing it.

    def next_id(self, prefix: str) -> str:
        """A number never given before: "H-2026-0001"; durable, so a crash repeats none."""
        with self._mutex:
            self._flush()
            at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self.now() // 10**9)
            name = f"{prefix}-{at.year}"
            counters = dict(self._state.counters)
            counters[name] = counters.get(name, 0) + 1
            state = replace(self._state, counters=tuple(sorted(counters.items())))
            with self._transaction() as file:
                file.put(STATE, state, state.total)
            self._state, self._sound = state, True
            return f"{name}-{counters[name]:0{_WIDTHS.get(prefix, 6)}d}"

    def write(
        self,
        *,
        holds: Iterable[Hold] = (),
        purges: Iterable[Purge] = (),
        notes: Mapping[str, str | None] | None = None,
        leaves: Sequence[Leaf] = (),
    ) -> list[int]:
        """Write rows, notes (None deletes) and leaves, all or nothing; give the log indexes.

        Raises LeafError for a leaf that is none and RegisterError for one that the log's replay
        would find at a wrong generation: nothing was written. LogPending: see its `committed`.
        Underway: a leaf must not come between what a purge preserved and its outcome.
        """
        holds, purges = tuple(holds), tuple(purges)
        kinds = {str(leaf.get("kind")) for leaf in leaves}
        changes = bool(holds) or any(raises_generation(kind) for kind in kinds)
        alone = self.exclusive() if changes or kinds & EXCLUSIVE else contextlib.nullcontext()
        with alone, self._mutex:
            self._flush()
            rows = self._notes.rows(notes or {})
            with self._transaction() as file:
                underway = file.purges_at(Step.PRESERVED)
                state, last_us = self._put(file, holds, purges, rows, leaves)
                # One that ends in this write is over; one that begins with it is not yet underway.
                if changes or kinds & SETTLED_ONLY:
                    _check_settled(underway & file.purges_at(Step.PRESERVED))
            self._state, self._last_us, self._sound = state, last_us, True
            self._notes = self._notes.after(rows)
            self._settle()
            return list(range(state.size, state.size + len(leaves)))

    def add_cosigned(self, note: str, key: Key) -> int:
        """Keep a checkpoint that an enrolled witness signed, as `AuditLog.add_cosigned` does."""
        with self._mutex:
            self._flush()
            self._settled = False
            index = self._outbox.add_cosigned(note, key)
            self._settle()
            return index

    def _put(
        self,
        file: Database,
        holds: Iterable[Hold],
        purges: Iterable[Purge],
        notes: Iterable[Note],
        leaves: Sequence[Leaf],
    ) -> tuple[State, int]:
        """Write rows and queue leaves; give the new state and the time of the last leaf."""
        total = self._state.total
        for hold in holds:
            total = file.put(HOLDS, hold, total)
        for purge in purges:
            total = file.put(PURGES, purge, total)
        for leaf in leaves:
            if leaf.get("kind") == "partition.seen":
                total = file.put(SEEN, leaf, total)
        # Rows that become free first: their keys may be written to others.
        for note in sorted(notes, key=lambda note: note.key is not None):
            total = file.put(NOTES, note, total)
        active = file.count_holds(_PROTECTING)
        stamped = stamp(leaves, self._state.generation, self._last_us, self._now() // 1000, active)
        state = replace(
            self._state, total=total, generation=stamped.generation, queue=stamped.entries
        )
        file.put(STATE, state, total)
        return state, stamped.last_us

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Database]:
        """A transaction; whoever uses it says that memory is sound again when it is."""
        assert self._database, "ready"
        self._sound = False
        try:
            with self._database.transaction():
                yield self._database
        except Uncertain:
            raise  # the next call reads the file again to see
        except Exception:
            self._sound = True  # rolled back: memory is what the file has
            raise

    def _ready(self) -> Database:
        """The open file, read again if a failure left open what is in it."""
        with self._mutex:
            if not self._open:
                raise RegisterError("the register is not open")
            if not self._sound:
                with _plainly():
                    self._load()
            assert self._database
            return self._database

    def _flush(self) -> None:
        """Give the log what it still owes before anything new; LogPending if it takes nothing."""
        self._ready()
        if not self._settled:
            try:
                self._settle()
            except LogPending as error:
                raise LogPending(str(error), committed=False) from error.__cause__

    def _settle(self) -> None:
        """Bring the queue to the log, and know it there."""
        self._settled = False
        self._outbox.settle(self._state.size, self._state.queue)
        log = self._outbox.log
        if log.size > self._state.size + len(self._state.queue):
            self._last_us = self._outbox.last_at()
        self._state = replace(self._state, size=log.size, root=log.tree.root().hex(), queue=())
        self._settled = True


def _check_settled(underway: set[str]) -> None:
    if underway:
        raise Underway("a purge has to be brought to its outcome first; try again later")


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Turn errors of the disk and the log into the register's."""
    try:
        yield
    except OSError as error:
        raise RegisterError(
            f"the register's folder cannot be used ({error.strerror or 'no reason given'})"
        ) from error
    except LogError as error:
        raise RegisterError(f"the audit log cannot be used: {error}") from error
