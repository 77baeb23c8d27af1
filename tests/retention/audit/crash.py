"""A disk that stops at its k-th system call, and what is left of it after a power cut.

Nothing is taken for kept but what the program synced: a file's bytes by fsync of the file, a name
by fsync of its folder (POSIX promises no more).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Crash(BaseException):
    """The machine stopped; no handler of the program runs to any effect."""


class Disk:
    """Stands in for `os`: counts system calls and fails at the one of number `stop`.

    `how` is "before" that call, "half" (of a write), or "error": then the call fails
    with a full disk once and the program lives on.
    """

    def __init__(self, root: Path, stop: int = -1, how: str = "before") -> None:
        self.root, self.stop, self.how = root, stop, how
        self.calls = 0
        self.dead = False
        self._serial = 0
        self._ids: dict[Path, int] = {}
        self._open: dict[int, Path] = {}
        self._bytes: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = Path(folder, name)
                self._ids[path] = self._next()
                if name in files:
                    self._bytes[self._ids[path]] = path.read_bytes()
            self._sync_names(Path(folder))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)  # constants, and calls that change nothing

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        def act() -> int:
            handle = os.open(path, flags, mode)
            self._open[handle] = Path(path)
            self._ids.setdefault(Path(path), self._next())
            return handle

        return self._call(act)

    def write(self, handle: int, data: memoryview) -> int:
        return self._call(
            lambda: os.write(handle, data), lambda: os.write(handle, data[: len(data) // 2])
        )

    def fsync(self, handle: int) -> None:
        def act() -> None:
            path = self._open[handle]
            if path.is_dir():
                self._sync_names(path)
            else:
                self._bytes[self._ids[path]] = path.read_bytes()

        self._call(act)

    def close(self, handle: int) -> None:
        os.close(handle)
        del self._open[handle]

    def mkdir(self, path: Path, mode: int) -> None:
        def act() -> None:
            os.mkdir(path, mode)
            self._ids[path] = self._next()

        self._call(act)

    def replace(self, source: Path, target: Path) -> None:
        def act() -> None:
            os.replace(source, target)
            self._ids[target] = self._ids.pop(source)

        self._call(act)

    def unlink(self, path: Path) -> None:
        def act() -> None:
            os.unlink(path)
            self._ids.pop(path)

        self._call(act)

    def rmdir(self, path: Path) -> None:
        def act() -> None:
            os.rmdir(path)
            self._ids.pop(path)

        self._call(act)

    def after_power_cut(self, target: Path) -> Path:
        """Write what is durable to another folder."""
        self._restore(self.root, target)
        return target

    def _restore(self, source: Path, target: Path) -> None:
        target.mkdir()
        for name, number in self._names.get(source, {}).items():
            if number < 0:
                self._restore(source / name, target / name)
            else:
                (target / name).write_bytes(self._bytes.get(number, b""))

    def _sync_names(self, folder: Path) -> None:
        self._names[folder] = {
            path.name: -1 if path.is_dir() else self._ids[path] for path in folder.iterdir()
        }

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _call(self, act: Callable[[], T], half: Callable[[], T] | None = None) -> T:
        if self.dead:
            raise Crash
        here = self.calls == self.stop
        self.calls += 1
        if not here:
            return act()
        if self.how == "error":
            raise OSError(errno.ENOSPC, "no space left")
        self.dead = True
        if self.how == "half" and half:
            half()
        raise Crash
