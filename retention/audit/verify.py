"""Checks a copy of a log, every byte of it, then what the leaves say was done. Stands alone.

It needs this folder's pure modules, the standard library and `cryptography`, no database and no
key that is secret: `python -m retention.audit.verify FOLDER` or `tallyhold audit verify FOLDER`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from retention.audit import canonical, leaf, merkle
from retention.audit.checkpoint import LOG, MAX_NOTE, WITNESS, Checkpoint, Key, NoteError
from retention.audit.merkle import ENTRIES, TILE, Tile, Tree
from retention.audit.replay import Replay
from retention.audit.report import Finding, Report

MAX_FINDINGS: Final = 200
"""A damaged log is wrong at every leaf after the damage; the first ones say what happened."""
MAX_BUNDLE: Final = TILE * (2 + canonical.MAX_BYTES)
MAX_WALK: Final = 16
"""Folders deep; a log's deepest path has nine."""
ATTEMPTS: Final = 5
"""Further reads of a log that changes meanwhile, before what is odd counts as wrong."""
PAUSE: Final = 0.05
"""Seconds; an append takes fewer."""
FASTEST_CLOCK_US: Final = 86_400_000_000
"""How far a leaf may lie after a witness's time on a checkpoint that covers it."""

_WITNESSED: Final = re.compile(r"witnessed/([0-9]{16})-([0-9a-f]{8})")


def verify(
    folder: Path,
    log_key: Key | None = None,
    witness_keys: Sequence[Key] = (),
    kept: bytes | None = None,
) -> Report:
    """Check the log in a folder; never raises for what is in it.

    Without `log_key` the key is the one the log's first leaf states: then the log can be one that
    someone else made up whole. Each of `witness_keys` must have signed. `kept` is a checkpoint of
    this log that you have from before, which the log must extend. Raises OSError where the folder
    cannot be read.
    """
    check = _Check(folder, log_key, witness_keys)
    check.run(kept)
    for _ in range(ATTEMPTS):
        if all(finding.rule != "layout" for finding in check.report.findings):
            break
        time.sleep(PAUSE)  # an append under way has files that no checkpoint covers yet
        again = _Check(folder, log_key, witness_keys)
        again.run(kept)
        if again.files == check.files and again.report == check.report:
            break
        check = again
    return check.report


class _Check:
    """One pass over one folder."""

    def __init__(self, folder: Path, log_key: Key | None, witness_keys: Sequence[Key]) -> None:
        self.folder, self.report = folder, Report(key_given=log_key is not None)
        self.log_key, self.witness_keys = log_key, list(witness_keys)
        self.files: dict[str, int] = {}
        self.tree = Tree()
        self.narrow: dict[tuple[int, int], list[Tile]] = {}  # partials left behind by wider tiles
        self.times: dict[int, int] = {}  # size to the latest time among so many leaves

    def wrong(self, where: str, rule: str, text: str) -> None:
        if len(self.report.findings) < MAX_FINDINGS:
            self.report.findings.append(Finding(where, rule, text))

    def run(self, kept: bytes | None) -> None:
        self._walk(self.folder, "", 0)
        try:
            head = Checkpoint.parse(self._read("checkpoint", MAX_NOTE))
        except NoteError as error:
            self.wrong("checkpoint", "checkpoint", str(error))
            return
        report = self.report
        report.origin, report.size, report.root = head.origin, head.size, head.root.hex()
        if head.size > TILE * len(self.files):
            self.wrong("checkpoint", "layout", "the folder lacks bundles of so large a log")
            return
        notes = self._layout(head.size)
        replay = self._entries(head)
        self._tiles(head.size)
        if not report.good:
            return  # what else would be found follows from the damage
        if self.tree.root() != head.root:
            self.wrong("checkpoint", "root", "the leaves do not have the root that was signed")
        self._key(head, replay)
        self._cosignatures(notes, replay)
        if kept is not None:
            self._extends(kept)
        replay.finish()
        report.findings += replay.findings[:MAX_FINDINGS]

    def _walk(self, folder: Path, prefix: str, depth: int) -> None:
        """List every file; what is neither file nor folder, or an empty folder, is wrong."""
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if not entries and merkle.parse_path(prefix[:-1] + "/1"):
            return  # the folder of partial tiles that are gone: removing it can have failed
        if depth and (not entries or depth > MAX_WALK):
            self.wrong(prefix, "layout", "a folder that no log has")
            return
        for entry in entries:
            name, info = prefix + entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self._walk(folder / entry.name, name + "/", depth + 1)
            elif stat.S_ISREG(info.st_mode):
                self.files[name] = info.st_size
            else:
                self.wrong(name, "layout", "neither a file nor a folder")

    def _read(self, name: str, most: int) -> bytes:
        if self.files.get(name, 0) > most:
            self.wrong(name, "layout", f"longer than the {most} bytes it can have")
            return b""
        try:
            return (self.folder / name).read_bytes() if name in self.files else b""
        except FileNotFoundError:  # listed a moment ago: an append removed it
            self.wrong(name, "layout", "went away while the log was read")
            return b""

    def _layout(self, size: int) -> list[str]:
        """Compare the files with those a log of this size has; give the witnessed notes."""
        expected = {tile.path for tile in merkle.tiles(size)} | {"checkpoint"}
        notes = []
        for name in sorted(expected - self.files.keys()):
            self.wrong(name, "layout", "missing")
        for name in sorted(self.files.keys() - expected):
            tile = merkle.parse_path(name)
            if _WITNESSED.fullmatch(name):
                notes.append(name)
            elif tile and _superseded(tile, size):
                self.narrow.setdefault((tile.level, tile.number), []).append(tile)
            else:
                self.wrong(name, "layout", "a file that the checkpoint does not cover")
        return notes

    def _entries(self, head: Checkpoint) -> Replay:
        """Hash and replay every leaf, bundle by bundle."""
        replay = Replay(head.origin)
        latest, sound = 0, True
        for tile in merkle.tiles(head.size):
            if tile.level != ENTRIES:
                break
            try:
                entries = merkle.unbundle(self._read(tile.path, MAX_BUNDLE))
            except ValueError as error:
                self.wrong(tile.path, "entries", str(error))
                return replay
            if len(entries) != tile.width:
                self.wrong(tile.path, "entries", f"not {tile.width} entries")
                return replay
            self._partials(tile, [2 + len(entry) for entry in entries])
            for data in entries:
                index = self.tree.size
                self.tree.append(merkle.leaf_hash(data))
                try:
                    value = canonical.decode(data)
                    leaf.check(value)
                except (canonical.CanonicalError, leaf.LeafError) as error:
                    self.wrong(f"leaf {index}", "leaf", str(error))
                    sound = False  # the leaves after it would be judged against a wrong state
                    continue
                latest = max(latest, value["at"])
                self.times[index + 1] = latest
                self.report.last_at = value["at"]
                if sound:
                    replay.step(value)
        return replay

    def _tiles(self, size: int) -> None:
        """Compare every hash tile with what the leaves hash to."""
        if self.tree.size != size:
            return
        for tile in merkle.tiles(size):
            if tile.level != ENTRIES:
                if self._read(tile.path, 32 * TILE) != self.tree.tile(tile):
                    self.wrong(tile.path, "tile", "not the hashes of the leaves")
                self._partials(tile, [32] * tile.width)

    def _partials(self, whole: Tile, lengths: list[int]) -> None:
        """Check narrower partials of a tile, which a crash may leave: its first bytes exactly."""
        for tile in self.narrow.get((whole.level, whole.number), []):
            data = self._read(whole.path, MAX_BUNDLE)[: sum(lengths[: tile.width])]
            if self._read(tile.path, MAX_BUNDLE) != data:
                self.wrong(tile.path, "tile", "not a prefix of the tile that replaced it")

    def _key(self, head: Checkpoint, replay: Replay) -> None:
        """Check the log's signature, by the key given or else the log's own word."""
        try:
            first = merkle.unbundle(self._read(next(merkle.tiles(head.size)).path, MAX_BUNDLE))[0]
            stated = Key.parse(str(canonical.decode(first).get("key", "")))
            key = self.log_key or stated
            self.log_key, self.report.key = key, str(key)
            if key.kind != LOG or key.name != head.origin or key != stated:
                self.wrong("checkpoint", "key", "the key is not this log's")
            head.signed_by(key)
        except (StopIteration, NoteError) as error:
            self.wrong("checkpoint", "signature", str(error) or "a log without a leaf")
            return
        for name in head.unknown([key]):
            self.wrong("checkpoint", "signature", f"a signature under an unknown key of {name}")

    def _cosignatures(self, notes: list[str], replay: Replay) -> None:
        """Check each checkpoint that a witness signed, and that those the log tells of are here."""
        keys = self.witness_keys + replay.witnesses
        for name in notes:
            data = self._read(name, MAX_NOTE)
            try:
                self._cosigned(name, Checkpoint.parse(data), keys)
            except NoteError as error:
                self.wrong(name, "witness", str(error))
            digest = hashlib.sha256(data).hexdigest()
            if replay.cosigned.get(name[10:], digest) != digest:
                self.wrong(name, "witness", "not the checkpoint that the log's leaf states")
        for name in sorted(replay.cosigned.keys() - {name[10:] for name in notes}):
            self.wrong(f"witnessed/{name}", "witness", "missing, though a leaf tells of it")
        for key in self.witness_keys:
            if key.name not in self.report.witnesses:
                self.wrong("witnessed", "witness", f"nothing signed by {key.name}")

    def _cosigned(self, name: str, note: Checkpoint, keys: list[Key]) -> None:
        match = _WITNESSED.fullmatch(name)
        known = [k for k in keys if match and k.kind == WITNESS and k.id.hex() == match[2]]
        if not match or not known or self.log_key is None or note.size != int(match[1]):
            raise NoteError("by no witness that you named or the log enrolled")
        note.signed_by(self.log_key)
        line = note.signed_by(known[0])
        if note.unknown([self.log_key, known[0]]):
            raise NoteError("a signature under an unknown key")
        if note.origin != self.report.origin or note.size > self.tree.size:
            raise NoteError("a witness signed a larger or another log: this one was cut or forked")
        if note.root != self.tree.root(note.size):
            raise NoteError("a witness signed other leaves: this log was forked")
        if self.times.get(note.size, 0) > line.seconds * 1_000_000 + FASTEST_CLOCK_US:
            self.wrong(name, "clock", "leaves are later than the witness that had seen them")
        seen = self.report.witnesses.setdefault(known[0].name, {"size": 0, "seconds": 0})
        if note.size >= seen["size"]:
            seen.update(size=note.size, seconds=line.seconds)

    def _extends(self, kept: bytes) -> None:
        """Check that this log extends the one whose checkpoint somebody kept."""
        try:
            old = Checkpoint.parse(kept)
            if self.log_key:
                old.signed_by(self.log_key)
        except NoteError as error:
            self.wrong("the kept checkpoint", "kept", str(error))
            return
        if old.origin != self.report.origin or old.size > self.tree.size:
            self.wrong("the kept checkpoint", "rollback", "it is of a larger or another log")
        elif old.root != self.tree.root(old.size):
            self.wrong("the kept checkpoint", "fork", "its leaves are not this log's")


def _superseded(tile: Tile, size: int) -> bool:
    """Whether a wider tile of the log has taken this partial tile's place."""
    now = size >> (max(tile.level, 0) * merkle.TILE_BITS)
    return tile.width < TILE and tile.number * TILE + tile.width < now


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module run alone: 0 if good, 1 if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="verify", description="Verify an audit log.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log-key", type=Key.parse, metavar="VKEY")
    parser.add_argument("--witness-key", type=Key.parse, metavar="VKEY", action="append")
    parser.add_argument("--kept", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    kept = given.kept.read_bytes() if given.kept else None
    report = verify(given.folder, given.log_key, given.witness_key or [], kept)
    shown = [json.dumps(report.as_json(), indent=2)] if given.json else report.lines()
    sys.stdout.write("\n".join(shown) + "\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
