"""Faults at each system call: an error, or the end of the process, at the n-th call made."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "rename", "unlink", "truncate", "ftruncate", "close")
"""What the durable path asks of the system. `close` is listed so that a crash there counts."""


class Crash(BaseException):
    """The process is gone: nothing may handle it, and nothing after it may touch the disk."""


class Faults:
    """Counts the calls and does something at one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.at = -1
        self.error: int | None = None
        self.calls: list[str] = []
        self.is_dead = False

    def crash_at(self, number: int) -> None:
        self.count, self.at, self.error, self.is_dead = 0, number, None, False

    def fail_at(self, number: int, code: int = errno.EIO) -> None:
        self.count, self.at, self.error, self.is_dead = 0, number, code, False

    def off(self) -> None:
        self.at, self.is_dead = -1, False

    def _can_happen(self, name: str, args: tuple[Any, ...]) -> bool:
        """A disk is found to be full by what makes something new, and by nothing else."""
        if self.error != errno.ENOSPC:
            return True
        return name in ("write", "rename") or (name == "open" and bool(args[1] & os.O_CREAT))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_dead and name != "close":
                raise Crash
            number = self.count
            self.count += 1
            self.calls.append(name)
            if number == self.at and name != "close" and self._can_happen(name, args):
                if self.error is not None:
                    raise OSError(self.error, os.strerror(self.error))
                self.is_dead = True
                if name == "write":  # half of it reached the disk
                    real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                raise Crash
            # These are faults of a process or a disk; nothing here could tell a real fsync.
            return None if name == "fsync" else real(*args, **kwargs)

        return call


@contextmanager
def faults() -> Iterator[Faults]:
    """Faults in `os` while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        plan = Faults()
        for name in CALLS:
            patch.setattr(os, name, plan.wrap(name, getattr(os, name)))
        yield plan
