"""Who asked what about whom: a line for every look-up of identified records by a person.

The subscriber stands in the line only as a keyed commitment, so the file holds no personal data
and still proves, to whoever has the key and the name, which look-ups concerned whom.
"""

from __future__ import annotations

import datetime as dt
import getpass
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Protocol


class AuditSink(Protocol):
    """Takes the record of one look-up before its answer is given."""

    def looked_up(self, what: str, subject: str, reference: str) -> None:
        """`what` is the question, `subject` the subscriber or empty for all of them."""


class AuditFile:
    """Appends one JSON line for each look-up, durably, to `folder/lookups.jsonl`.

    Raises OSError when the line cannot be written: no audit line, no answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def looked_up(self, what: str, subject: str, reference: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = {
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
            "who": f"{getpass.getuser()}({os.getuid()})",
            "what": what,
            "subject": self._commit(subject) if subject else "all",
            "reference": reference,
        }
        data = json.dumps(line, sort_keys=True).encode() + b"\n"
        handle = os.open(
            self.folder / "lookups.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)

    def _commit(self, subject: str) -> str:
        path = self.folder / "commitment.key"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            os.write(handle, secrets.token_bytes(32))
            os.fsync(handle)
            os.close(handle)
        return hashlib.blake2b(subject.encode(), key=path.read_bytes(), digest_size=16).hexdigest()
