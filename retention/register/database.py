"""The register's SQLite file: made whole or not at all, checked to the last row when it is opened.

Write-ahead log, synchronous=FULL: a committed transaction is on the disk. The check reads through a
connection that cannot write, so that a damaged register stays as it was found, its write-ahead log
too. No statement here removes a row: what is over is written over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from retention.audit import disk
from retention.register.lock import RegisterError
from retention.register.rows import (
    HOLDS,
    INDEXES,
    PURGES,
    STATE,
    TABLES,
    Note,
    State,
    Table,
    added,
    damaged,
)

T = TypeVar("T")

SCHEMA: Final = 1
"""`user_version` of the file; raised when tables change, and never opened by an older program."""
APPLICATION: Final = 0x54414C59
"""`application_id` of the file, "TALY": `file` and a person see what it is."""
BUSY_MS: Final = 5_000
"""How long a statement waits for a backup that reads the file; a copy of it takes less."""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLITE_ERROR too: the statements are fixed, so it is the schema on disk that is another."""
_CERTAIN: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG}
)
"""Errors after which a transaction that was rolled back is certainly not in the file. A failed
sync is not among them: the next reader may or may not find what was written."""


MAX_KNOWN: Final = 50_000
"""Objects kept to answer again: a few years' holds and purges, and versions that went before."""
_FROZEN: Final = (HOLDS, PURGES)
"""Tables whose objects nobody can change, so that one object can be the answer to many."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds."""

    state: State
    notes: tuple[Note, ...]


class Uncertain(RegisterError):
    """A transaction failed in a way that leaves open whether it is in the file."""


def create(path: Path, state: State) -> None:
    """Make a file that holds nothing yet; durable, and under its name only when it is whole."""
    fresh = path.with_name(f"{path.name}.new")
    for rest in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm"), Path(f"{fresh}-journal")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rest)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    with _meaning(), contextlib.closing(_connect(fresh)) as connection:
        # Before it has its name: a crash while the mode changes leaves a journal, which `inspect`,
        # that writes nothing, could not read past.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*(table.sql for table in TABLES), *INDEXES):
            connection.execute(statement)
        connection.execute(STATE.upsert, STATE.row(state))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    os.replace(fresh, path)
    disk.sync_folder(path.parent)


def inspect(path: Path) -> Found:
    """Check every page and row of a file and give what it holds; changes nothing.

    Raises RegisterError, which says what to do, if it is damaged, of a newer program, or cannot
    be read.
    """
    if not path.stat().st_size:
        raise damaged("its file is empty")
    with _meaning(), contextlib.closing(_connect(path, "ro")) as connection:
        if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            raise damaged("its file is not a register")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise RegisterError(
                f"the register is of schema {version}, this program knows {SCHEMA}: run the newer "
                "program, or restore the register as it was before that one ran"
            )
        if version != SCHEMA:
            raise damaged("its schema number is none")
        # More than quick_check: an index that lacks a row would hide a hold.
        if connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
            raise damaged("SQLite finds its pages inconsistent")
        return _read(connection)


def _read(connection: sqlite3.Connection) -> Found:
    states, notes, total = list[State](), list[Note](), "0" * 64
    for table in TABLES:
        for row in connection.execute(f"SELECT {', '.join(table.names)} FROM {table.name}"):
            item = table.item(row)
            if tuple(row) != table.row(item):
                raise damaged(f"columns of {table.name} do not say what the row says")
            if isinstance(item, State):
                states.append(item)
                continue
            total = added(total, row[-1])
            if isinstance(item, Note):
                notes.append(item)
    if len(states) != 1 or states[0].total != total:
        raise damaged("rows are missing or old")
    return Found(states[0], tuple(notes))


class Database:
    """The open file. One connection; the caller lets in one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._known: dict[bytes, Any] = {}
        self._connection = _connect(path)
        try:
            with _meaning():
                for pragma in (
                    "journal_mode = WAL",
                    "synchronous = FULL",
                    "foreign_keys = ON",
                    "trusted_schema = OFF",
                ):
                    self._connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; what was committed is durable already."""
        with _meaning():
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; raises Uncertain where that is not known."""
        with _meaning(changing=True):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # else SQLite did: on a full disk, for one
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise Uncertain(f"the register cannot undo what it began ({error})") from error

    def put(self, table: Table[T], item: T, total: str) -> str:
        """Write an object over the one of the same key; give the new sum of digests."""
        row = table.row(item)
        found = self._connection.execute(
            f"SELECT digest FROM {table.name} WHERE {table.where_key}", table.key(item)
        ).fetchone()
        self._connection.execute(table.upsert, row)
        digest = row[-1]
        assert isinstance(digest, bytes)
        return added(total, digest, found[0] if found else None)

    def items(self, table: Table[T], where: str = "TRUE", values: tuple[Any, ...] = ()) -> list[T]:
        """Objects that meet a condition, by key; raises RegisterError for a damaged row."""
        with _meaning():
            rows = self._connection.execute(
                f"SELECT {', '.join(table.names)} FROM {table.name} WHERE {where} "
                f"ORDER BY {', '.join(table.keys)}",
                values,
            ).fetchall()
        if table not in _FROZEN:
            return [table.item(row) for row in rows]
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        return [table.item(row, self._known) for row in rows]

    def count_holds(self, states: frozenset[str]) -> int:
        """How many holds are in one of these states."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT count(*) FROM {HOLDS.name} WHERE state IN ({marks})"
        return int(self._connection.execute(query, tuple(states)).fetchone()[0])

    def purges_at(self, step: str) -> set[str]:
        """Ids of the purges at a step."""
        query = f"SELECT id FROM {PURGES.name} WHERE step = ?"
        return {row[0] for row in self._connection.execute(query, (step,))}


def secret_digest(secret: bytes) -> str:
    """What the register keeps to know its secret again; the secret cannot be had from it."""
    return hashlib.sha256(b"register secret" + secret).hexdigest()


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    # `isolation_level=None`: transactions begin and end where this module says so.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        timeout=BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    # A text that is spoilt becomes another text, which its row's digest finds; the module's own
    # error would quote it.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


@contextlib.contextmanager
def _meaning(changing: bool = False) -> Iterator[None]:
    """Turn SQLite's errors into the register's, which say what to do. They quote no values."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what extends it
        # Errors without a code are those of the Python module, which can quote a value.
        said = str(error) if code else type(error).__name__
        if code in _DAMAGED:
            raise damaged(f"SQLite says {said}") from error
        if code in _CERTAIN:
            text = f"the register takes nothing now ({said}); nothing was changed"
            raise RegisterError(text) from error
        if not changing:
            raise RegisterError(f"the register cannot be read or opened now ({said})") from error
        raise Uncertain(
            f"the register cannot be written ({said}); what was asked for may have been stored "
            "or not: look before asking again"
        ) from error
    except UnicodeDecodeError:
        raise damaged("a text in it is none") from None
    except (OverflowError, UnicodeError) as error:
        kind = type(error).__name__  # the error itself quotes the value
        raise RegisterError(f"a value that the register cannot hold ({kind})") from None
