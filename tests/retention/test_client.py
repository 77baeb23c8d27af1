"""The client: where the service is found, and which error says who has to act."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retention.client import (
    DEFAULT_SOCKET,
    Busy,
    Client,
    Denied,
    NotFound,
    NotRunning,
    ProfileError,
    Refused,
    ServiceError,
    Where,
    find,
    short_path,
)
from tests.retention.rig import Authority, as_user, open_folder


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers what the path says: /409/code/text."""

    asked: list[tuple[str, str, bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, body))  # type: ignore[attr-defined]
        parts = self.path.split("/")[1:]
        if parts[0] == "hang":
            threading.Event().wait(2)
            return
        if parts[0] == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status = int(parts[0]) if parts[0].isdigit() else 200
        answer: Any = {"path": self.path}
        if status >= 400:
            answer = {"error": parts[1], "message": parts[2]}
        data = b"<html>" if parts[0] == "html" else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return ""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    asked: list[tuple[str, str, bytes]]

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def serving(path: Path) -> Iterator[Server]:
    with short_path(path) as name, Server(name, Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "s") as made:
        yield made


def client(path: Path, timeout_s: float = 10) -> Client:
    return Client(Where(str(path)), timeout_s)


def test_questions_and_requests_arrive_as_they_were_meant(server: Server, tmp_path: Path) -> None:
    with client(tmp_path / "s") as service:
        assert service.get("/v1/holds", {"state": "a b", "n": 2}) == {
            "path": "/v1/holds?state=a+b&n=2"
        }
        service.post("/v1/holds", {"matter": "ü"})
    assert [method for method, _, _ in server.asked] == ["GET", "POST"]
    assert json.loads(server.asked[1][2]) == {"matter": "ü"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Refused), (401, Denied), (403, Denied), (404, NotFound), (409, Refused), (503, Busy)],
)
def test_each_status_is_an_error_of_its_kind(
    server: Server, tmp_path: Path, status: int, kind: type[ServiceError]
) -> None:
    with pytest.raises(kind) as caught:
        client(tmp_path / "s").get(f"/{status}/some-code/some-words")
    assert (caught.value.status, caught.value.code) == (status, "some-code")
    assert caught.value.text == "some-words"
    with pytest.raises(ServiceError) as other:
        client(tmp_path / "s").get("/500/internal/broken")
    assert type(other.value) is ServiceError


def test_what_is_not_our_service_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="not from this service"):
        client(tmp_path / "s").get("/html")


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="nothing answers at .*none"):
        client(tmp_path / "none").get("/v1/health")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(NotRunning, match="is the service running"):
        client(tmp_path / "dead").get("/v1/health")


def test_a_lost_answer_to_a_change_says_that_it_may_have_been_done(
    server: Server, tmp_path: Path
) -> None:
    for path in ("/drop", "/hang"):
        with pytest.raises(NotRunning, match="may have been carried out"):
            client(tmp_path / "s", timeout_s=0.3).post(path)
        assert len([line for line in server.asked if line[1] == path]) == 1  # not sent again
        with pytest.raises(NotRunning) as caught:
            client(tmp_path / "s", timeout_s=0.3).get(path)
        assert "carried out" not in caught.value.text


def test_a_path_longer_than_a_sockets_can_be(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with serving(folder / "s"):
        assert client(folder / "s").get("/v1/health") == {"path": "/v1/health"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_socket_one_may_not_open() -> None:
    with open_folder() as folder, serving(folder / "s"):
        (folder / "s").chmod(0o600)
        replies = as_user("nobody", Where(str(folder / "s")), (("GET", "/v1/health", None),))
    assert replies[0][0] == 403
    assert "group" in replies[0][1]["message"]


def test_where_the_service_is(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find("", home) == Where(str(DEFAULT_SOCKET))
    profile = tmp_path / ".config" / "tallyhold" / "retention.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text('service = "https://a.example:8445"\ncert = "~/c"\nkey = "/k"\nca = "/ca"\n')
    found = find("", home)
    assert (found.service, found.key, found.is_remote) == (
        "https://a.example:8445", Path("/k"), True,
    )  # fmt: skip
    assert found.cert is not None
    assert found.cert.is_absolute()
    assert find("", home | {"TALLYHOLD_RETENTION": "/run/b.sock"}).service == "/run/b.sock"
    assert find("/run/c.sock", home | {"TALLYHOLD_RETENTION": "/run/b.sock"}).service == (
        "/run/c.sock"
    )
    assert find("unix:/run/d.sock", home).service == "/run/d.sock"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("service = 1", "service"),
        ('password = "x"', "password"),
        ("nonsense", "retention.toml"),
        ('service = "https://a.example"', "TALLYHOLD_CERT, TALLYHOLD_KEY, TALLYHOLD_CA"),
        ('service = "http://a.example"', "https://"),
    ],
)
def test_a_profile_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tallyhold").mkdir()
    (tmp_path / "tallyhold" / "retention.toml").write_text(text)
    with pytest.raises(ProfileError, match=words):
        find("", {"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_server_that_is_somebody_else_is_not_believed(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.folder / "server.crt", theirs.folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True):
                raise AssertionError("the client went on")
        except ssl.SSLError:
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    me = ours.staff("ann", "dpo")
    where = Where(f"https://127.0.0.1:{listener.getsockname()[1]}", me.cert, me.key, me.ca)
    with pytest.raises(NotRunning, match="not who it should be"):
        Client(where, 5).get("/v1/health")
    thread.join()
    listener.close()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for name in ("c", "k", "ca"):
        (tmp_path / name).write_text("rubbish")
    where = Where("https://127.0.0.1:1", tmp_path / "c", tmp_path / "k", tmp_path / "ca")
    with pytest.raises(NotRunning, match="cannot be used"):
        Client(where).get("/v1/health")
