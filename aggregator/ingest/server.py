"""HTTPS requests of collectors in, receipts out; and a page of metrics on loopback.

    POST /v1/batches   one batch; 200 frees it, 4xx with `reject` never will, 503 come again
    GET  /v1/health    200 while batches can be taken, else 503

Who a collector is stands in its certificate alone. At most `max_uploads` bodies are held in memory
at a time, one of a collector; whoever comes beyond is told to come again before its body is read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from aggregator.ingest.listen import ListenError, bound, collector_name
from aggregator.ingest.tls import TlsGate
from aggregator.metrics import CONTENT_TYPE, Metrics
from collector.wire.batch import MAX_BATCH_BYTES, Receipt, receipt_bytes

log = logging.getLogger(__name__)

SENT_HEADER: Final = "X-Tallyhold-Sent"
BATCH_HEADER: Final = "X-Tallyhold-Batch"
_BATCH: Final = re.compile(r"[0-9a-f]{32}")
_SENT: Final = re.compile(r"[0-9]{1,19}")
_CHUNK_BYTES: Final = 256 * 1024
_STATUS: Final = {
    "identity": 403,
    "conflict": 409,
    "too-large": 413,
}
"""HTTP codes of rejected batches by reason; 422 for every other one."""


class Intake(Protocol):
    """What the server hands a body to, in a worker thread."""

    def take(
        self,
        data: bytes | memoryview,
        *,
        identity: str,
        sent_ns: int,
        arrived_ns: int,
        claimed: str = "",
    ) -> Receipt: ...


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where to listen and how much to bear.

    max_uploads: bodies in memory, each up to MAX_BATCH_BYTES. upload_timeout_s: longest body; a
    batch of 64 MB over 1 Mbit/s takes nine minutes. idle_timeout_s: longest wait for a request,
    its headers included. handshake_timeout_s: longest TLS handshake.
    """

    listen: str
    metrics_listen: str = "127.0.0.1:9465"
    max_uploads: int = 8
    max_connections: int = 2048
    upload_timeout_s: float = 600.0
    idle_timeout_s: float = 75.0
    handshake_timeout_s: float = 10.0
    retry_after_s: int = 2


Health = Callable[[], Mapping[str, Any]]
"""State for /v1/health; its "ready" decides the code."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IngestServer:
    """Both listeners. `start` and `stop` run in the event loop; batches in worker threads."""

    def __init__(
        self,
        config: ServerConfig,
        gate: TlsGate,
        intake: Intake,
        metrics: Metrics,
        health: Health,
        *,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.port = 0
        self.metrics_port = 0
        self._gate = gate
        self._intake = intake
        self._metrics = metrics
        self._health = health
        self._now = now
        self._busy: set[str] = set()
        self._workers: ThreadPoolExecutor | None = None
        self._runners: list[web.AppRunner] = []
        self._listeners: list[asyncio.Server] = []

    async def start(self) -> None:
        """Open both listeners; raises ListenError or TlsError in plain words."""
        self._workers = ThreadPoolExecutor(self.config.max_uploads, thread_name_prefix="ingest")
        context = self._gate.context()
        ingest: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/batches"): self._batches,
            ("GET", "/v1/health"): self._health_page,
        }
        pages: dict[tuple[str, str], Handler] = {
            ("GET", "/metrics"): self._metrics_page,
            ("GET", "/v1/health"): self._health_page,
        }
        try:
            self.port = await self._listen("[server] listen", self.config.listen, ingest, context)
            self.metrics_port = await self._listen(
                "[metrics] listen", self.config.metrics_listen, pages, None
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the listeners, let running batches finish, close connections."""
        for listener in self._listeners:
            listener.close()
        for runner in self._runners:
            await runner.cleanup()
        self._listeners.clear()
        self._runners.clear()
        workers, self._workers = self._workers, None
        if workers is not None:
            await asyncio.to_thread(workers.shutdown)

    async def _listen(
        self,
        key: str,
        at: str,
        routes: Mapping[tuple[str, str], Handler],
        context: ssl.SSLContext | None,
    ) -> int:
        app = web.Application(client_max_size=0)
        for (method, path), handler in routes.items():
            app.router.add_route(method, path, handler)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=self.config.idle_timeout_s,
            shutdown_timeout=60.0,
        )
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        assert server is not None
        limit = self.config.max_connections

        def accept() -> asyncio.Protocol:
            return server() if len(server.connections) < limit else _Refuse()

        opened = bound(key, at)
        try:
            listener = await asyncio.get_running_loop().create_server(
                accept,
                sock=opened,
                ssl=context,
                ssl_handshake_timeout=self.config.handshake_timeout_s if context else None,
            )
        except OSError as error:
            opened.close()
            raise ListenError(f"{key} = {at!r}: {error.strerror}") from None
        self._listeners.append(listener)
        return int(opened.getsockname()[1])

    # Requests

    async def _batches(self, request: web.Request) -> web.StreamResponse:
        arrived_ns = self._now()
        claimed = request.headers.get(BATCH_HEADER, "")
        claimed = claimed if _BATCH.fullmatch(claimed) else "0" * 32
        identity, refusal = self._identity(request)
        if refusal:
            # Kept by the collector until it has a certificate that is good.
            return self._refuse(claimed, "retry", "identity", refusal, 403)
        sent = request.headers.get(SENT_HEADER, "")
        if not _SENT.fullmatch(sent):
            text = f"the request lacks {SENT_HEADER}, the collector's clock in nanoseconds"
            return self._refuse(claimed, "retry", "no-clock", text, 400)
        if (request.content_length or 0) > MAX_BATCH_BYTES:
            return self._refuse(claimed, "reject", "too-large", _TOO_LARGE)
        if identity in self._busy or len(self._busy) >= self.config.max_uploads:
            return self._refuse(claimed, "retry", "busy", "the aggregator is busy; come again")
        self._busy.add(identity)
        try:
            try:
                async with asyncio.timeout(self.config.upload_timeout_s):
                    data = await _read(request)
            except TimeoutError:
                return self._refuse(claimed, "retry", "slow", "the upload took too long", 408)
            if data is None:
                return self._refuse(claimed, "reject", "too-large", _TOO_LARGE)
            receipt = await self._work(data, identity, int(sent), arrived_ns, claimed)
        finally:
            self._busy.discard(identity)
        return self._answer(receipt)

    async def _work(
        self, data: bytes | memoryview, identity: str, sent_ns: int, arrived_ns: int, claimed: str
    ) -> Receipt:
        """Run the intake in a thread, to its end even if the collector hangs up meanwhile."""

        def take() -> Receipt:
            return self._intake.take(
                data,
                identity=identity,
                sent_ns=sent_ns,
                arrived_ns=arrived_ns,
                claimed=claimed,
            )

        running = asyncio.get_running_loop().run_in_executor(self._workers, take)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _identity(self, request: web.Request) -> tuple[str, str]:
        """The collector's name, or why there is none."""
        certificate = request.get_extra_info("peercert") or {}
        try:
            serial = int(certificate.get("serialNumber", "0"), 16)
        except ValueError:
            return "", "the certificate has no serial number"
        if self._gate.is_revoked(serial):
            return "", "the certificate was revoked: ask the operator for a new one"
        name = collector_name(certificate)
        return (name, "") if name else ("", "the certificate names no collector")

    async def _health_page(self, request: web.Request) -> web.StreamResponse:
        state = dict(self._health())
        return web.Response(
            status=200 if state.get("ready") else 503,
            text=json.dumps(state, sort_keys=True),
            content_type="application/json",
        )

    async def _metrics_page(self, request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread(self._metrics.render)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    # Answers

    def _refuse(
        self, batch: str, verdict: str, reason: str, message: str, status: int = 0
    ) -> web.Response:
        self._metrics.refused.labels(reason).inc()
        response = self._answer(Receipt(batch, verdict, reason, message, 0), status)
        response.force_close()  # the body, if any, is not going to be read
        return response

    def _answer(self, receipt: Receipt, status: int = 0) -> web.Response:
        headers = {"Content-Type": "application/json"}
        if not status:
            if receipt.verdict == "retry":
                status = 503
            elif receipt.verdict == "reject":
                status = _STATUS.get(receipt.reason, 422)
            else:
                status = 200
        if receipt.verdict == "retry":
            headers["Retry-After"] = str(self.config.retry_after_s)
        return web.Response(status=status, body=receipt_bytes(receipt), headers=headers)


_TOO_LARGE: Final = f"the batch has more than {MAX_BATCH_BYTES} bytes"


class _Refuse(asyncio.Protocol):
    """A connection beyond the limit: closed as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _read(request: web.Request) -> memoryview | None:
    """The body, or None where it is larger than a batch may be."""
    parts = bytearray()
    async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) > MAX_BATCH_BYTES:
            return None
    return memoryview(parts)
