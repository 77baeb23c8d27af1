"""A retention service that answers what a test tells it to, on a Unix socket, and remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

Answer = tuple[int, Any]


class Fake:
    """`answers`: "GET /v1/holds" to (status, JSON), or to a callable of the body that gives it.

    A query is part of the key where it is told with one. asked: (method and path, body) so far.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, Any]] = []

    def answer(self, line: str, body: Any) -> Answer:
        self.asked.append((line, body))
        found = self.answers.get(line) or self.answers.get(line.partition("?")[0])
        if found is None:
            return 404, {"error": "not-found", "message": "there is no such page"}
        return found(body) if callable(found) else found

    @contextmanager
    def running(self) -> Iterator[Fake]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "socket"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, value = fake.answer(f"{self.command} {self.path}", body)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

        with ThreadingUnixStreamServer(str(self.socket), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
