"""A file's path in, the key that signs reports out; made at its first use, for its owner alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from retention.audit import disk
from retention.audit.checkpoint import NoteError, Signer

DEFAULT_KEY: Final = Path("/var/lib/tallyhold/safeguard/report.key")
NAME: Final = "tallyhold/safeguard"


class KeyFileError(RuntimeError):
    """The file is no key; the message says what to do."""


def signer(path: Path) -> Signer:
    """The key of a file. Raises OSError or KeyFileError."""
    fresh = Signer.generate(NAME).secret()
    try:
        return Signer.parse(disk.secret(path, fresh.encode()).decode())
    except (NoteError, UnicodeDecodeError):
        raise KeyFileError(f"{path} is no signing key: restore it, or name another file") from None
