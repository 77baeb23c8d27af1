"""Ledger of the spool: losses that wait for a batch to carry them, through any crash exactly once.

A loss is written here, fsynced, before the batch it speaks of goes. The next batch committed
carries it as a row of the `gap` class. Which batch that is, is written down before that batch is
committed, so a restart can tell from the last committed sequence whether the loss is on its way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from collector import durable
from collector.durable import NO_SPACE
from collector.wire.gaps import MAX_LOSSES, loss_from_json, loss_to_json, merge
from collector.wire.loss import Loss

_FILE: Final = "lost.json"
_RESERVE: Final = "reserve"
RESERVE_BYTES: Final = 2 * 1024 * 1024
"""Room for the ledger and its temporary copy on a full disk: twice 1,000 losses of 1 KB at most."""
_MAX_FILE_BYTES: Final = 8 * 1024 * 1024


class Ledger:
    """The losses of one spool folder; not thread-safe, the spool holds its lock around it.

    `last` is the highest sequence known used when the ledger was last written; `dropped` and
    `dead` name the batches whose removal was begun by that writing and may have to be finished.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._reserve = folder / _RESERVE
        self._carrier = 0
        self._carried: list[Loss] = []
        self._waiting: list[Loss] = []
        self.last = 0
        self.dropped: tuple[int, ...] = ()
        self.dead: tuple[int, ...] = ()

    @property
    def set_aside(self) -> Path:
        """Where an unreadable ledger was moved."""
        return self._path.with_suffix(".bad")

    @property
    def waiting(self) -> tuple[Loss, ...]:
        """Losses that the next batch will carry."""
        return tuple(self._waiting)

    def load(self) -> bool:
        """Read the file; False where it is there and cannot be read (it is set aside)."""
        try:
            fields = json.loads(durable.read_limited(self._path, _MAX_FILE_BYTES))
            last, carrier = _count(fields["last"]), _count(fields["carrier"])
            dropped = tuple(_count(item) for item in fields["dropped"])
            dead = tuple(_count(item) for item in fields["dead"])
            carried = [loss_from_json(item) for item in fields["carried"]]
            waiting = [loss_from_json(item) for item in fields["waiting"]]
        except FileNotFoundError:
            return True
        except (ValueError, KeyError, TypeError, RecursionError):
            os.rename(self._path, self.set_aside)
            return False
        self.last, self._carrier, self.dropped, self.dead = last, carrier, dropped, dead
        self._carried, self._waiting = carried, waiting
        return True

    def resolve(self, last_sequence: int) -> None:
        """After a restart: what batch `carrier` carried is on its way if that was committed."""
        if self._carrier > last_sequence:
            self._waiting = merge([*self._carried, *self._waiting])
        self._carried = []
        self.last = last_sequence

    def add(
        self,
        losses: Sequence[Loss],
        last_sequence: int,
        *,
        dropped: tuple[int, ...] = (),
        dead: tuple[int, ...] = (),
    ) -> None:
        """Write losses down, before the batches `dropped` or `dead` go. Durable on return."""
        before = self._waiting
        self._waiting = merge([*before, *losses], MAX_LOSSES)
        self.last, self.dropped, self.dead = last_sequence, dropped, dead
        try:
            self._save()
        except OSError:
            self._waiting = before
            raise

    def begin(self, sequence: int) -> tuple[Loss, ...]:
        """The losses that batch `sequence` is to carry. Durable on return."""
        if not self._waiting:
            return ()
        self._carrier, self._carried, self._waiting = sequence, self._waiting, []
        try:
            self._save()
        except OSError:
            self.abort()
            raise
        return tuple(self._carried)

    def finish(self) -> None:
        """The batch is committed. The file needs no writing: `resolve` would find the same."""
        self._carried = []

    def abort(self) -> None:
        """The batch was not committed: its losses wait again."""
        self._waiting = merge([*self._carried, *self._waiting])
        self._carried = []

    def keep_reserve(self) -> bool:
        """Hold back some disk for writing losses when it is full; False where there is none."""
        if self._reserve.exists():
            return True
        try:
            descriptor = durable.create(self._reserve)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError:  # not worth a commit: the reserve only helps on a disk that fills up
            with suppress(OSError):
                self._release()
            return False
        return True

    def _release(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._reserve)

    def _save(self) -> None:
        fields = {
            "last": self.last,
            "carrier": self._carrier,
            "dropped": self.dropped,
            "dead": self.dead,
            "carried": [loss_to_json(loss) for loss in self._carried],
            "waiting": [loss_to_json(loss) for loss in self._waiting],
        }
        data = json.dumps(fields, separators=(",", ":")).encode("ascii")
        try:
            durable.replace_file(self._path, data)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._release()
            durable.replace_file(self._path, data)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value
