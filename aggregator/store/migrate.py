"""Numbered SQL files in, an up-to-date database out; never backwards, never over a newer one.

A file is in the common subset of SQL with three additions: `{engine:TABLE:ENGINE}` becomes the
Replicated form where a cluster is configured, `{on_cluster}` becomes ` ON CLUSTER name` there, and
a comment `-- since X.Y: STATEMENT;`, with more lines indented under it, runs only on servers of at
least that version. Every statement can be repeated, so a migration that was cut short is simply
run again; one that adds columns is passed over where they are, as the oldest servers have no IF NOT
EXISTS for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aggregator.store.client import Client, Version
from aggregator.store.schema import SchemaError, check

FOLDER: Final = Path(__file__).with_name("migrations")
_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_ENGINE: Final = re.compile(r"\{engine:(\w+):([A-Za-z]+)(?:\((\w*)\))?\}")
_SINCE: Final = re.compile(r"-- since (\d+)\.(\d+): (.*)")
_ADDS: Final = re.compile(r"ALTER TABLE (\w+)[^,;]*?\sADD COLUMN (\w+)")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: its number, its name and its text."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """One migration to run, as the statements it comes to on this server."""

    migration: Migration
    statements: tuple[str, ...]


def load(folder: Path = FOLDER) -> list[Migration]:
    """The migrations of a folder by number; raises SchemaError on a gap or a stray file."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise SchemaError(f"migration {path.name} is not named NNNN_words.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise SchemaError("migrations are not numbered 1, 2, 3 … without a gap")
    return found


def statements(text: str, version: Version, database: str, cluster: str = "") -> tuple[str, ...]:
    """The statements of a file for a server version, with a cluster's name or none."""
    for name in (database, cluster):
        if name and not _IDENTIFIER.fullmatch(name):
            raise SchemaError(f"{name!r} is not a name for a database or cluster")
    kept = []
    wanted = False
    for line in text.splitlines():
        since = _SINCE.fullmatch(line)
        if since is not None:
            wanted = version >= (int(since[1]), int(since[2]))
            line = f"--  {since[3]}"
        if not line.startswith("--"):
            kept.append(line)
        elif wanted and line.startswith("--  "):
            kept.append(line[4:].strip())
            wanted = not line.endswith(";")
    expanded = _ENGINE.sub(
        lambda match: _engine(match[1], match[2], match[3] or "", database, cluster),
        "\n".join(kept),
    )
    expanded = expanded.replace("{on_cluster}", f" ON CLUSTER {cluster}" if cluster else "")
    expanded = expanded.replace("{database}", database)
    parts = (part.strip(" ;\n") for part in expanded.split(";\n"))
    return tuple(part for part in parts if part)


def _engine(table: str, engine: str, arguments: str, database: str, cluster: str) -> str:
    if not cluster:
        return f"{engine}({arguments})" if arguments else f"{engine}()"
    path = f"'/clickhouse/tables/{{shard}}/{database}/{table}', '{{replica}}'"
    return (
        f"Replicated{engine}({path}, {arguments})" if arguments else f"Replicated{engine}({path})"
    )


class Migrator:
    """Brings one database up to date. `now_us` gives the time that is written down."""

    def __init__(
        self,
        client: Client,
        now_us: Callable[[], int],
        *,
        cluster: str = "",
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        self._client = client
        self._now_us = now_us
        self._cluster = cluster
        self._migrations = list(load() if migrations is None else migrations)

    def plan(self) -> list[Step]:
        """What is still to be run. Raises SchemaError where the database is newer than this code,
        or was made by other files of the same numbers. Changes nothing."""
        applied = self._applied()
        known = {each.number: each for each in self._migrations}
        for number, digest in sorted(applied.items()):
            if number not in known:
                raise SchemaError(
                    f"database {self._client.database} has migration {number}, this version knows"
                    f" {len(known)}: it was made by a newer tallyhold. Upgrade this installation;"
                    " a newer database is never taken back."
                )
            if known[number].sha256 != digest:
                raise SchemaError(
                    f"migration {number} ({known[number].name}) differs from the one that made"
                    f" database {self._client.database}: the two are not the same release."
                )
        version = self._client.capabilities().version
        return [
            Step(each, statements(each.text, version, self._client.database, self._cluster))
            for each in self._migrations
            if each.number not in applied
        ]

    def run(self, *, dry_run: bool = False) -> list[Step]:
        """Run what is missing and check the result; with `dry_run` only say what would be run."""
        steps = self.plan()
        if dry_run:
            return steps
        self._prepare()
        for step in steps:
            for statement in step.statements:
                if not self._is_added(statement):
                    self._client.execute(statement)
            self._client.insert(
                "schema_migrations",
                {
                    "number": [step.migration.number],
                    "name": [step.migration.name],
                    "sha256": [step.migration.sha256],
                    "applied_us": [self._now_us()],
                },
            )
        check(self._client, self._client.database)
        return steps

    def _is_added(self, statement: str) -> bool:
        """Whether a statement would add columns that are there: one ALTER adds all or none."""
        adds = _ADDS.match(statement)
        if adds is None:
            return False
        found = self._client.query_columns(
            "SELECT name FROM system.columns"
            " WHERE database = %(database)s AND table = %(table)s AND name = %(name)s",
            {"database": self._client.database, "table": adds[1], "name": adds[2]},
        )
        return bool(found.get("name"))

    def _prepare(self) -> None:
        """The database and the table that counts migrations."""
        create, *book = statements(_BOOK, (0, 0), self._client.database, self._cluster)
        self._client.outside(create)
        for statement in book:
            self._client.execute(statement)

    def _applied(self) -> dict[int, str]:
        tables = self._client.outside("SELECT database, name FROM system.tables")
        here = (self._client.database, "schema_migrations")
        if here not in zip(tables["database"], tables["name"], strict=True):
            return {}
        rows = self._client.query_columns(
            "SELECT number, any(sha256) AS digest FROM schema_migrations GROUP BY number"
        )
        return dict(zip(rows["number"], rows["digest"], strict=True))


_BOOK: Final = """CREATE DATABASE IF NOT EXISTS {database}{on_cluster};
CREATE TABLE IF NOT EXISTS schema_migrations{on_cluster} (
    number UInt32,
    name String,
    sha256 String,
    applied_us Int64
)
ENGINE = {engine:schema_migrations:MergeTree}
ORDER BY number;
"""
