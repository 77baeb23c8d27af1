"""A configuration in, the vault on its engine out, which may be down, come back or move its port.

Nothing here raises where the engine is down: the service runs without it, takes holds and destroys
nothing. Each time it is there again its tables are made and checked before anything else is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aggregator.store.client import Client, StoreError
from aggregator.store.endpoint import Endpoint, read_password
from aggregator.store.engine_files import HOST, bundled_port
from aggregator.store.schema import SchemaError
from retention.config import Config
from retention.model import Partition
from retention.policy.model import Policy
from retention.vault.engine import EngineVault
from retention.vault.folders import Outside
from retention.vault.tables import Names

log = logging.getLogger(__name__)

NOWHERE = Endpoint(HOST, 0, "nobody", "")
"""Of an engine that was never started: no connection to it can be made."""


class SharedVault(EngineVault):
    """The vault as several threads may list it; all else is under the register's lock."""

    def __init__(self, shards: Sequence[Sequence[Client]], **others: Any) -> None:
        super().__init__(shards, **others)
        self._listing = threading.Lock()

    def partitions(self) -> list[Partition]:
        with self._listing:
            return super().partitions()

    def vaulted(self) -> list[Partition]:
        with self._listing:
            return super().vaulted()


class Engine:
    """The connections of the user that may remove rows, and the vault over them.

    policy: as it is in force; the tables of the database are compared with it.
    """

    def __init__(
        self,
        config: Config,
        policy: Callable[[], Policy],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        engine, verify = config.engine, config.verify
        self._config = engine
        self._policy = policy
        self._is_prepared = False
        self._told = ""
        self._unwired: list[str] = []
        servers = engine.shards if engine.kind == "server" else (("",),)
        self._clients = [[(name, Client(NOWHERE)) for name in shard] for shard in servers]
        local = (engine.data / "store",) if engine.kind == "bundled" else ()
        self.names = Names(live=engine.database)
        self.vault = SharedVault(
            [[client for _, client in shard] for shard in self._clients],
            names=self.names,
            outside=Outside(local, tuple(verify.folders), verify.backups),
            now=now,
        )

    def refresh(self) -> bool:
        """Whether the engine answers and its tables are as they have to be; never raises."""
        try:
            self._point()
            for shard in self._clients:
                self._any(shard)
            if not self._is_prepared:
                self._is_prepared = self.vault.prepare()
                self._told = ""
            self._compare()
        except (StoreError, SchemaError, OSError) as error:
            self._is_prepared = False
            if str(error) != self._told:
                log.error("the storage engine: %s", error)
                self._told = str(error)
            return False
        return True

    def unwired(self) -> int:
        """Tables of the database that neither the policy nor an exemption names."""
        return len(self._unwired)

    def ask(
        self, sql: str, params: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, list[Any]]]:
        """The answer of each shard, by the first of its replicas that gives one.

        Raises StoreError where no replica of a shard answers.
        """
        for *others, (_, last) in self._clients:
            for _, client in others:
                try:
                    yield client.query_columns(sql, params, settings)
                except StoreError:
                    continue
                break
            else:
                yield last.query_columns(sql, params, settings)

    def close(self) -> None:
        """Close every connection."""
        for shard in self._clients:
            for _, client in shard:
                client.close()

    def _point(self) -> None:
        """Point the clients to where the engine is now; the bundled one may choose a new port."""
        for shard in self._clients:
            for server, client in shard:
                endpoint = self._endpoint(server)
                if client.endpoint != endpoint:
                    client.close()
                    client.endpoint = endpoint

    def _endpoint(self, server: str) -> Endpoint:
        engine = self._config
        if engine.kind == "bundled":
            password = read_password(engine.data / "keeper.password")
            port = bundled_port(engine.data)
            return Endpoint(
                HOST, port, "keeper", password, engine.database, timeout_s=engine.timeout_s
            )
        host, _, port_text = server.rpartition(":")
        password = read_password(engine.password_file) if engine.password_file else ""
        return Endpoint(
            host.strip("[]"),
            int(port_text),
            engine.user,
            password,
            engine.database,
            engine.secure,
            engine.ca,
            engine.timeout_s,
        )

    def _any(self, shard: list[tuple[str, Client]]) -> None:
        """Raise unless one replica of a shard answers."""
        for _, client in shard[:-1]:
            try:
                client.ping()
            except StoreError:
                continue
            return
        shard[-1][1].ping()

    def _compare(self) -> None:
        """Compare the tables that there are with those that the policy knows."""
        found: set[str] = set()
        for shard in self._clients:
            for _, client in shard:
                try:
                    listed = client.query_columns(
                        "SELECT name FROM system.tables WHERE database = %(database)s",
                        {"database": self.names.live},
                    )
                except StoreError:
                    continue  # this replica is down; another one has answered
                found.update(listed["name"])
        unwired = self._policy().unwired(found)
        if unwired != self._unwired:
            self._unwired = unwired
            if unwired:
                log.error(
                    "tables without a policy or an exemption, so nothing is destroyed: %s",
                    ", ".join(unwired),
                )
