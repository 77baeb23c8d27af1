"""Takes one instant of a log's folder: its files, its checkpoint, and the files an append replaces.

A log may be written while it is read. Full tiles and bundles never change, certificates are
written once, and all else is small: it is read here at once, again if an append was under way.
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from retention.audit import merkle, sealed
from retention.audit.canonical import MAX_BYTES
from retention.audit.checkpoint import MAX_NOTE, Checkpoint, NoteError
from retention.audit.merkle import TILE, Tile
from retention.audit.report import Finding

MAX_FINDINGS: Final = 200
"""A damaged log is wrong at every leaf after the damage; the first ones say what happened."""
MAX_BUNDLE: Final = TILE * (2 + MAX_BYTES)
MAX_WALK: Final = 16
"""Folders deep; a log's deepest path has nine."""
PAUSES = (0.05, 0.2)
"""Seconds between looks at a folder that is not as its checkpoint says: what is odd and stays as it
is over all of them is damage."""
PATIENCE = (0.05, 0.2, 1.0, 4.0, 10.0)
"""The same where a file is new: an append may be under way, which takes milliseconds, or seconds
where the disk has much to sync."""
NEW_NS: Final = 60_000_000_000
"""How long a file is new. Whether it is newer than the checkpoint says less, as both can be of one
tick of the clock, and a copy of a log has them in any order."""
ATTEMPTS: Final = 50
"""Looks at a log that changes all the time, before what is odd counts as wrong."""

_WITNESSED: Final = re.compile(r"witnessed/([0-9]{16})-([0-9a-f]{8})")


@dataclass
class Snapshot:
    """A folder at one instant; `take` makes it."""

    folder: Path
    files: dict[str, int] = field(default_factory=dict)
    """Path within the folder to length."""
    head: Checkpoint | None = None
    findings: list[Finding] = field(default_factory=list)
    narrow: dict[tuple[int, int], list[Tile]] = field(default_factory=dict)
    """Partial tiles left behind by wider ones, by level and number."""
    notes: list[str] = field(default_factory=list)
    """Checkpoints that witnesses signed."""
    certificates: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)
    """Files that an append under way can explain: without a leaf yet, or gone since listed."""
    newest: int = 0
    """When the newest file or folder was written, nanoseconds since 1970."""
    _read_already: dict[str, bytes] = field(default_factory=dict)

    def wrong(self, where: str, rule: str, text: str) -> None:
        """Note a finding."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(where, rule, text))

    def read(self, name: str, most: int) -> bytes:
        """A file's bytes; nothing, and a finding, where it is too long or went away."""
        if name in self._read_already:
            return self._read_already[name]
        if self.files.get(name, 0) > most:
            self.wrong(name, "layout", f"longer than the {most} bytes it can have")
            return b""
        try:
            if name in self.files:
                with (self.folder / name).open("rb") as file:
                    return file.read(most)
        except FileNotFoundError:
            self.unsettled.add(name)
            self.wrong(name, "layout", "went away while the log was read")
        return b""

    def pauses(self) -> tuple[float, ...]:
        """Seconds to wait between further looks while something is odd."""
        return PATIENCE if abs(time.time_ns() - self.newest) < NEW_NS else PAUSES

    def same(self, other: Snapshot) -> bool:
        """Whether nothing changed between the two."""
        return self.files == other.files and self.head == other.head

    def look(self) -> None:
        """List the files, read the checkpoint, and compare."""
        self._walk(self.folder, "", 0)
        try:
            self.head = Checkpoint.parse(self.read("checkpoint", MAX_NOTE))
        except NoteError as error:
            self.wrong("checkpoint", "checkpoint", str(error))
            return
        if self.head.size > TILE * len(self.files):
            self.wrong("checkpoint", "layout", "the folder lacks bundles of so large a log")
            return
        self._layout(self.head.size)

    def _walk(self, folder: Path, prefix: str, depth: int) -> None:
        """List every file; what is neither file nor folder, or an empty folder, is wrong."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            entries = []  # the folder of partial tiles that an append just removed
            if not prefix:
                raise
        if not entries and merkle.parse_path(prefix[:-1] + "/1"):
            return  # the folder of partial tiles that are gone: removing it can have failed
        if depth and (not entries or depth > MAX_WALK):
            self.wrong(prefix, "layout", "a folder that no log has")
            return
        for entry in entries:
            name = prefix + entry.name
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since it was listed
            self.newest = max(self.newest, info.st_mtime_ns)
            if stat.S_ISDIR(info.st_mode):
                self._walk(folder / entry.name, name + "/", depth + 1)
            elif stat.S_ISREG(info.st_mode):
                self.files[name] = info.st_size
            else:
                self.wrong(name, "layout", "neither a file nor a folder")

    def _layout(self, size: int) -> None:
        """Compare the files with those a log of this size has, and read those an append removes."""
        unknown = dict.fromkeys(self.files)
        unknown.pop("checkpoint", None)
        partial = []
        for tile in merkle.tiles(size):
            if tile.path not in unknown:
                self.wrong(tile.path, "layout", "missing")
            unknown.pop(tile.path, None)
            if tile.width < TILE:
                partial.append(tile.path)
        for name in unknown:
            narrow = merkle.parse_path(name)
            if _WITNESSED.fullmatch(name):
                self.notes.append(name)
            elif sealed.is_path(name):
                self.certificates.add(name)
            elif narrow and _superseded(narrow, size):
                self.narrow.setdefault((narrow.level, narrow.number), []).append(narrow)
                partial.append(name)
            else:
                self.wrong(name, "layout", "a file that the checkpoint does not cover")
        for name in partial:
            self._read_already[name] = self.read(name, MAX_BUNDLE)


def take(folder: Path) -> Snapshot:
    """Look at a folder until it is as its checkpoint says, or odd and unchanging.

    Raises OSError where the folder cannot be read.
    """
    seen, waited = Snapshot(folder), 0
    seen.look()
    for _ in range(ATTEMPTS):
        if seen.head is None or not seen.findings:
            break  # a checkpoint is replaced at once, so one that is no checkpoint stays none
        pauses = seen.pauses()
        if waited >= len(pauses):
            break
        time.sleep(pauses[waited])
        again = Snapshot(folder)
        again.look()
        waited = waited + 1 if again.same(seen) else 0
        seen = again
    return seen


def witness_of(note: str) -> tuple[int, str]:
    """Size and key id in the name of one of a snapshot's `notes`."""
    size, _, key_id = note.rpartition("/")[2].partition("-")
    return int(size), key_id


def _superseded(tile: Tile, size: int) -> bool:
    """Whether a wider tile of the log has taken this partial tile's place."""
    now = size >> (max(tile.level, 0) * merkle.TILE_BITS)
    return tile.width < TILE and tile.number * TILE + tile.width < now
