"""Checks a copy of a log, every byte of it, then what the leaves say was done. Stands alone.

It needs this folder's pure modules, the standard library and `cryptography`, no database and no
key that is secret: `python -m retention.audit.verify FOLDER` or `tallyhold audit verify FOLDER`.
One pass; memory grows with the purges and holds there are, not with the leaves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from retention.audit import canonical, leaf, merkle, sealed, snapshot
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import LOG, MAX_NOTE, WITNESS, Checkpoint, Key, NoteError
from retention.audit.frontier import Frontier
from retention.audit.merkle import ENTRIES, TILE, Tile
from retention.audit.replay import Replay
from retention.audit.report import Finding, Report
from retention.audit.snapshot import MAX_BUNDLE, MAX_FINDINGS, Snapshot, witness_of

FASTEST_CLOCK_US: Final = 86_400_000_000
"""How far a leaf may lie after a witness's time on a checkpoint that covers it."""

Progress = Callable[[int, int], None]
"""Called with the leaves read and the leaves there are, after each bundle."""


def verify(
    folder: Path,
    log_key: Key | None = None,
    witness_keys: Sequence[Key] = (),
    kept: bytes | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the log in a folder; never raises for what is in it.

    Without `log_key` the key is the one the log's first leaf states: then the log can be one that
    someone else made up whole. Each of `witness_keys` must have signed. `kept` is a checkpoint of
    this log that you have from before, which the log must extend. A log that is being written is
    judged as it was at one instant. Raises OSError where the folder cannot be read.
    """
    read, waited, unsettled = None, 0, set[str]()
    for _ in range(snapshot.ATTEMPTS):
        seen = snapshot.take(folder)
        if read is None or not seen.same(read):
            check, read = _Check(seen, log_key, witness_keys, progress), seen
            check.run(kept)
        if not read.unsettled:
            break
        # A certificate's file comes before its leaf. Which was first no time of a file can say, as
        # both can be of one tick of the clock; so only a file that stays without one is wrong.
        waited = waited + 1 if read.unsettled & unsettled else 0
        unsettled = read.unsettled
        if waited >= len(pauses := read.pauses()):
            break
        time.sleep(pauses[waited])
    return check.report


class _Check:
    """One pass over one snapshot."""

    def __init__(
        self,
        seen: Snapshot,
        log_key: Key | None,
        witness_keys: Sequence[Key],
        progress: Progress | None,
    ) -> None:
        self.seen, self.report = seen, Report(key_given=log_key is not None)
        self.log_key, self.witness_keys = log_key, list(witness_keys)
        self.progress = progress or (lambda done, all_of: None)
        self.wrong = seen.wrong
        self.stated: Key | None = None
        self.edge = Frontier()
        self.latest = 0
        self.wanted: set[int] = set()  # sizes at which somebody signed
        self.at_size: dict[int, tuple[bytes, int]] = {}  # root there, and the latest time before
        self.certified: set[str] = set()
        self.claims: list[Finding] = []  # where certificates are not as the leaves say

    def run(self, kept: bytes | None) -> None:
        head, report = self.seen.head, self.report
        report.findings = self.seen.findings
        if head is None:
            return
        report.origin, report.size, report.root = head.origin, head.size, head.root.hex()
        if head.size > TILE * len(self.seen.files):
            return
        old = self._kept(kept) if kept is not None else None
        self.wanted = {witness_of(name)[0] for name in self.seen.notes}
        self.wanted |= {old.size} if old else set()
        self._remember()
        replay = self._entries(head)
        for tile, data in self.edge.partials() if self.edge.size == head.size else ():
            self._tile(tile, data)
        if any(finding.rule != "kept" for finding in report.findings):
            return  # what else would be found follows from the damage
        if self.edge.root() != head.root:
            self.wrong("checkpoint", "root", "the leaves do not have the root that was signed")
        self._key(head)
        self._cosignatures(replay)
        for name in sorted(self.seen.certificates - self.certified):
            self.seen.unsettled.add(name)
            self.wrong(name, "certificate", "a certificate that no leaf tells of")
        if old:
            self._extends(old)
        replay.finish()
        report.findings += (self.claims + replay.findings)[:MAX_FINDINGS]
        report.notes = replay.notes()

    def _entries(self, head: Checkpoint) -> Replay:
        """Hash and replay every leaf, bundle by bundle."""
        replay = Replay(head.origin)
        replay.purges.certified = self._certificate
        sound = True
        for tile in merkle.tiles(head.size):
            if tile.level != ENTRIES:
                break
            try:
                entries = merkle.unbundle(self._whole(tile))
            except ValueError as error:
                self.wrong(tile.path, "entries", str(error))
                return replay
            if len(entries) != tile.width:
                self.wrong(tile.path, "entries", f"not {tile.width} entries")
                return replay
            for data in entries:
                sound = self._leaf(data, replay) if sound else sound
                for full, hashes in self.edge.append(merkle.leaf_hash(data)):
                    self._tile(full, hashes)
                self._remember()
            self.progress(self.edge.size, head.size)
        return replay

    def _leaf(self, data: bytes, replay: Replay) -> bool:
        """Replay one leaf; False where the leaves after it would be judged on a wrong state."""
        try:
            value = canonical.decode(data)
            leaf.check(value)
        except (canonical.CanonicalError, leaf.LeafError) as error:
            self.wrong(f"leaf {self.edge.size}", "leaf", str(error))
            return False
        if self.edge.size == 0:
            self._own_key(value)
        self.latest = max(self.latest, value["at"])
        self.report.last_at = value["at"]
        replay.step(value)
        return True

    def _remember(self) -> None:
        if self.edge.size in self.wanted:
            self.at_size[self.edge.size] = (self.edge.root(), self.latest)

    def _whole(self, tile: Tile) -> bytes:
        """A bundle's bytes; narrower ones that a crash left must be its first bytes exactly."""
        data = self.seen.read(tile.path, MAX_BUNDLE)
        for narrow in self.seen.narrow.get((tile.level, tile.number), []):
            entries = merkle.unbundle(data)[: narrow.width]
            self._compare(narrow, merkle.bundle(entries))
        return data

    def _tile(self, tile: Tile, hashes: bytes) -> None:
        """Compare a hash tile, and narrower ones that a crash left, with the leaves' hashes."""
        self._compare(tile, hashes)
        for narrow in self.seen.narrow.get((tile.level, tile.number), []):
            self._compare(narrow, hashes[: 32 * narrow.width])

    def _compare(self, tile: Tile, expected: bytes) -> None:
        if self.seen.read(tile.path, max(32 * TILE, len(expected))) != expected:
            self.wrong(tile.path, "tile", "not what the leaves hash to")

    def _certificate(self, told: Leaf, intent: Leaf, preserved: Leaf) -> None:
        """Check the file of a certificate that a leaf tells of."""
        name = sealed.path_of(told["purge"], told["kind"])
        self.certified.add(name)
        if name not in self.seen.certificates:
            self.seen.unsettled.add(name)  # it can have come when its folder was listed already
            self._claim(name, "missing, though a leaf tells of it")
            return
        data = self.seen.read(name, sealed.MAX_CERTIFICATE)
        if sealed.digest(data) != told["digest"]:
            self._claim(name, "not the certificate that the log's leaf states")
            return
        try:
            found = sealed.parse(data)
            if found.key != self.log_key:
                raise NoteError("signed by another key than the log's")
            found.check()
        except NoteError as error:
            self._claim(name, str(error))
            return
        odd = sealed.contradictions(found.certificate, told, intent, preserved)
        if odd:
            self._claim(name, f"contradicts the log's leaves: {', '.join(odd)}")

    def _claim(self, name: str, text: str) -> None:
        self.claims.append(Finding(name, "certificate", text))

    def _own_key(self, first: Leaf) -> None:
        """Take the key that the first leaf states, if none was given."""
        try:
            self.stated = Key.parse(str(first.get("key", "")))
        except NoteError as error:
            self.wrong("leaf 0", "key", str(error))
            return
        self.log_key = self.log_key or self.stated

    def _key(self, head: Checkpoint) -> None:
        """Check the log's signature, by the key given or else the log's own word."""
        key = self.log_key
        if key is None or self.stated is None:
            self.wrong("checkpoint", "signature", "a log without a leaf")
            return
        self.report.key = str(key)
        if key.kind != LOG or key.name != head.origin or key != self.stated:
            self.wrong("checkpoint", "key", "the key is not this log's")
        try:
            head.signed_by(key)
        except NoteError as error:
            self.wrong("checkpoint", "signature", str(error))
            return
        for name in head.unknown([key]):
            self.wrong("checkpoint", "signature", f"a signature under an unknown key of {name}")

    def _cosignatures(self, replay: Replay) -> None:
        """Check each checkpoint that a witness signed, and that those the log tells of are here."""
        keys = self.witness_keys + replay.witnesses
        for name in self.seen.notes:
            data = self.seen.read(name, MAX_NOTE)
            try:
                self._cosigned(name, Checkpoint.parse(data), keys)
            except NoteError as error:
                self.wrong(name, "witness", str(error))
            digest = hashlib.sha256(data).hexdigest()
            if replay.cosigned.get(name[10:], digest) != digest:
                self.wrong(name, "witness", "not the checkpoint that the log's leaf states")
        for name in sorted(replay.cosigned.keys() - {name[10:] for name in self.seen.notes}):
            self.wrong(f"witnessed/{name}", "witness", "missing, though a leaf tells of it")
        for key in self.witness_keys:
            if key.name not in self.report.witnesses:
                self.wrong("witnessed", "witness", f"nothing signed by {key.name}")

    def _cosigned(self, name: str, note: Checkpoint, keys: list[Key]) -> None:
        size, key_id = witness_of(name)
        known = [key for key in keys if key.kind == WITNESS and key.id.hex() == key_id]
        if not known or self.log_key is None or note.size != size:
            raise NoteError("by no witness that you named or the log enrolled")
        note.signed_by(self.log_key)
        line = note.signed_by(known[0])
        if note.unknown([self.log_key, known[0]]):
            raise NoteError("a signature under an unknown key")
        if note.origin != self.report.origin or note.size not in self.at_size:
            raise NoteError("a witness signed a larger or another log: this one was cut or forked")
        root, latest = self.at_size[note.size]
        if note.root != root:
            raise NoteError("a witness signed other leaves: this log was forked")
        if latest > line.seconds * 1_000_000 + FASTEST_CLOCK_US:
            self.wrong(name, "clock", "leaves are later than the witness that had seen them")
        seen = self.report.witnesses.setdefault(known[0].name, {"size": 0, "seconds": 0})
        if note.size >= seen["size"]:
            seen.update(size=note.size, seconds=line.seconds)

    def _kept(self, kept: bytes) -> Checkpoint | None:
        """Read the checkpoint that somebody kept."""
        try:
            return Checkpoint.parse(kept)
        except NoteError as error:
            self.wrong("the kept checkpoint", "kept", str(error))
            return None

    def _extends(self, old: Checkpoint) -> None:
        """Check that this log extends the one whose checkpoint somebody kept."""
        try:
            if self.log_key:
                old.signed_by(self.log_key)
        except NoteError as error:
            self.wrong("the kept checkpoint", "kept", str(error))
            return
        if old.origin != self.report.origin or old.size not in self.at_size:
            self.wrong("the kept checkpoint", "rollback", "it is of a larger or another log")
        elif old.root != self.at_size[old.size][0]:
            self.wrong("the kept checkpoint", "fork", "its leaves are not this log's")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module run alone: 0 if good, 1 if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="verify", description="Verify an audit log.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log-key", type=Key.parse, metavar="VKEY")
    parser.add_argument("--witness-key", type=Key.parse, metavar="VKEY", action="append")
    parser.add_argument("--kept", "--since", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    kept = given.kept.read_bytes() if given.kept else None
    report = verify(given.folder, given.log_key, given.witness_key or [], kept)
    shown = [json.dumps(report.as_json(), indent=2)] if given.json else report.lines()
    sys.stdout.write("\n".join(shown) + "\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
