"""A purge in, what is left of its partition on every replica out: the facts of its certificate.

A drop is a promise; parts leave the disk seconds later, or never where a copy was made beside the
tables. A replica that does not answer may have everything, so it is waited for.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aggregator.store.client import Client, StoreError
from retention.model import Purge
from retention.vault.folders import (
    InventoryError,
    Outside,
    backups,
    leftovers,
    waiting_batches,
)
from retention.vault.port import Residue
from retention.vault.shards import Shard, name_of
from retention.vault.tables import Kept, Names

LOG_DAYS: Final = 35
"""How long a server may keep statements in its system logs: as long as a backup, and a week."""
_LOGS: Final = (
    "query_log",
    "query_thread_log",
    "query_views_log",
    "text_log",
    "crash_log",
    "opentelemetry_span_log",
    "asynchronous_insert_log",
)
"""System tables that can quote a statement."""


class Physical:
    """Looks at every replica, the folders of this machine and the inventory of backups."""

    def __init__(
        self,
        shards: Sequence[Shard],
        names: Names,
        outside: Outside,
        now: Callable[[], int],
    ) -> None:
        self._shards = shards
        self._names = names
        self._outside = outside
        self._now = now

    def residue(self, purge: Purge) -> Residue:
        """What is left of a partition that was dropped, or of what the vault had of it before."""
        evidence: dict[str, Any] = {}
        waiting: set[str] = set()
        for shard in self._shards:
            for client in shard.replicas:
                try:
                    seen, words = self._replica(client, purge)
                except StoreError as error:
                    seen, words = {"error": type(error).__name__}, {"replica-down"}
                evidence[name_of(client)] = seen
                waiting |= words
        evidence["folders"] = counts = waiting_batches(self._outside.folders, purge)
        if counts["meets"] or counts["unreadable"]:
            waiting.add("spool")
        kept: tuple[Mapping[str, Any], ...] = ()
        try:
            kept = backups(self._outside.backups, purge.dropped_us, self._now() // 1000)
        except InventoryError as error:
            evidence["backups"] = str(error)
            waiting.add("backups")
        return Residue(tuple(sorted(waiting)), evidence, kept)

    def _replica(self, client: Client, purge: Purge) -> tuple[dict[str, Any], set[str]]:
        """What one server says and, where its disk is this machine's, what is on it."""
        place = purge.partition.place
        kept: Kept = "live" if purge.store == "live" else "vault"
        gone = purge.store == "live" or purge.preserved == 0
        table = self._names.table(place.record_class, kept)
        staging = self._names.table(place.record_class, "staging")
        where = {**_split(table), "partition": place.name}
        seen: dict[str, Any] = {
            "version": ".".join(map(str, client.capabilities().version)),
            "parts": _parts(client, where, gone=gone),
            "staging": _parts(client, {**_split(staging), "partition": place.name}, gone=True),
            "detached": _detached(client, where),
            "mutations": _mutations(client, _split(table)),
            "logs": self._logs(client),
        }
        words = {name for name in ("parts", "staging", "mutations") if seen[name]}
        if seen["detached"]:
            words.add("detached")
        if any(state == "unbounded" for state in seen["logs"].values()):
            words.add("logs")
        seen["folder"], more = self._folder(client, purge, table, gone=gone)
        return seen, words | more

    def _folder(
        self, client: Client, purge: Purge, table: str, *, gone: bool
    ) -> tuple[Any, set[str]]:
        """Names on disk, by waiting word; "elsewhere" where the server's disk is not ours."""
        found: dict[str, int] = {}
        known = _known_parts(client, _split(table), gone=gone)
        for path in _paths(client, _split(table)):
            for root in self._outside.data:
                folder = path if path.is_absolute() else root / path
                if folder.is_relative_to(root):
                    number = purge.partition.place.number
                    try:
                        left = leftovers(root, folder, number, known)
                    except OSError as error:
                        return {"error": error.strerror}, {"parts"}
                    found = {n: found.get(n, 0) + count for n, count in left.counts().items()}
        if not found:
            return "elsewhere", set()
        return found, {name for name, count in found.items() if count}

    def _logs(self, client: Client) -> dict[str, str]:
        """Each log of statements that the server keeps: "bounded" or "unbounded".

        Bounded: its rows expire, or none is older than LOG_DAYS (old servers cannot expire rows).
        """
        found = client.query_columns(
            "SELECT name, create_table_query AS made FROM system.tables"
            " WHERE database = 'system' AND name LIKE '%_log%'"
        )
        states = {}
        for name, made in zip(found["name"], found["made"], strict=True):
            # A server that was upgraded keeps the old log as query_log_0, query_log_1, …
            if name.rstrip("0123456789").rstrip("_") in _LOGS:
                is_bounded = " TTL " in made or not self._has_old(client, name)
                states[name] = "bounded" if is_bounded else "unbounded"
        return states

    def _has_old(self, client: Client, log: str) -> bool:
        today = dt.datetime.fromtimestamp(self._now() // 10**9, dt.UTC).date()
        oldest = today - dt.timedelta(days=LOG_DAYS)
        found = client.query_columns(
            f"SELECT count() AS old FROM system.{log} WHERE event_date < toDate('{oldest}')"
        )
        return bool(found["old"][0])


def _split(table: str) -> dict[str, str]:
    database, _, name = table.partition(".")
    return {"database": database, "table": name}


def _parts(client: Client, where: Mapping[str, str], *, gone: bool) -> int:
    """Parts with rows that a server still has of a partition; only old ones unless `gone`."""
    found = client.query_columns(
        "SELECT count() AS parts FROM system.parts WHERE database = %(database)s"
        " AND table = %(table)s AND partition = %(partition)s AND rows > 0"
        + ("" if gone else " AND NOT active"),
        where,
    )
    return int(found["parts"][0])


def _known_parts(client: Client, where: Mapping[str, str], *, gone: bool) -> set[str]:
    """Parts that may stay: without rows, as newer servers put one in the place of dropped ones and
    clear it away within minutes, and, where a partition was rebuilt, the present ones."""
    found = client.query_columns(
        "SELECT name FROM system.parts WHERE database = %(database)s AND table = %(table)s"
        f" AND (rows = 0{'' if gone else ' OR active'})",
        where,
    )
    return set(found["name"])


def _detached(client: Client, where: Mapping[str, str]) -> int | None:
    """Detached parts of a partition; None from a server that does not list them."""
    known = client.query_columns(
        "SELECT count() AS known FROM system.tables"
        " WHERE database = 'system' AND name = 'detached_parts'"
    )
    if not known["known"][0]:
        return None
    found = client.query_columns(
        "SELECT count() AS parts FROM system.detached_parts WHERE database = %(database)s"
        " AND table = %(table)s"
        # A part with a broken name has no partition: it may be of any.
        " AND (partition_id = %(partition)s OR partition_id IS NULL)",
        where,
    )
    return int(found["parts"][0])


def _mutations(client: Client, where: Mapping[str, str]) -> int:
    found = client.query_columns(
        "SELECT count() AS pending FROM system.mutations WHERE database = %(database)s"
        " AND table = %(table)s AND NOT is_done",
        where,
    )
    return int(found["pending"][0])


def _paths(client: Client, where: Mapping[str, str]) -> list[Path]:
    """Where a server keeps a table; one folder in old servers, one a disk in newer ones."""
    newer = client.capabilities().version >= (19, 15)
    column = "arrayJoin(data_paths)" if newer else "data_path"
    found = client.query_columns(
        f"SELECT {column} AS path FROM system.tables WHERE database = %(database)s"
        " AND name = %(table)s",
        where,
    )
    return [Path(path) for path in found["path"]]
