"""Locks: one service for a register's folder, one thread at a time for what changes what is held.

`RegisterError` is every error of the register; its text says what to do and holds no value of a
row. `Busy` asks for patience, `LogPending` says that a leaf waits for the audit log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path


class RegisterError(Exception):
    """The register is damaged, in use, not open, or was asked for what it must not do."""


class Busy(RegisterError):
    """Another thread has the exclusive lock, or a purge has to be settled first; try again."""


class Underway(Busy):
    """A purge has to be brought to its outcome first; who waits for the lock does not help it."""


class LogPending(RegisterError):
    """The audit log does not take leaves now; every write tries again first.

    committed: whether the write that raised this is in the register. Then its leaves are queued
    and nothing is lost; else nothing of it was done.
    """

    def __init__(self, text: str, committed: bool) -> None:
        super().__init__(text)
        self.committed = committed


class FolderLock:
    """Keeps a second service out of a folder, for as long as this process lives or holds it."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def take(self) -> None:
        """Take it at once, or raise RegisterError at once; nothing waits for another service."""
        if self._handle >= 0:
            raise RegisterError("the register is open already")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise RegisterError(
                "another retention service has the register open; stop that one first"
            ) from error
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def give(self) -> None:
        """Give it back; the file stays, since removing it would let two services in."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Exclusive:
    """One thread at a time, which may take it again while it has it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def __call__(self, timeout_s: float) -> Iterator[None]:
        """Hold it; raises Busy if another thread does not give it up within `timeout_s`."""
        if not self._lock.acquire(timeout=max(0.0, timeout_s)):
            raise Busy("holds or a purge are being worked on; try again in a minute")
        try:
            yield
        finally:
            self._lock.release()
