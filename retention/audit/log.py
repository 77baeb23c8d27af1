"""Appends leaves to a log in a folder, durably, and gives proofs of what is in it.

    folder/checkpoint                    the signed size and root (C2SP tlog-checkpoint)
    folder/tile/entries/…, tile/0/…      leaves and hashes by 256 (C2SP tlog-tiles)
    folder/witnessed/<size>-<key id>     checkpoints as witnesses signed them
    folder/certificates/<purge>.….json   certificates of destruction (`sealed.py`)

Order of an append: bundles and tiles under new names, synced; the checkpoint renamed into place,
synced; then the partial tiles of the size before are removed. So the checkpoint covers whole files
at every instant, an index is given only for a leaf that a durable checkpoint covers, and what a
crash leaves beyond the checkpoint is removed when the log is opened again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from retention.audit import canonical, disk, leaf, merkle, sealed
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import (
    WITNESS,
    Checkpoint,
    Key,
    NoteError,
    Signer,
    checkpoint_text,
    proof_text,
)
from retention.audit.merkle import ENTRIES, TILE, Tile, Tree

MAX_BATCH: Final = 256
"""Leaves of one append; it bounds what a crash can leave beyond the checkpoint."""


class LogError(Exception):
    """The log is damaged, in use, not open, or asked for what it does not have."""


class ClockError(LogError):
    """A leaf earlier than the one before it; only `clock.step` may say that time went back."""


class LogReader:
    """Reads a log; checks every hash tile of the lowest level against the checkpoint's root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = Tree()
        self.note = ""

    def load(self) -> Checkpoint:
        """Read the checkpoint and the tree under it; raises LogError or OSError."""
        data = (self.folder / "checkpoint").read_bytes()
        try:
            found = Checkpoint.parse(data)
        except NoteError as error:
            raise LogError(f"the checkpoint is damaged: {error}") from error
        tree = Tree()
        for tile in merkle.tiles(found.size):
            if tile.level == 0:
                hashes = self._read(tile)
                for at in range(0, tile.width * 32, 32):
                    tree.append(hashes[at : at + 32])
        if tree.root() != found.root:
            raise LogError("the tiles do not have the root that the checkpoint states")
        self.tree, self.note = tree, data.decode()
        return found

    @property
    def size(self) -> int:
        """Leaves that the checkpoint covers."""
        return self.tree.size

    def checkpoint(self) -> str:
        """The signed checkpoint, which covers every leaf whose index was given."""
        return self.note

    def entry(self, index: int) -> bytes:
        """Bytes of one leaf; raises LogError if there is none, or it is not what was signed."""
        if not 0 <= index < self.size:
            raise LogError(f"no leaf {index}; the log has {self.size}")
        number = index // TILE
        entries = self.bundle(Tile(ENTRIES, number, min(TILE, self.size - number * TILE)))
        data = entries[index % TILE]
        if merkle.leaf_hash(data) != self.tree.levels[0][index]:
            raise LogError(f"leaf {index} is not the one that was signed")
        return data

    def tail(self, count: int) -> list[tuple[int, Leaf]]:
        """The last `count` leaves with their indexes, oldest first."""
        first = max(0, self.size - max(0, count))
        return [(index, canonical.decode(self.entry(index))) for index in range(first, self.size)]

    def prove(self, index: int) -> str:
        """Proof that a leaf is in the log as the checkpoint signs it (C2SP tlog-proof)."""
        if not 0 <= index < self.size:
            raise LogError(f"no leaf {index}; the log has {self.size}")
        return proof_text(index, self.tree.inclusion(index, self.size), self.note)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Hashes that prove that the log of `new` leaves extends the log of `old`."""
        if not 0 <= old <= new <= self.size:
            raise LogError(f"no trees of {old} and {new} leaves; the log has {self.size}")
        return self.tree.consistency(old, new)

    def _read(self, tile: Tile) -> bytes:
        data = (self.folder / tile.path).read_bytes()
        if tile.level != ENTRIES and len(data) != 32 * tile.width:
            raise LogError(f"{tile.path} does not hold {tile.width} hashes")
        return data

    def bundle(self, tile: Tile) -> list[bytes]:
        """Entries of one bundle as the folder has them; they are not compared with the hashes."""
        try:
            entries = merkle.unbundle(self._read(tile))
        except ValueError as error:
            raise LogError(f"{tile.path}: {error}") from error
        if len(entries) != tile.width:
            raise LogError(f"{tile.path} does not hold {tile.width} entries")
        return entries


class AuditLog(LogReader):
    """The log's one writer. `now` gives nanoseconds since 1970; `signer` is the log's key.

    Use it as a context manager, or call `open` and `close`. Not for two threads at once.
    """

    def __init__(self, folder: Path, signer: Signer, now: Callable[[], int]) -> None:
        super().__init__(folder)
        self._signer, self._now = signer, now
        self._lock = -1
        self._pending: list[bytes] = []  # entries of the bundle that is not full yet
        self._last_us = 0
        self._sound = False

    def open(self) -> None:
        """Take the log for writing and undo what a crash cut off; a new folder gets a genesis.

        Raises LogError if another process has it, or it is damaged, or signed by another key.
        """
        disk.make_folder(self.folder / "tile")
        self._lock = os.open(self.folder / "tile", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
            if self.size == 0:
                key = self._signer.key
                self.append({"kind": "genesis", "origin": key.name, "key": str(key)})
        except BlockingIOError as error:
            self.close()
            raise LogError("another process has the audit log open") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the log back; what was appended is durable already."""
        self._sound = False
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, fields: dict[str, Any]) -> int:
        """Append one leaf and give its index when it is durable; `v` and `at` are filled in.

        Raises LeafError or CanonicalError for a leaf that is none, ClockError when the clock went
        back, OSError when the disk fails: then the leaf may be in the log or not, and the next
        append reads the log again to see.
        """
        return self.extend([fields])[0]

    def extend(self, many: Iterable[dict[str, Any]]) -> list[int]:
        """Append up to `MAX_BATCH` leaves under one checkpoint: all of them, or none."""
        if self._lock < 0:
            raise LogError("the audit log is not open")
        if not self._sound:
            self._recover()
        entries, last_us = list[bytes](), self._last_us
        for fields in many:
            stamped: Leaf = {"v": leaf.VERSION, "at": self._now() // 1000} | fields
            leaf.check(stamped)
            if stamped["at"] < last_us and stamped["kind"] != "clock.step":
                raise ClockError("the clock went back; a clock.step leaf has to say so first")
            last_us = stamped["at"]
            entries.append(canonical.encode(stamped))
        if len(entries) > MAX_BATCH or any(len(entry) > canonical.MAX_BYTES for entry in entries):
            raise LogError("too many leaves for one append, or a leaf of more than 65,535 bytes")
        first = self.size
        self._sound = False
        self._commit(entries)
        self._last_us = last_us
        self._sound = True
        return list(range(first, self.size))

    def add_cosigned(self, note: str, key: Key) -> int:
        """Keep a checkpoint of this log that an enrolled witness signed; give its leaf's index."""
        found = Checkpoint.parse(note.encode())
        found.signed_by(self._signer.key)
        found.signed_by(key)
        if key.kind != WITNESS or found.unknown([self._signer.key, key]):
            raise LogError("one witness's signature expected, and no other")
        if found.size > self.size or found.root != self.tree.root(found.size):
            raise LogError("the checkpoint is not of this log")
        name = f"{found.size:016d}-{key.id.hex()}"
        disk.make_folder(self.folder / "witnessed")
        disk.replace(self.folder / "witnessed" / name, note.encode())
        return self.append(
            {
                "kind": "witness.cosigned",
                "size": found.size,
                "keyid": key.id.hex(),
                "digest": hashlib.sha256(note.encode()).hexdigest(),
            }
        )

    def seal(self, certificate: Leaf) -> bytes:
        """The bytes of a certificate's file, signed by the log's key; nothing is written."""
        return sealed.seal(certificate, self._signer)

    def keep_certificate(self, purge: str, kind: str, data: bytes) -> str:
        """Put a certificate's file in place, durable, and give its SHA-256 for the leaf.

        kind: of the leaf that will tell of it, `purge.certificate-pending` or `-final`. The file
        comes first: a leaf without it would be a finding, a file without its leaf is repaired by
        telling again.
        """
        path = sealed.path_of(purge, kind)
        if not sealed.is_path(path):
            raise LogError("a purge id that no certificate's file can be named after")
        disk.make_folder(self.folder / sealed.FOLDER)
        disk.replace(self.folder / path, data)
        return sealed.digest(data)

    def _commit(self, entries: list[bytes]) -> None:
        old = self.size
        pending = self._pending + entries
        for entry in entries:
            self.tree.append(merkle.leaf_hash(entry))
        base = old - len(self._pending)
        folders = set[Path]()
        for tile in merkle.tiles(self.size, old):
            if tile.level == ENTRIES:
                at = tile.number * TILE - base
                data = merkle.bundle(pending[at : at + tile.width])
            else:
                data = self.tree.tile(tile)
            path = self.folder / tile.path
            disk.make_folder(path.parent)
            disk.write(path, data)
            folders.add(path.parent)
        for folder in sorted(folders):
            disk.sync_folder(folder)
        text = checkpoint_text(self._signer.key.name, self.size, self.tree.root())
        note = f"{text}\n{self._signer.sign(text)}"
        disk.replace(self.folder / "checkpoint", note.encode())
        self.note = note
        self._pending = pending[self.size // TILE * TILE - base :]
        for tile in merkle.superseded(self.size, old):
            disk.remove(self.folder / tile.path)

    def _recover(self) -> None:
        """Read the log as the disk has it and remove what its checkpoint does not cover."""
        if (self.folder / "checkpoint").exists():
            found = self.load()
            try:
                found.signed_by(self._signer.key)
            except NoteError as error:
                raise LogError(f"the checkpoint is not this key's: {error}") from error
        else:
            self.tree, self.note = Tree(), ""
        wanted = {tile.path for tile in merkle.tiles(self.size)}
        present = {
            path.relative_to(self.folder).as_posix(): path
            for path in (self.folder / "tile").rglob("*")
            if not path.is_dir()
        }
        for name, path in present.items():
            tile = merkle.parse_path(name)
            if tile and name not in wanted and self._is_rest(tile):
                disk.remove(path)
        for folder in (".", "witnessed", "certificates"):
            for path in self.folder.glob(f"{folder}/*.new"):
                disk.remove(path)
        for path in list((self.folder / "tile").rglob("*.p")):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        self._pending = []
        if self.size % TILE:
            self._pending = self.bundle(Tile(ENTRIES, self.size // TILE, self.size % TILE))
        self._last_us = int(canonical.decode(self.entry(self.size - 1))["at"]) if self.size else 0
        self._sound = True

    def _is_rest(self, tile: Tile) -> bool:
        """Whether a crash can have left this tile; else a checkpoint was lost or put back."""
        reach = self.size + (MAX_BATCH if self.size else 1)  # the first append is the genesis
        if (tile.number * TILE + tile.width) << (max(tile.level, 0) * merkle.TILE_BITS) > reach:
            raise LogError(f"{tile.path} is far beyond the checkpoint, which may be an old one")
        return True
