"""Connections to the servers of one shard, and which of them is asked.

Statements that change something go to one replica; the others follow. A replica that lags would
answer a selection with rows missing, and they would then be destroyed as held by nobody: so before
a selection it must have taken all that the shard knows of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from aggregator.store.client import Client, StoreError, Unavailable


@dataclass(frozen=True)
class Shard:
    """The replicas of one shard; a single server is a shard of one."""

    replicas: tuple[Client, ...]

    def __post_init__(self) -> None:
        if not self.replicas:
            raise ValueError("a shard has at least one server")

    @property
    def first(self) -> Client:
        """The first replica that answers; raises Unavailable where none does."""
        if len(self.replicas) == 1:
            return self.replicas[0]
        for client in self.replicas:
            try:
                client.ping()
            except StoreError:
                continue
            return client
        raise Unavailable("no replica of a shard answers")

    def others(self, client: Client) -> list[Client]:
        """The other replicas that answer."""
        found = []
        for other in self.replicas:
            if other is not client:
                with contextlib.suppress(StoreError):
                    other.ping()
                    found.append(other)
        return found

    def leader(self, table: str) -> Client:
        """The replica that drops partitions of a table; in newer servers every one may.

        Older ones pass the statement on to the leader as a user that may not be let in there.
        """
        if len(self.replicas) == 1:
            return self.replicas[0]
        first = self.first
        database, _, name = table.partition(".")
        for client in (first, *self.others(first)):
            found = client.query_columns(
                "SELECT is_leader FROM system.replicas WHERE database = %(database)s"
                " AND table = %(table)s",
                {"database": database, "table": name},
            )
            if any(found["is_leader"]):
                return client
        raise Unavailable(f"no replica of a shard leads table {name}")

    def settle(self, client: Client, tables: Sequence[str]) -> None:
        """Return when a replica has all rows of these tables; nothing to do for a lone server."""
        if len(self.replicas) > 1:
            for table in tables:
                client.execute(f"SYSTEM SYNC REPLICA {table}")


def name_of(client: Client) -> str:
    """A replica in evidence and reports."""
    return f"{client.endpoint.host}:{client.endpoint.port}"
