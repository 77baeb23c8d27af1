"""Durable files: the few file-system steps that spool and journal are made of.

A file is complete or absent: written under a temporary name, fsynced, renamed, and the folder
fsynced so that the name itself survives a power cut. Every function raises OSError.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
"""Spool and journal hold personal data: nobody but the collector's user reads them."""
TEMPORARY: Final = ".tmp"
NO_SPACE: Final = (ENOSPC, EDQUOT)
_WRITE_BYTES: Final = 1024 * 1024


def make_folder(folder: Path) -> None:
    """The folder with FOLDER_MODE, made where it is missing; its name is durable."""
    if not folder.is_dir():
        os.makedirs(folder, mode=FOLDER_MODE, exist_ok=True)
        sync_folder(folder.parent)
    os.chmod(folder, FOLDER_MODE)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path) -> int:
    """Descriptor of a new, empty file of FILE_MODE; one of that name is removed first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, flags, FILE_MODE)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Every byte, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_WRITE_BYTES]) :]


def write_new(path: Path, data: bytes) -> None:
    """A new file with its data on disk; its name is not durable yet. Removed on an error."""
    descriptor = create(path)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        with suppress(OSError):  # the first error is the one to tell
            os.unlink(path)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """The file with new content: after a crash it has the old or the new, never a mixture."""
    temporary = path.with_name(path.name + TEMPORARY)
    write_new(temporary, data)
    os.rename(temporary, path)
    sync_folder(path.parent)


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a plain file; ValueError where it has more than `limit` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"the file has more than {limit} bytes")
    return data
