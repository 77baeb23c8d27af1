"""Countersigns a log's checkpoint on another host, if it extends the last one seen there.

State is one file for each log: the last checkpoint signed, durable before a signature leaves.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from retention.audit import disk, merkle
from retention.audit.checkpoint import MAX_NOTE, WITNESS, Checkpoint, Key, NoteError, Signer
from retention.audit.log import LogError, LogReader

_KEY_FILE: Final = "witness.key"


class WitnessError(Exception):
    """The log is not what was seen before, not signed by its key, or the clock went back."""


class Witness:
    """A witness with a folder of its own; `now` gives seconds since 1970."""

    def __init__(self, state: Path, name: str, now: Callable[[], int]) -> None:
        self._state, self._name, self._now = state, name, now

    def signer(self) -> Signer:
        """Give the witness's key, made at first use; NoteError or WitnessError if it is no good."""
        fresh = Signer.generate(self._name, WITNESS).secret()
        text = disk.secret(self._state / _KEY_FILE, fresh.encode()).decode()
        signer = Signer.parse(text)
        if signer.key.name != self._name or signer.key.kind != WITNESS:
            raise WitnessError(f"the key in {_KEY_FILE} is not one of {self._name}")
        return signer

    def cosign(self, folder: Path, log_key: Key) -> str:
        """Check the log and give its checkpoint with the witness's signature added.

        Raises WitnessError for a log that was cut back or forked since it was last seen here;
        then nothing is signed, and what was seen before stays.
        """
        signer = self.signer()
        lock = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once could sign two forks
            return self._cosign(folder, log_key, signer)
        finally:
            os.close(lock)

    def seen(self, log_key: Key) -> Checkpoint | None:
        """The last checkpoint of this log that was signed here."""
        path = self._path(log_key)
        if not path.exists():
            return None
        with path.open("rb") as file:
            return Checkpoint.parse(file.read(MAX_NOTE + 1))

    def _cosign(self, folder: Path, log_key: Key, signer: Signer) -> str:
        log = LogReader(folder)
        try:
            new = log.load()
            own = new.signed_by(log_key)
        except (LogError, NoteError) as error:
            raise WitnessError(f"not signed: {error}") from error
        if new.origin != log_key.name:
            raise WitnessError("not signed: the checkpoint is of another log")
        seconds = self._now()
        old = self.seen(log_key)
        if old:
            if new.size < old.size:
                raise WitnessError(f"not signed: {new.size} leaves, but {old.size} were seen here")
            path = log.consistency(old.size, new.size)
            if not merkle.consistent(old.size, new.size, path, old.root, new.root):
                raise WitnessError(
                    f"not signed: the log is a fork; its first {old.size} leaves are not those "
                    "seen here. Keep both checkpoints: together they prove it"
                )
            if seconds < old.signed_by(signer.key).seconds:
                raise WitnessError("not signed: this host's clock is behind its last signature")
        note = f"{new.text}\n{own}{signer.sign(new.text, seconds)}"
        disk.replace(self._path(log_key), note.encode())
        return note

    def _path(self, log_key: Key) -> Path:
        name = hashlib.sha256(str(log_key).encode()).hexdigest()[:32]
        return self._state / f"{name}.checkpoint"
