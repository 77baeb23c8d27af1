"""Who asked what about whom: a line for every look-up of identified records by a person.

The subscriber stands in the line only as a keyed commitment, so the file holds no personal data
and still proves, to whoever has the key and the name, which look-ups concerned whom.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import pwd
import secrets
from pathlib import Path
from typing import Final, Protocol

_KEY_BYTES: Final = 32
_NOBODY: Final = 2**32 - 1
"""The kernel's login id of a process that no login began, such as a service."""
_LOGIN: Final = Path("/proc/self/loginuid")


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
            "who": _name(os.getuid()),
            "login": _login(),
            "what": what,
            "subject": commitment(self._key(), subject) if subject else "all",
            "reference": reference,
        }
        data = json.dumps(line, sort_keys=True).encode() + b"\n"
        handle = os.open(
            self.folder / "lookups.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        try:
            if os.write(handle, data) != len(data):  # a full disk; half a line is not a record
                raise OSError(28, os.strerror(28), str(self.folder / "lookups.jsonl"))
            os.fsync(handle)
        finally:
            os.close(handle)

    def _key(self) -> bytes:
        path = self.folder / "commitment.key"
        if not path.exists():
            self._make_key(path)
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise OSError(5, "the key of the audit record is damaged", str(path))
        return key

    def _make_key(self, path: Path) -> None:
        """Make the key, whole or not at all; of two who try at once the first one's counts."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, secrets.token_bytes(_KEY_BYTES))
            os.fsync(handle)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.close(handle)
            temporary.unlink()


def commitment(key: bytes, subject: str) -> str:
    """What stands in a line for a subscriber: keyed BLAKE2b (RFC 7693), 16 bytes as hex."""
    return hashlib.blake2b(subject.encode(), key=key, digest_size=16).hexdigest()


def _login() -> str:
    """Who logged in, whatever user the process has become since; empty where nobody did."""
    try:
        number = int(_LOGIN.read_text())
    except (OSError, ValueError):
        return ""  # a kernel without audit
    return "" if number == _NOBODY else _name(number)


def _name(uid: int) -> str:
    """User name from the system's own list, not from the environment, with the number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name}({uid})"
    except KeyError:
        return f"({uid})"
