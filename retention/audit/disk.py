"""Puts bytes on a disk so that they are there after a crash, whole or not at all.

Each function returns when what it did is durable. The order of system calls matters and is tested
by failing, and by losing all that is not synced at, each one of them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_folder(path: Path, mode: int = 0o750) -> None:
    """Make a folder and those above it; durable."""
    if not path.is_dir():
        make_folder(path.parent, mode)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the folder's names durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes, mode: int = 0o640) -> None:
    """Write a file of these bytes; its name is durable only after `sync_folder`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, mode: int = 0o640) -> None:
    """Put a file of these bytes in place of the old one; durable, whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    write(temporary, data, mode)
    os.replace(temporary, path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there, and then its folder if that is a partial tiles' empty one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if path.parent.name.endswith(".p"):
        with contextlib.suppress(OSError):  # not empty, or gone; it is tried again at the next
            os.rmdir(path.parent)


def secret(path: Path, fresh: bytes) -> bytes:
    """Give the file's bytes; if there is none, keep `fresh` as it, readable by its owner only.

    Of two that try at once the first one's bytes count for both.
    """
    make_folder(path.parent, 0o700)
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        write(temporary, fresh, 0o600)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sync_folder(path.parent)
    return path.read_bytes()
