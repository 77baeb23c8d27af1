"""A configuration and a period in, a connection to ask through out; errors end the command.

Exit codes: 2 where the command, the period or the configuration is wrong, 1 where it failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress

from aggregator import config as configuration
from aggregator.queries.arithmetic import Period, PeriodError, parse_period
from aggregator.queries.audit import AuditFile
from aggregator.reader import advice, reader
from aggregator.store.client import Client
from aggregator.store.errors import StoreError, Unavailable


@contextmanager
def asking(path: Path, period: str) -> Iterator[tuple[Client, Period, AuditFile]]:
    """A connection, the period and the audit record, with errors in plain words."""
    settings = load(path)
    try:
        span = parse_period(period)
    except PeriodError as error:
        fail(str(error), code=2)
    client = None
    try:
        client = reader(settings)
        yield client, span, AuditFile(settings.audit.folder)
    except Unavailable as error:
        fail(f"{error}; {advice(settings, path)}")
    except StoreError as error:
        fail(str(error))
    except BrokenPipeError:
        raise  # whoever read the output has left; the command line ends quietly
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    finally:
        if client:
            client.close()


def show(as_json: bool, plain: dict[str, Any], table: Callable[[Console], None]) -> None:
    """Print an answer: as JSON, or through `table` for people."""
    if as_json:
        json.dump(plain, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        table(Console())


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal, and nothing elsewhere; to be told (done, total)."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Subscribers", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def now_us() -> int:
    """The time by the clock, in microseconds UTC."""
    return time.time_ns() // 1000


def load(path: Path) -> configuration.Config:
    """The configuration, or the end of the command with every problem of it."""
    try:
        return configuration.load(path)
    except configuration.ConfigError as error:
        fail(str(error), code=2)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with a message on stderr."""
    sys.stderr.write(f"tallyhold: {message}\n")
    raise SystemExit(code)
