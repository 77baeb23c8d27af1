"""`tallyhold collector`: meter a router, check its configuration."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from collector import config as configuration

app = typer.Typer(no_args_is_help=True)

ConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="TALLYHOLD_COLLECTOR_CONFIG", help="TOML file to use."),
]


@app.callback()
def group() -> None:
    """Meter a router: run a collector and check its configuration.

    Example: tallyhold collector run --config /etc/tallyhold/collector.toml
    """


@app.command()
def run(
    config: ConfigPath = configuration.DEFAULT_PATH,
    replace_table: Annotated[
        bool,
        typer.Option(
            "--replace-table",
            help="Read the counters of a table that counts something else, then replace it.",
        ),
    ] = False,
) -> None:
    """Meter until SIGTERM or Ctrl-C, which close and spool the open window first.

    Needs CAP_NET_ADMIN and CAP_NET_RAW, not root. Ends with 1 where it cannot start or go on, and
    with 2 where the configuration cannot be used; started again it loses nothing it had.

    Example: tallyhold collector run --config collector.toml
    """
    settings = _load(config)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    from collector.journal import JournalError
    from collector.keeper import RestartNeeded
    from collector.service import Collector
    from collector.spool import SpoolError

    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    collector = Collector(settings, replace_table=replace_table)
    try:
        collector.start()
    except (OSError, SpoolError, JournalError, RestartNeeded, ValueError) as error:
        _fail(_words(error))
    try:
        collector.run(lambda: stopping)
    except (OSError, RestartNeeded) as error:
        _fail(_words(error))
    finally:
        collector.stop()


@app.command("check-config")
def check_config(
    config: ConfigPath = configuration.DEFAULT_PATH,
    dump: Annotated[bool, typer.Option("--dump", help="Print the effective settings.")] = False,
) -> None:
    """Report every problem of the configuration at once, or print what it comes to.

    Example: tallyhold collector check-config --config collector.toml --dump
    """
    settings = _load(config)
    if dump:
        json.dump(configuration.dump(settings), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        typer.echo(f"{config}: no problem found")


def _load(path: Path) -> configuration.Config:
    """The configuration, with which a collector can start; the process ends with 2 otherwise."""
    from collector import build

    try:
        settings = configuration.load(path)
        problems = build.problems(settings)
        if problems:
            raise configuration.ConfigError(path, problems)
    except configuration.ConfigError as error:
        _fail(str(error), code=2)
    return settings


def _words(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"tallyhold collector: {message}", err=True)
    raise typer.Exit(code)
