"""A configuration in, a running aggregator out: engine, tables, binding index, listeners.

Composes what does not know each other. While the engine is down the listeners stay open and
answer `retry`; batches wait in the collectors' spools and nothing is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from aggregator.attribution.attributor import SharedAttributor
from aggregator.attribution.feed import recent_bindings
from aggregator.config import Config
from aggregator.ingest.demand import Areas
from aggregator.ingest.listen import ListenError
from aggregator.ingest.pipeline import Pipeline, PipelineConfig
from aggregator.ingest.server import IngestServer, ServerConfig
from aggregator.ingest.tls import TlsError, TlsFiles, TlsGate
from aggregator.metrics import Metrics
from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client, Endpoint, StoreError, read_password
from aggregator.store.closed import ClosedPartitions
from aggregator.store.engine_files import EngineError
from aggregator.store.migrate import Migrator
from aggregator.store.schema import SchemaError
from aggregator.store.writer import Closed

log = logging.getLogger(__name__)

_DAY_US: Final = 86_400_000_000
_PING_S: Final = 1.0
"""How often the engine is asked whether it is there; a query of a millisecond."""
_FORGET_EVERY_S: Final = 3600.0
_SERVER_PORT: Final = 9000


STARTUP_ERRORS: Final = (EngineError, StoreError, SchemaError, TlsError, ListenError)
"""What `Aggregator.start` raises; each says in plain words what to do."""


class Aggregator:
    """The whole aggregator. `engine` is None where a server is used; `client` is set by `start`.

    closed: says which partitions take no more rows; by default what the retention service has
    published in the store.
    """

    def __init__(
        self,
        config: Config,
        *,
        closed: Closed | None = None,
        metrics: Metrics | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.engine: Engine | None = None
        self.client: Client | None = None
        self.server: IngestServer | None = None
        self._closed = closed
        self._now = now
        self._is_up = False
        self._attributor = SharedAttributor(int(config.attribution.tolerance_s * 1e6))
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start everything in order; on an error stop what runs and raise it.

        Raises EngineError, StoreError, SchemaError, TlsError or ListenError, all in plain words.
        """
        try:
            await asyncio.to_thread(self._start_store)
            self._is_up = True
            self.metrics.engine(
                lambda: self.engine.restarts if self.engine else 0, lambda: self._is_up
            )
            self.server = self._make_server()
            await self.server.start()
            self._watcher = asyncio.create_task(self._watch())
        except BaseException:
            await self.stop()
            raise
        log.info("listening on port %d", self.server.port)

    async def stop(self) -> None:
        """Stop in reverse order; running batches finish first. Safe to call twice."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        server, self.server = self.server, None
        if server is not None:
            await server.stop()
        client, self.client = self.client, None
        if client is not None:
            client.close()
        engine, self.engine = self.engine, None
        if engine is not None:
            await asyncio.to_thread(engine.stop)
        self._is_up = False

    def health(self) -> dict[str, Any]:
        """State for /v1/health; nothing personal."""
        if self.engine is not None:
            engine = self.engine.poll()
            ready = self._is_up and engine == "running"
        else:
            engine, ready = "running" if self._is_up else "down", self._is_up
        return {"ready": ready, "engine": engine, "kind": self.config.engine.kind}

    def _start_store(self) -> None:
        settings = self.config.engine
        if settings.kind == "bundled":
            self.engine = Engine(
                EngineConfig(
                    data=settings.data,
                    port=settings.port,
                    database=settings.database,
                    memory_ratio=settings.memory_ratio,
                )
            )
            self.engine.start()
        self.client = Client(self.endpoint())
        for step in Migrator(self.client, self._now_us, cluster=settings.cluster).run():
            log.info("migration %04d %s done", step.migration.number, step.migration.name)
        since = self._now_us() - self.config.attribution.history_days * _DAY_US
        self._attributor.load(recent_bindings(self.client, since))
        log.info("%d bindings in memory", len(self._attributor))

    def endpoint(self, user: str = "writer") -> Endpoint:
        """Where the store answers; `user` is one of the bundled engine's, and ignored else."""
        settings = self.config.engine
        if settings.kind == "bundled":
            assert self.engine is not None, "the bundled engine is not started"
            return self.engine.endpoint(user)
        password = read_password(settings.password_file) if settings.password_file else ""
        return Endpoint(
            settings.host,
            settings.port or _SERVER_PORT,
            settings.user,
            password,
            settings.database,
            settings.secure,
            settings.ca,
            settings.timeout_s,
        )

    def _make_server(self) -> IngestServer:
        assert self.client is not None
        config, limits, guard = self.config, self.config.limits, self.config.safeguard
        pipeline = Pipeline(
            self.client,
            self._attributor,
            Areas(config.networks()),
            self.metrics,
            PipelineConfig(
                tolerance_ns=int(limits.clock_skew_s * 1e9),
                k=limits.demand_lines,
                epsilon_micro=round(guard.daily_budget * 1e6),
                day_us=guard.day_s * 1_000_000,
            ),
            closed=self._closed or ClosedPartitions(self.client),
            now=self._now,
        )
        gate = TlsGate(TlsFiles(config.tls.ca, config.tls.cert, config.tls.key, config.tls.crl))
        return IngestServer(
            ServerConfig(
                listen=config.server.listen,
                metrics_listen=config.metrics.listen,
                max_uploads=limits.max_uploads,
                max_connections=limits.max_connections,
                upload_timeout_s=limits.upload_timeout_s,
                idle_timeout_s=limits.idle_timeout_s,
            ),
            gate,
            pipeline,
            self.metrics,
            self.health,
            now=self._now,
        )

    async def _watch(self) -> None:
        """Ask the engine now and then; forget bindings that no row can need any more."""
        loop = asyncio.get_running_loop()
        forget_at = loop.time() + _FORGET_EVERY_S
        while True:
            await asyncio.sleep(_PING_S)
            assert self.client is not None
            try:
                await asyncio.to_thread(self.client.ping)
                is_up = True
            except StoreError as error:
                is_up = False
                if self._is_up:
                    log.error("the store is down: %s", error)
            if is_up and not self._is_up:
                log.warning("the store is up again")
            self._is_up = is_up
            if loop.time() > forget_at:
                forget_at = loop.time() + _FORGET_EVERY_S
                days = self.config.attribution.history_days
                horizon = self._now_us() - days * _DAY_US
                await asyncio.to_thread(self._attributor.forget_before, horizon)

    def _now_us(self) -> int:
        return self._now() // 1000


async def run(service: Aggregator) -> None:
    """Start, serve until SIGTERM or SIGINT, stop in order."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await service.start()
        await ended.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await service.stop()
