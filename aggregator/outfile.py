"""Rows in, a CSV or JSON file out that appears only when it is whole."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

Format = Literal["csv", "json"]
Rows = Iterable[Mapping[str, Any]]


def write_rows(file: TextIO, rows: Rows, columns: Sequence[str], kind: Format) -> None:
    """Write rows one by one: CSV with a heading, or a JSON list with a row on each line."""
    if kind == "csv":
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: cell(row[name]) for name in columns})
        return
    before = "[\n "
    for row in rows:
        file.write(before + json.dumps({name: row[name] for name in columns}))
        before = ",\n "
    file.write("\n]\n" if before.startswith(",") else "[]\n")


def cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets a quote before it (CWE-1236)."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return f"'{value}"
    return value


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file, for its owner alone, that takes its name once everything is written and on disk.

    Where the block ends in an error or an interrupt, nothing of it stays, and a file that had the
    name before keeps it. Raises OSError where it cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
