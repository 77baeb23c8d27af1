"""A TCP relay between two namespaces: no link is needed, so no packet of it is ever counted.

Listens on 127.0.0.1 in one namespace and connects to 127.0.0.1 in the other. A socket belongs to
the namespace in which it was made, whoever uses it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from tests.lab.netns import LabError, Namespace

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
PIECE_BYTES: Final = 65536
MAX_CONNECTIONS: Final = 256
"""The collector keeps one connection, Prometheus a few; more means a loop somewhere."""
READY_TIMEOUT_S: Final = 5.0
CUT: Final = struct.pack("@ii", 1, 0)
"""struct linger of socket(7): to close is to reset."""


class Relay:
    """`listen_in`:`port` to `connect_in`:`target`; None is the namespace of this program.

    `port` 0 takes any free one; see `address`. `pause()` refuses or hangs, `resume()` undoes it.
    """

    def __init__(
        self,
        listen_in: Namespace | None,
        port: int,
        connect_in: Namespace | None,
        target: int,
    ) -> None:
        self._listen_in = listen_in
        self._port = port
        self._connect_in = connect_in
        self._target = target
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hanging = False
        self._stopped = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect to, in `listen_in`."""
        return LOOPBACK, self._port

    def start(self) -> None:
        """Listen; returns when connections are taken."""
        ready = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                if self._connect_in is not None:
                    self._connect_in.join()
                with asyncio.Runner() as runner:
                    self._loop = runner.get_loop()
                    ready.set()
                    runner.run(self._run())
            except BaseException as error:  # raised in start() below
                failure.append(error)
                ready.set()

        self._thread = threading.Thread(target=work, name="lab-relay", daemon=True)
        self._thread.start()
        if not ready.wait(READY_TIMEOUT_S) or failure:
            raise LabError("the relay did not start") from (failure[0] if failure else None)
        self._listen()

    def stop(self) -> None:
        """Close everything."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(READY_TIMEOUT_S)
        self._loop = self._thread = self._listener = None

    def pause(self, *, hang: bool = False) -> None:
        """Cut every connection; then refuse new ones, or with `hang` take them and stay silent."""
        self._do(lambda: self._cut(hang))

    def resume(self) -> None:
        """Work again; connections that hung are cut."""
        self._do(lambda: self._cut(hang=True))
        self._hanging = False
        if self._listener is None:
            self._listen()

    def _do(self, work: Callable[[], T]) -> T:
        """Run in the relay's thread."""
        loop = self._loop
        if loop is None:
            raise LabError("the relay is not running")

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), loop).result(READY_TIMEOUT_S)

    def _listen(self) -> None:
        def bind() -> socket.socket:
            return socket.create_server((LOOPBACK, self._port), backlog=64)

        listener = bind() if self._listen_in is None else self._listen_in.call(bind)
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._do(lambda: self._take(listener))

    def _take(self, listener: socket.socket) -> None:
        self._listener = listener
        self._accepting = asyncio.ensure_future(self._accept(listener))

    def _cut(self, hang: bool) -> None:
        self._hanging = hang
        if not hang and self._listener is not None and self._accepting is not None:
            self._accepting.cancel()
            self._listener.close()
            self._listener = self._accepting = None
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        await self._stopped.wait()
        self._cut(hang=False)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(listener)
            if len(self._tasks) >= MAX_CONNECTIONS:
                near.close()
                continue
            task = asyncio.ensure_future(self._serve(near))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        far.setblocking(False)
        try:
            if self._hanging:
                await asyncio.Event().wait()
            await asyncio.get_running_loop().sock_connect(far, (LOOPBACK, self._target))
            await asyncio.gather(copy(near, far), copy(far, near))
        except (OSError, asyncio.CancelledError):
            # The far side is not there, or the relay was paused: cut the near side.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT)
        finally:
            near.close()
            far.close()


async def copy(source: socket.socket, sink: socket.socket) -> None:
    """Carry one direction over until its end or a break, and pass that end on.

    Sockets and not streams: when a peer breaks off, what it said before is still to be read from
    the socket (a TLS alert, say), while a stream forgets it. The other direction goes on alone.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while piece := await loop.sock_recv(source, PIECE_BYTES):
            await loop.sock_sendall(sink, piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
