"""Where an engine answers and as whom, and what a server of a version can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from aggregator.store.errors import Refused

Version: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the engine answers and as whom. The password comes from a file, never from argv."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "tallyhold"
    secure: bool = False
    ca: Path | None = None
    timeout_s: float = 300.0
    """Longest silence within one statement; a merge-heavy engine may take minutes to answer."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server that answers can do beyond the common subset; from its version alone."""

    version: Version
    codecs: bool
    window_functions: bool
    deduplication_token: bool

    @classmethod
    def of(cls, version: Version) -> Capabilities:
        return cls(version, version >= (20, 3), version >= (21, 9), version >= (22, 2))


def read_password(path: Path) -> str:
    """The password in a file, without the line end; raises Refused where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"password file {path}: {error}") from None
