"""The operator's file of lines in, the subscriber of a line out.

    line,subscriber
    olt-3/1/17:100,sub-0042

A line is what the access network calls it: a circuit, interface or remote id as DHCP and PPPoE
carry it (text, or 0x and hex), or `vlan:100.20` where nothing names it. The file is looked at every
few seconds; one that cannot be used leaves what was known before.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO, TypeVar

from collector.parse.lease import Lease
from collector.parse.pppoe import Ppp

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 2**20
MAX_LINES: Final = 1 << 20
"""Lines of one router's area; 200 bytes each in memory."""
MAX_TEXT: Final = 512
"""Longest name, as a string column holds."""
HEADER: Final = ["line", "subscriber"]


def read_lines(path: Path) -> dict[str, str]:
    """Subscriber by line. Raises OSError, and ValueError that says which row is wrong."""
    found: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        for number, row in enumerate(_rows(file), 1):
            if not row or (number == 1 and row == HEADER):
                continue
            if len(row) != 2 or not all(0 < len(each.encode()) <= MAX_TEXT for each in row):
                raise ValueError(f"row {number} is not LINE,SUBSCRIBER")
            if found.setdefault(row[0], row[1]) != row[1]:
                raise ValueError(f"row {number} gives a line to another subscriber than before")
            if len(found) > MAX_LINES:
                raise ValueError(f"more than {MAX_LINES} lines")
    return found


def _rows(file: TextIO) -> Iterator[list[str]]:
    try:
        yield from csv.reader(file)
    except csv.Error as error:
        raise ValueError(f"no CSV file: {error}") from None


class Lines:
    """The lines of one file, or those that are known without one."""

    def __init__(self, path: Path | None, known: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._subscribers: Mapping[str, str] = known or {}
        self._missing = False

    def __len__(self) -> int:
        return len(self._subscribers)

    def refresh(self) -> None:
        """Read the file where it changed; says so in the log where it cannot be used."""
        if self._path is None:
            return
        try:
            stat = os.stat(self._path)
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return
            self._seen = seen
            self._subscribers = read_lines(self._path)
        except (OSError, ValueError) as error:
            words = error.strerror if isinstance(error, OSError) else error
            if isinstance(error, OSError):
                if self._missing:
                    return
                self._missing = True
            log.error("%s: %s; %d lines stay as they were", self._path, words, len(self))
        else:
            self._missing = False
            log.info("%d lines are known", len(self))

    def resolved(self, event: T) -> T:
        """The event with the subscriber of its line, where it has one. It is looked up before the
        journal, so that a replay does not depend on what the file says then."""
        if isinstance(event, Lease | Ppp) and event.names:
            return replace(event, subscriber=self.subscriber(event.names))
        return event

    def subscriber(self, names: tuple[str, ...]) -> str:
        """Whose a line is, by the first of its names that is known; empty where none is."""
        found = (self._subscribers.get(name) for name in names)
        return next((each for each in found if each), "")
