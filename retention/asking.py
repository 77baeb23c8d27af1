"""A person's question in, the service's answer out; whatever goes wrong ends the command in words.

Exit codes: 0 done, 1 failed, 2 the command is wrong, 3 refused by a rule, 4 the service cannot be
reached, 130 interrupted. Answers go to stdout, everything said about them to stderr.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

from rich.console import Console
from rich.progress import Progress

from retention.client import (
    DEFAULT_SOCKET,
    ENVIRONMENT,
    Busy,
    Client,
    Denied,
    NotRunning,
    ProfileError,
    Refused,
    ServiceError,
    find,
)

FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNREACHABLE: Final = 4
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

SERVICE_VARIABLE: Final = ENVIRONMENT
SERVICE_HELP: Final = f"Socket or https:// address of the service; {DEFAULT_SOCKET} by default."
COMPLETION_S: Final = 1.0
"""What a person who pressed TAB waits at most."""
RETRY_S: Final = 10
"""A purge keeps holds waiting for one partition at most, which takes seconds."""


class Service:
    """The service as one command asks it: every error ends the command."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The answer to a question."""
        return self._ask(lambda: self._client.get(path, params))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to a request that changes something."""
        return self._ask(lambda: self._client.post(path, body))

    def post_once(self, path: str, body: Mapping[str, Any]) -> Any:
        """The same with a `request_id`, by which the service knows it again.

        So it can be sent a second time where the first answer was lost, and is done once.
        """
        known = {**body, "request_id": uuid.uuid4().hex}
        with suppress(NotRunning):
            return self._ask(lambda: self._client.post(path, known), patient=True)
        return self.post(path, known)

    def _ask(self, ask: Callable[[], Any], *, patient: bool = False) -> Any:
        """Ask, and end the command on errors; `patient` raises where nothing answered."""
        try:
            return ask()
        except NotRunning as error:
            if patient:
                raise
            start = "; it is started with: tallyhold retention serve" * (
                error.code == "not-running" and not self._client.where.is_remote
            )
            fail(f"{error.text}{start}", UNREACHABLE)
        except Denied as error:
            fail(error.text, UNREACHABLE if error.code in ("socket", "tls") else REFUSED)
        except Refused as error:
            fail(error.text, USAGE if error.status == 400 else REFUSED)
        except Busy as error:
            # Other codes of 503 may come after it was done; their texts say so themselves.
            again = f"; nothing was changed, try again in {RETRY_S} s" * (error.code == "busy")
            fail(f"{error.text}{again}")
        except ServiceError as error:
            fail(error.text)


def service(named: str | None) -> Service:
    """The service that is named, or the one of the environment, the profile or the machine."""
    try:
        return Service(Client(find(named or "")))
    except ProfileError as error:
        fail(str(error), USAGE)


def quietly(named: str, path: str) -> Any:
    """An answer for the shell's completion: None where anything at all is wrong."""
    try:
        return Client(find(named), timeout_s=COMPLETION_S).get(path)
    except (ServiceError, ProfileError):
        return None


def listed(answer: Any, name: str) -> list[Mapping[str, Any]]:
    """The list in an answer, whether it stands alone or under a name."""
    found = answer.get(name) if isinstance(answer, Mapping) else answer
    return [each for each in found or () if isinstance(each, Mapping)]


def quoted(text: str) -> str:
    """Text as one step of a path."""
    return urllib.parse.quote(text, safe="")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with a message on stderr."""
    sys.stderr.write(f"tallyhold: {message}\n")
    raise SystemExit(code)


def say(text: str = "") -> None:
    """A line about what is being done, beside the answer."""
    sys.stderr.write(f"{text}\n")


def interactive() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str, *, yes: bool) -> None:
    """Ask on the terminal, and end the command unless the answer is yes.

    Without a terminal nobody can be asked: then only `yes` goes on.
    """
    if yes:
        return
    if not interactive():
        fail(
            "nothing was sent: this is not a terminal, so nobody can confirm it; read the lines "
            "above and run it again with --yes",
            USAGE,
        )
    if ask(f"{question} [y/N]", needed=False).lower() not in ("y", "yes"):
        fail("nothing was sent")


def ask(question: str, *, needed: bool = True) -> str:
    """A line from the terminal; asked again while it is empty and needed."""
    while True:
        sys.stderr.write(f"{question}: ")
        sys.stderr.flush()
        text = sys.stdin.readline()
        if not text:
            say()
            fail("nothing was sent: the input ended")
        if text.strip() or not needed:
            return text.strip()


def aside() -> Console:
    """Where what is said about an answer goes, so that stdout has the answer alone."""
    return Console(stderr=True)


def show(as_json: bool, answer: Any, table: Callable[[Console], None]) -> None:
    """Print an answer: as JSON, or through `table` for people."""
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    else:
        table(Console())


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal, and nothing elsewhere; to be told how many."""
    console = aside()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
