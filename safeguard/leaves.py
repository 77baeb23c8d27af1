"""An audit log's folder in, its leaves of SafeGuard's releases out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from retention.audit import canonical
from retention.audit.log import LogReader
from retention.audit.merkle import ENTRIES, TILE, Tile

_KIND: Final = b'"kind":"safeguard.window"'


def windows(folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """`safeguard.window` leaves by release, and how many are told twice.

    Raises LogError, CanonicalError or OSError for a log that cannot be read; that it was not
    changed, `tallyhold audit verify` says.
    """
    log = LogReader(folder)
    log.load()
    found: dict[str, dict[str, Any]] = {}
    twice = 0
    for number in range((log.size + TILE - 1) // TILE):
        for data in log.bundle(Tile(ENTRIES, number, min(TILE, log.size - number * TILE))):
            if _KIND in data:
                leaf = canonical.decode(data)
                twice += leaf["release"] in found
                found[leaf["release"]] = leaf
    return found, twice
