"""Requests of people in, answers of the service out: over a Unix socket, and HTTPS where wanted.

Each request is of one person, takes one action, and is answered as JSON; an error is
`{"error": code, "message": text}` and the text says what to do. Who is turned away is written to
the audit log. Work that can block runs in threads, changes apart from reads, so that whoever waits
for a purge to end keeps nobody from looking.

    400 the request is wrong    403 this person may not    404 there is no such thing
    409 a rule forbids it       503 not now: try again     500 the service failed

A page of metrics is served beside them on loopback, for Prometheus.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from aiohttp import web
from cryptography import x509

from retention import access
from retention.access import NotLetIn, Person
from retention.doors import TlsGate, listen, tcp_socket, unix_socket
from retention.routes_audit import ROUTES as AUDIT_ROUTES
from retention.routes_base import MAX_BODY, Asked, Parts, Problem, Refused, Route, bad, problem
from retention.routes_faults import ROUTES as FAULT_ROUTES
from retention.routes_holds import ROUTES as HOLD_ROUTES
from retention.routes_lookup import ROUTES as LOOKUP_ROUTES
from retention.routes_purge import ROUTES as PURGE_ROUTES

log = logging.getLogger(__name__)

ROUTES: Final[tuple[Route, ...]] = (
    *HOLD_ROUTES,
    *PURGE_ROUTES,
    *AUDIT_ROUTES,
    *LOOKUP_ROUTES,
    *FAULT_ROUTES,
)
READERS: Final = 8
CHANGERS: Final = 4
"""Threads. A change may wait a minute for the register's lock; a person makes one at a time."""
BODY_S: Final = 20.0
"""Longest time for a body; 4 MiB over 2 Mbit/s."""
IDLE_S: Final = 30.0
STOP_S: Final = 30.0
"""For requests that are being answered when the service stops."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
RETRY_AFTER_S: Final = 10


Who = Callable[[], Person]
"""Says whose request it is, in a thread; raises NotLetIn."""


class Api:
    """The doors and what is behind them. `start` and `stop` run in the event loop.

    metrics: gives the page. counted: called for each answered request with action and status.
    """

    def __init__(
        self,
        parts: Parts,
        metrics: Callable[[], bytes],
        counted: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.parts = parts
        self.port = 0
        self.metrics_port = 0
        self._metrics = metrics
        self._counted = counted
        self._gate: TlsGate | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._changers: ThreadPoolExecutor | None = None
        self._runners: list[web.AppRunner] = []
        self._listeners: list[asyncio.Server] = []
        self._socket_id: tuple[int, int] | None = None

    async def start(self) -> None:
        """Open all doors; raises DoorError in plain words."""
        config = self.parts.config.api
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="api-read")
        self._changers = ThreadPoolExecutor(CHANGERS, thread_name_prefix="api-change")
        try:
            made = await asyncio.to_thread(
                unix_socket, config.socket, int(config.mode, 8), config.group
            )
            stat = config.socket.stat()
            self._socket_id = (stat.st_dev, stat.st_ino)
            await self._listen(made, self._app(self._over_socket), None)
            if config.listen is not None:
                assert config.tls is not None, "the configuration sees to it"
                self._gate = TlsGate(config.tls, self._refused_certificate)
                context = self._gate.context()
                opened = tcp_socket("api.listen", config.listen)
                self.port = opened.getsockname()[1]
                await self._listen(opened, self._app(self._over_https), context)
            opened = tcp_socket("metrics.listen", self.parts.config.metrics.listen)
            self.metrics_port = opened.getsockname()[1]
            await self._listen(opened, self._metrics_app(), None)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the doors, let running requests finish, close connections. Safe to call twice."""
        for listener in self._listeners:
            listener.close()
        self._remove_socket()
        await _turns()  # a connection that was just accepted becomes one that is known
        for runner in self._runners:
            await runner.cleanup()
        await _turns()  # and one that was just closed is gone
        self._listeners.clear()
        self._runners.clear()
        pools, self._readers, self._changers = (self._readers, self._changers), None, None
        for pool in pools:
            if pool is not None:
                await asyncio.to_thread(pool.shutdown)

    def _remove_socket(self) -> None:
        """The socket's name, unless another service has put its own there since."""
        path, mine, self._socket_id = self.parts.config.api.socket, self._socket_id, None
        with contextlib.suppress(FileNotFoundError):
            if mine is not None and (path.stat().st_dev, path.stat().st_ino) == mine:
                path.unlink()

    async def _listen(
        self, made: socket.socket, app: web.Application, context: ssl.SSLContext | None
    ) -> None:
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=STOP_S,
        )
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        assert server is not None
        limit = self.parts.config.api.max_connections
        listener = await listen(made, server, lambda: len(server.connections), limit, context)
        self._listeners.append(listener)

    # Who asks: what the connection says is read in the event loop, and looked up in a thread

    def _over_socket(self, request: web.Request) -> Who:
        connection = request.get_extra_info("socket")
        try:
            uid = access.peer_uid(connection) if connection is not None else None
        except OSError:
            uid = None

        def who() -> Person:
            if uid is None:
                raise NotLetIn("", "socket", "gone", "the connection was closed")
            return access.of_user(uid, self.parts.config.access.groups)

        return who

    def _over_https(self, request: web.Request) -> Who:
        connection = request.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True) if connection is not None else None

        def who() -> Person:
            if der is None:
                raise NotLetIn("", "certificate", "none", "come in with a client certificate")
            person = access.certified(der)
            assert self._gate is not None
            if self._gate.is_revoked(x509.load_der_x509_certificate(der).serial_number):
                text = "this certificate was revoked: ask for a new one"
                raise NotLetIn(person.name, "certificate", "revoked", text)
            return person

        return who

    def _refused_certificate(self, reason: str) -> None:
        """Of a handshake that failed: nobody was named whom one could believe."""
        if self._readers is not None:
            self._readers.submit(self.parts.refusals.not_let_in, "", "tls", reason)

    # What is answered

    def _app(self, who: Callable[[web.Request], Who]) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_plain_errors])
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._handler(route, who))
        return app

    def _handler(self, route: Route, who: Callable[[web.Request], Who]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            person = who(request)
            try:
                body = await _body(request)
            except Refused as error:
                return _error(Problem(error.status, error.code, error.text))
            asked = _Unchecked(dict(request.match_info), dict(request.query), body)
            status, answer = await self._work(route, lambda: self._do(route, person, asked))
            self._counted(route.action, status)
            return _json(status, answer)

        return handle

    def _do(self, route: Route, who: Who, asked: _Unchecked) -> tuple[int, Any]:
        """In a thread: see who it is and what they may, and do it."""
        refusals, person, role = self.parts.refusals, None, None
        try:
            person = who()
            role = person.role_for(route.action)
            made = Asked(person, role, asked.path, asked.query, asked.body)
            return 200, route.handler(self.parts, made)
        except NotLetIn as error:
            refusals.not_let_in(error.name, error.way, error.reason)
            return _plain(problem(error))
        except Exception as error:  # whatever it is, the person gets an answer; problem() logs it
            found = problem(error)
            if person is not None and found.is_refusal:
                subject = asked.path.get("id", "")
                refusals.refused(person, role, route.action, found.code, subject)
            return _plain(found)

    async def _work(self, route: Route, do: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        """Run in a thread, to its end even if the person hangs up meanwhile."""
        pool = self._changers if route.is_change else self._readers
        if pool is None:
            return _plain(Problem(503, "stopping", "the service is stopping"))
        running = asyncio.get_running_loop().run_in_executor(pool, do)
        limit_s = self.parts.config.api.request_timeout_s
        try:
            return await asyncio.wait_for(asyncio.shield(running), limit_s)
        except TimeoutError:
            text = "it takes longer than it should and goes on; look what became of it"
            return _plain(Problem(500, "slow", text))

    def _metrics_app(self) -> web.Application:
        async def page(_: web.Request) -> web.StreamResponse:
            body = await asyncio.to_thread(self._metrics)
            return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

        async def health(_: web.Request) -> web.StreamResponse:
            found = await asyncio.to_thread(self.parts.health)
            return _json(200 if found.get("ready") else 503, {"ready": bool(found.get("ready"))})

        app = web.Application(client_max_size=1, middlewares=[_plain_errors])
        app.router.add_get("/metrics", page)
        app.router.add_get("/v1/health", health)
        return app


async def _turns() -> None:
    """Let the loop do what is pending; each step of a connection takes a turn."""
    for _ in range(4):
        await asyncio.sleep(0)


class _Unchecked(NamedTuple):
    """A request before it is known whose it is."""

    path: dict[str, str]
    query: dict[str, str]
    body: dict[str, Any]


@web.middleware
async def _plain_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """What the HTTP library answers by itself, in our form."""
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPNotFound:
        return _error(Problem(404, "not-found", "there is no such page"))
    except web.HTTPMethodNotAllowed as error:
        allowed = " or ".join(sorted(error.allowed_methods))
        return _error(Problem(404, "not-found", f"this page takes {allowed}"))
    except web.HTTPRequestEntityTooLarge:
        return _error(Problem(400, "too-large", f"a request has at most {MAX_BODY} bytes"))
    return answer


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request, {} without one."""
    if request.method == "GET":
        return {}
    try:
        async with asyncio.timeout(BODY_S):
            data = await request.read()
    except TimeoutError:
        raise bad("the request took too long to arrive") from None
    if not data:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise bad("the request is not JSON") from None
    if not isinstance(value, dict):
        raise bad("the request is not a JSON object")
    return value


def _plain(found: Problem) -> tuple[int, dict[str, str]]:
    return found.status, {"error": found.code, "message": found.text}


def _error(found: Problem) -> web.Response:
    response = _json(*_plain(found))
    response.force_close()  # the body, if any, may not have been read
    return response


def _json(status: int, value: Any) -> web.Response:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return web.Response(status=status, text=json.dumps(value), headers=headers)
