"""Growing `detail` files in, accounting events with their places out.

    radacct/192.0.2.1/detail-20261128     read on as it grows, once and to the end
    radacct/192.0.2.1/detail-20261129     appears at midnight, read from its start

A place is (device, inode, offset, digest of the first line). It goes to the journal with the event
that ends there, so that a restart goes on exactly behind what was taken in, under whatever name the
file has then. Half a record at the end waits for its other half.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import iglob
from itertools import islice
from typing import Any, Final

from collector.parse.detail import END, MAX_RECORD_BYTES, parse
from collector.parse.reader import ParseError
from collector.track.journal_events import JournalEvent, detail_event
from collector.track.stage_counts import ignore, malformed, stage
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

MAX_FILES: Final = 1_024
"""Files of a pattern's folders that are looked at: a client a folder, a day a file."""
_READ_BYTES: Final = 1 << 18
_LOOK_S: Final = 1.0
_CLASSES: Final = ("session", "binding")

Place = tuple[int, int, int, str]
"""Device, inode, offset, digest of the first line."""


@dataclass(slots=True)
class _Tail:
    """One file that is read. `rest`: half a record; `head`: digest of its first line."""

    path: str
    file: Any
    device: int
    inode: int
    offset: int = 0
    rest: bytes = b""
    head: str = ""


class DetailFiles:
    """The files of some patterns. `counts`: records, seen = recorded + ignored + lost."""

    def __init__(
        self,
        patterns: tuple[str, ...],
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patterns, self._now, self._monotonic = patterns, now, monotonic
        self._tails: dict[tuple[int, int], _Tail] = {}
        self._places: dict[tuple[int, int], tuple[int, str]] = {}
        self._marks: list[JournalEvent] = []
        self._losses: list[Loss] = []
        self._due_s = 0.0
        self.counts = stage("malformed")

    @property
    def is_polled(self) -> bool:
        """Whether there is something to read that no descriptor tells of."""
        return bool(self._patterns)

    def start(self, places: Mapping[str, list[Any]]) -> None:
        """Go on behind the places that the state knows. Where it knows none this is the first
        start: what stands in the files is history and is not read."""
        if not self._patterns:
            return
        self._places = {
            (int(device), int(inode)): (int(offset), str(head))
            for device, inode, offset, head in places.values()
        }
        self._look(is_first=not places)

    def stop(self) -> None:
        """Close every file; may be called again."""
        for tail in self._tails.values():
            tail.file.close()
        self._tails.clear()

    def read(self, limit: int) -> list[JournalEvent]:
        """At most about `limit` records that were added, as events for the journal."""
        if not self._patterns:
            return []
        if self._monotonic() >= self._due_s:
            self._look(is_first=False)
        found, self._marks = self._marks, []
        for tail in list(self._tails.values()):
            if len(found) >= limit:
                break
            found += islice(self._grown(tail), limit)
        return found

    def losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def _look(self, is_first: bool) -> None:
        """Opens what appeared, and lets go what was renamed or removed and is read to its end."""
        self._due_s = self._monotonic() + _LOOK_S
        named: dict[tuple[int, int], str] = {}
        for path in self._paths(is_first):
            try:
                status = os.stat(path)
            except OSError:
                continue  # removed meanwhile
            named.setdefault((status.st_dev, status.st_ino), path)
        for key, tail in list(self._tails.items()):
            if key not in named and not self._has_more(tail):
                if tail.rest.strip():
                    self._lose("detail-cut", 1)
                tail.file.close()
                del self._tails[key]
        for key, path in named.items():
            if key not in self._tails and len(self._tails) < MAX_FILES:
                self._open(path, key, is_first)

    def _paths(self, is_first: bool) -> Iterable[str]:
        """Files of the patterns; at the start also renamed ones that the state knows."""
        found = [path for each in self._patterns for path in islice(iglob(each), MAX_FILES)]
        if not is_first:
            folders = {os.path.dirname(path) for path in found}
            for folder in islice(sorted(folders), MAX_FILES):
                entries = islice(os.scandir(folder or "."), MAX_FILES)
                found += [e.path for e in entries if self._is_known(e)]
        return sorted(set(found))

    def _is_known(self, entry: os.DirEntry[str]) -> bool:
        """Whether the state has a place in this file, which no tail has gone on from yet."""
        return any(inode == entry.inode() for _, inode in self._places)

    def _open(self, path: str, key: tuple[int, int], is_first: bool) -> None:
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - kept open while it grows
        except OSError as error:
            log.error("%s: %s", path, error.strerror)
            return
        tail = self._tails[key] = _Tail(path, file, *key)
        offset, head = self._places.pop(key, (0, ""))
        size = os.fstat(file.fileno()).st_size
        if head and head != _head(file):
            offset = 0  # another file that got the number of one that is gone
        elif offset > size:
            self._lose("detail-truncated", -1)
            offset = 0
        elif is_first:
            offset = _last_end(file, size)
        tail.offset = offset
        tail.head = _head(file)
        if is_first:
            self._marks.append(detail_event(None, self._place(tail)))

    def _has_more(self, tail: _Tail) -> bool:
        return os.fstat(tail.file.fileno()).st_size > tail.offset + len(tail.rest)

    def _grown(self, tail: _Tail) -> Iterator[JournalEvent]:
        """The whole records that a file has got, in order."""
        size = os.fstat(tail.file.fileno()).st_size
        if size < tail.offset + len(tail.rest):
            self._lose("detail-truncated", -1)
            tail.offset, tail.rest, tail.head = 0, b"", ""
        tail.file.seek(tail.offset)
        data = tail.file.read(_READ_BYTES)
        tail.head = tail.head or _head(tail.file)
        at = 0
        while (end := data.find(END, at)) >= 0:
            record = data[at:end]
            at = end + len(END)
            # Moved before the event is given: it is of what ends there.
            tail.offset, tail.rest = tail.offset + len(record) + len(END), b""
            event = self._record(record, tail)
            if event is not None:
                yield event
        tail.rest = data[at:]
        if len(tail.rest) > MAX_RECORD_BYTES:
            self._lose("detail-rubbish", -1)
            tail.offset, tail.rest = tail.offset + len(tail.rest), b""

    def _record(self, record: bytes, tail: _Tail) -> JournalEvent | None:
        if not record.strip():
            return None
        self.counts["seen"] += 1
        try:
            event = parse(record.lstrip(b"\n"))
        except ParseError:
            malformed(self.counts)
            return None
        if event is None:
            ignore(self.counts, "no-accounting")
            return None
        self.counts["recorded"] += 1
        return detail_event(event, self._place(tail))

    def _place(self, tail: _Tail) -> Place:
        return tail.device, tail.inode, tail.offset, tail.head

    def _lose(self, reason: str, amount: int) -> None:
        now = self._now()
        self._losses.append(Loss(now - 10**9, now, "capture", reason, amount, "events", _CLASSES))


def _head(file: Any) -> str:
    """Digest of the first line; empty while there is none."""
    place = file.tell()
    file.seek(0)
    line, end, _ = file.read(256).partition(b"\n")
    file.seek(place)
    return hashlib.blake2b(line, digest_size=8).hexdigest() if end else ""


def _last_end(file: Any, size: int) -> int:
    """Where the last whole record ends."""
    begin = max(0, size - MAX_RECORD_BYTES)
    file.seek(begin)
    at = file.read(size - begin).rfind(END)
    return begin + at + len(END) if at >= 0 else begin
