"""Arguments and options that commands of billing and demand share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aggregator.queries import billing as bills

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="TALLYHOLD_CONFIG", help="TOML file to use.")
]
PeriodText = Annotated[
    str,
    typer.Option("--period", "-p", help="2026-11, 2026-11-22, or 2026-11-01/2026-11-08; UTC."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reference = Annotated[
    str, typer.Option("--reference", "-r", help="Ticket or reason; kept in the audit record.")
]


def _subscriber(text: str) -> str:
    try:
        bills.check_subscriber(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


Subscriber = Annotated[
    str,
    typer.Argument(help="The operator's opaque subscriber reference.", callback=_subscriber),
]
