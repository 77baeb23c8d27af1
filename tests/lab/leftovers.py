"""Finds processes that a lab left behind, by the network namespace they are in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

GONE_TIMEOUT_S: Final = 10.0
"""Ending a lab takes well under a second; a busy machine may need more."""


def namespace_of(pid: int) -> int:
    """The inode of a process's network namespace."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def processes_in(inode: int) -> set[int]:
    """Every process in that network namespace."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if namespace_of(int(entry.name)) == inode:
                    found.add(int(entry.name))
            except OSError:  # ended meanwhile
                continue
    return found


def await_gone(inodes: set[int]) -> bool:
    """Whether no process is left in any of these namespaces, within the time that ending takes."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while any(processes_in(inode) for inode in inodes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
