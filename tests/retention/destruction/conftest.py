"""Folders in memory for the tests that build thousands of registers, with no disk to wait for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that needs no fsync: what ends here is a process, and the kernel outlives it."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    path = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path)
