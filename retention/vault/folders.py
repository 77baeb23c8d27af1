"""Folders of this machine in, what they still have of a purged partition out.

An engine's data folder is looked into where it is local: what a server says of its parts is not
all there is, as FREEZE, DETACH and mutations leave files that no table lists. Spools and dead
letters hold rows that were never stored, or wait to be. Backups are what their inventory says.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from collector.wire.batch import MAX_HEADER_BYTES, BatchError, Header
from collector.wire.codec import peek
from retention.model import Purge

MAX_FILES: Final = 200_000
"""Files of spools looked at in one verification: two years of five-minute batches."""
MAX_BACKUPS: Final = 10_000
MAX_INVENTORY_BYTES: Final = 4 * 1024 * 1024
_BATCH_NAMES: Final = (".batch", ".part", ".acked", ".tmp")
"""Names in a collector's spool; `dead/` in it has the same."""


class InventoryError(ValueError):
    """The inventory of backups cannot be read; what is in them is not known."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Where rows may lie outside of what a server tells of itself.

    data: data folders (`path` in its configuration) of servers on this machine. folders: spools
    and dead letters, with all below them. backups: their inventory, a JSON list of objects with
    "id", "created" and "expires" (ISO 8601 with a zone), or None where there are no backups.
    """

    data: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    backups: Path | None = None


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Names in a table's folder that may have rows of a partition: counts by waiting word."""

    parts: int = 0
    detached: int = 0
    shadow: int = 0
    mutations: int = 0

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("parts", "detached", "shadow", "mutations")}


def leftovers(root: Path, table: Path, number: int, known: Collection[str]) -> Leftovers:
    """What a table's folder and the shadow copies of it have of a partition. Raises OSError.

    root: the server's data folder; table: the table's folder in it. known: names of parts that may
    be there, as the server says they are new or without rows.
    """
    part = re.compile(rf"(?:.*_)?{number}_\d+_\d+_\d+.*")
    own = _names(table)
    copies = [
        name
        for copy in _folders(root / "shadow")
        for name in _names(copy / table.relative_to(root))
        if part.fullmatch(name)
    ]
    return Leftovers(
        parts=sum(1 for name in own if part.fullmatch(name) and name not in known),
        detached=sum(1 for name in _names(table / "detached") if part.fullmatch(name)),
        shadow=len(copies),
        mutations=sum(1 for name in own if name.startswith("mutation_")),
    )


def waiting_batches(folders: Sequence[Path], purge: Purge) -> dict[str, int]:
    """Batches in spools that may have rows of a purged partition, by what is known of them.

    "meets": class and window say so. "unreadable": nothing says otherwise. "batches": all.
    """
    counts = {"batches": 0, "meets": 0, "unreadable": 0}
    failed = list[OSError]()
    for path in _batches(folders, failed):
        if counts["batches"] == MAX_FILES:
            counts["unreadable"] += 1  # the rest is not looked at, so nothing is known of it
            break
        counts["batches"] += 1
        try:
            with path.open("rb") as file:
                header = peek(file.read(MAX_HEADER_BYTES + 8))
        except FileNotFoundError:
            counts["batches"] -= 1  # acknowledged meanwhile
        except (OSError, BatchError):
            counts["unreadable"] += 1
        else:
            counts["meets"] += _meets(header, purge)
    # A spool that went, or was never there, holds nothing; one that is closed to us may.
    counts["unreadable"] += sum(not isinstance(each, FileNotFoundError) for each in failed)
    return counts


def backups(path: Path | None, dropped_us: int, now_us: int) -> tuple[Mapping[str, Any], ...]:
    """Backups made before the drop that have not expired; raises InventoryError."""
    if path is None:
        return ()
    try:
        if path.stat().st_size > MAX_INVENTORY_BYTES:
            raise InventoryError("the inventory of backups is too long")
        listed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise InventoryError(f"the inventory of backups: {type(error).__name__}") from None
    if not isinstance(listed, list) or len(listed) > MAX_BACKUPS:
        raise InventoryError("the inventory of backups is no list, or too long")
    found = []
    for each in listed:
        if not isinstance(each, dict):
            raise InventoryError("the inventory of backups has something that is no backup")
        created, expires = (_time(each.get(name)) for name in ("created", "expires"))
        if created < dropped_us and expires > now_us:
            found.append({name: str(each.get(name)) for name in ("id", "created", "expires")})
    return tuple(found)


def _meets(header: Header, purge: Purge) -> bool:
    partition = purge.partition
    start = min(partition.start_us, partition.earliest_us) * 1000
    end = max(partition.end_us, partition.latest_us) * 1000
    named = {section.record_class for section in header.sections if section.rows}
    return (
        partition.place.record_class in named
        and header.window_start_ns < end
        and start < header.window_end_ns
    )


def _batches(folders: Sequence[Path], failed: list[OSError]) -> Iterator[Path]:
    """Batches below the folders; what cannot be looked into is put into `failed`."""
    for folder in folders:
        for place, _, names in os.walk(folder, onerror=failed.append):
            for name in sorted(names):
                if name.endswith(_BATCH_NAMES):
                    yield Path(place, name)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder)]


def _time(value: Any) -> int:
    """Microseconds of ISO 8601 with a zone."""
    try:
        when = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InventoryError("the inventory of backups has a time that is none") from None
    if when.tzinfo is None:
        raise InventoryError("the inventory of backups has a time without a zone")
    since = when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return since // dt.timedelta(microseconds=1)
