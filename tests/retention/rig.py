"""A retention service in an event loop of its own thread, and people who ask it.

People come in as they do in life: as users of this machine over the Unix socket, from forked
children that have given up root, and over mutual TLS with certificates of the appliance's
authority. Roles come from groups that every Debian has.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from aggregator import pki
from retention.audit import canonical
from retention.audit.log import LogReader
from retention.audit.verify import verify
from retention.client import Client, ServiceError, Where
from retention.config import Config, parse
from retention.service import Retention

USERS: Final = {
    # role: user whose own group gives it
    "legal-requester": "mail",
    "legal-approver": "news",
    "dpo": "uucp",
    "auditor": "proxy",
    "operations": "www-data",
    "billing": "backup",
    "demand": "list",
    "faults": "irc",
}
SECOND_APPROVER: Final = "man"
DOOR_GROUP: Final = "users"
"""Group of the socket: whoever may knock; it gives no role."""
GROUPS: Final = {user: [role] for role, user in USERS.items()} | {
    SECOND_APPROVER: ["legal-approver"]
}
FAR: Final = "2099-01-01T00:00:00Z"

Ask = tuple[str, str, Mapping[str, Any] | None]
"""Method, path, body."""
Reply = tuple[int, Any]
"""Status and JSON: of an error {"error", "message"}."""


def config(folder: Path, more: Mapping[str, Any] | None = None) -> Config:
    """A configuration whose engine was never started, with doors for all users above."""
    plain: dict[str, Any] = {
        "folder": str(folder / "retention"),
        "origin": "test.example/retention",
        "engine": {"data": str(folder / "engine")},
        "api": {"socket": str(folder / "door.sock"), "group": DOOR_GROUP},
        "metrics": {"listen": "127.0.0.1:0"},
        "access": {"groups": GROUPS},
        "schedule": {"tick_s": 0.2},
    }
    for key, value in (more or {}).items():
        old = plain.get(key)
        plain[key] = {**old, **value} if isinstance(old, dict) else value
    return parse(plain, folder / "retention.toml")


class Running:
    """A service that runs until `stop`; may be started again on the same folder."""

    def __init__(self, settings: Config, **others: Any) -> None:
        self.config = settings
        self._others = others
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.service = Retention(settings, **others)

    def start(self) -> Running:
        try:
            asyncio.run_coroutine_threadsafe(self.service.start(), self._loop).result(60)
        except BaseException:
            self._end()
            raise
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.service.stop(), self._loop).result(90)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def metric(self, name: str, **labels: str) -> float:
        value = self.service.metrics.registry.get_sample_value(
            f"tallyhold_retention_{name}", labels
        )
        return value or 0.0

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
            time.sleep(0.05)

    def rounds(self, count: int = 2) -> None:
        """Wait until so many whole rounds of the scheduler have ended."""
        for _ in range(count):
            before = self.metric("last_tick_timestamp_seconds")
            self.until("a round", lambda: self.metric("last_tick_timestamp_seconds") > before)  # noqa: B023

    def as_user(self, user: str, *asks: Ask) -> list[Reply]:
        """What a user of this machine is answered, from a child that is that user."""
        return as_user(user, Where(str(self.config.api.socket)), asks)

    def ask(self, role: str, method: str, path: str, body: Any = None) -> Reply:
        """One question by the user who has this role."""
        return self.as_user(USERS[role], (method, path, body))[0]

    def leaves(self, kind: str = "") -> list[dict[str, Any]]:
        """The audit log's leaves of a kind, as they are on disk."""
        register = self.service.register
        if register is None:
            return leaves(self.config.log_folder, kind)
        with register.audit():  # nobody appends while the files are read
            return leaves(self.config.log_folder, kind)


def leaves(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    log = LogReader(folder)
    log.load()
    found = [canonical.decode(log.entry(index)) for index in range(log.size)]
    return [leaf for leaf in found if not kind or leaf["kind"] == kind]


def good(folder: Path) -> None:
    """Assert that an outsider has nothing against the log."""
    report = verify(folder, None, [], None)
    assert report.good, report.lines()


@contextmanager
def running(
    folder: Path, more: Mapping[str, Any] | None = None, **others: Any
) -> Iterator[Running]:
    made = Running(config(folder, more), **others)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can pass through, as /run is; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="tallyhold-door-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def asked(where: Where, asks: tuple[Ask, ...]) -> list[Reply]:
    """Answers to questions, errors as they came."""
    replies: list[Reply] = []
    with Client(where, timeout_s=30) as client:
        for method, path, body in asks:
            try:
                answer = client.get(path) if method == "GET" else client.post(path, body)
                replies.append((200, answer))
            except ServiceError as error:
                replies.append((error.status, {"error": error.code, "message": error.text}))
    return replies


def as_user(user: str, where: Where, asks: tuple[Ask, ...]) -> list[Reply]:
    """The same, from a forked child that has become another user for good."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            entry = pwd.getpwnam(user)
            os.setgroups([grp.getgrnam(DOOR_GROUP).gr_gid])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            data = json.dumps(asked(where, asks)).encode()
            while data:
                data = data[os.write(writing, data) :]
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child that was {user} failed"
    return [(status, answer) for status, answer in json.loads(data)]


def hold_body(**others: Any) -> dict[str, Any]:
    """A request for a hold that can be placed."""
    body: dict[str, Any] = {
        "matter": "R v Smith",
        "basis": "court-order",
        "authority": "Leeds Crown Court",
        "reference": "T20260017",
        "expires": FAR,
        "scope": [
            {
                "kind": "subscriber",
                "value": "sub-0001",
                "from": "2026-01-01T00:00:00Z",
                "to": "2026-07-01T00:00:00Z",
            }
        ],
    }
    return body | others


class Authority:
    """The appliance's authority in a folder, and people with its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pki.init(folder, ["localhost", "127.0.0.1"])

    def tls(self) -> dict[str, str]:
        names = {"ca": "ca.crt", "cert": "server.crt", "key": "server.key", "crl": "crl.pem"}
        return {key: str(self.folder / name) for key, name in names.items()}

    def staff(self, person: str, *roles: str) -> Where:
        return self._where(pki.staff(self.folder, person, roles))

    def collector(self, name: str) -> Where:
        return self._where(pki.issue(self.folder, name))

    def _where(self, made: pki.Issued) -> Where:
        return Where("", made.cert, made.key, self.folder / "ca.crt")
