"""`tallyhold appliance`, `billing` and `demand`: run the appliance and ask it."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from aggregator import config as configuration
from aggregator import present
from aggregator.queries import billing as bills
from aggregator.queries import demand as demands
from aggregator.queries.arithmetic import Period, PeriodError, parse_period
from aggregator.queries.audit import AuditFile
from aggregator.reader import reader
from aggregator.store.client import Client
from aggregator.store.errors import StoreError

appliance = typer.Typer(
    no_args_is_help=True, help="Run the appliance; enrol and revoke collectors."
)
billing = typer.Typer(no_args_is_help=True, help="What a subscriber used: volume, sessions, calls.")
demand = typer.Typer(no_args_is_help=True, help="Busy hours by area, without any subscriber.")

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="TALLYHOLD_CONFIG", help="TOML file to use.")
]
PeriodText = Annotated[
    str,
    typer.Option("--period", "-p", help="2026-11, 2026-11-22, or 2026-11-01/2026-11-08; UTC."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Subscriber = Annotated[str, typer.Argument(help="The operator's opaque subscriber reference.")]
Reference = Annotated[
    str, typer.Option("--reference", "-r", help="Ticket or reason; kept in the audit record.")
]


class Format(StrEnum):
    """File formats of an export."""

    CSV = "csv"
    JSON = "json"


@appliance.callback()
def _appliance() -> None:
    """Run the appliance; enrol and revoke collectors.

    Example: tallyhold appliance init /etc/tallyhold --name aggregator.isp.example
    """


@billing.callback()
def _billing() -> None:
    """What a subscriber used: volume, sessions, calls.

    Example: tallyhold billing usage sub-0001 --period 2026-11
    """


@demand.callback()
def _demand() -> None:
    """Busy hours by area, without any subscriber.

    Example: tallyhold demand busy-hour --period 2026-11-22
    """


@appliance.command("init")
def appliance_init(
    folder: Annotated[Path, typer.Argument(help="Folder for the configuration, keys and data.")],
    name: Annotated[
        list[str],
        typer.Option("--name", help="Name or address by which collectors reach it; repeatable."),
    ],
    listen: Annotated[str, typer.Option(help="Address that collectors connect to.")] = (
        "0.0.0.0:8443"
    ),
    metrics: Annotated[str, typer.Option(help="Address that Prometheus scrapes.")] = (
        "127.0.0.1:9465"
    ),
    engine_port: Annotated[int, typer.Option(help="Engine's port on loopback; 0 any.")] = 0,
) -> None:
    """Make a certificate authority, a server certificate and a configuration in one folder.

    Can be run again: what exists and is good stays as it is.

    Example: tallyhold appliance init /etc/tallyhold --name aggregator.isp.example
    """
    from aggregator.setup import SetupError, initialise

    try:
        path, lines = initialise(folder.resolve(), name, listen, metrics, engine_port)
    except SetupError as error:
        fail(str(error))
    for line in lines:
        typer.echo(line)
    typer.echo(f"next: tallyhold appliance run --config {path}")


@appliance.command("enrol")
def appliance_enrol(
    collector: Annotated[str, typer.Argument(help="Name of the collector, e.g. edge-1.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for ca.pem, NAME.pem and NAME.key.")
    ],
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Issue the certificate by which a collector is known; copy the folder to the router.

    Example: tallyhold appliance enrol edge-1 --output edge-1-pki
    """
    from aggregator.setup import SetupError, enrol

    try:
        files = enrol(load(config), collector, output)
    except SetupError as error:
        fail(str(error))
    for file in files:
        typer.echo(f"wrote {file}")


@appliance.command("revoke")
def appliance_revoke(
    collector: Annotated[str, typer.Argument(help="Name of the collector, e.g. edge-1.")],
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Refuse a collector's certificate from now on; the running appliance notices by itself.

    Example: tallyhold appliance revoke edge-1
    """
    from aggregator.setup import SetupError, revoke

    try:
        serial = revoke(load(config), collector)
    except SetupError as error:
        fail(str(error))
    typer.echo(f"revoked certificate {serial:x} of {collector}")


@appliance.command("run")
def appliance_run(config: ConfigPath = configuration.DEFAULT_PATH) -> None:
    """Run the engine and the aggregator until SIGTERM or Ctrl-C.

    Example: tallyhold appliance run --config /etc/tallyhold/aggregator.toml
    """
    import asyncio
    import logging

    from aggregator.service import STARTUP_ERRORS, Aggregator, run

    settings = load(config)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Aggregator(settings)))
    except STARTUP_ERRORS as error:
        fail(str(error))


@appliance.command("check-config")
def appliance_check_config(
    config: ConfigPath = configuration.DEFAULT_PATH,
    dump: Annotated[bool, typer.Option("--dump", help="Print the effective settings.")] = False,
) -> None:
    """Report every problem of the configuration at once, or print what it comes to.

    Example: tallyhold appliance check-config --dump
    """
    settings = load(config)
    if dump:
        json.dump(configuration.dump(settings), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        typer.echo(f"{config}: no problem found")


@billing.command("usage")
def billing_usage(
    subscriber: Subscriber,
    period: PeriodText,
    as_json: AsJson = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Bytes up and down by day, with totals and completeness.

    Example: tallyhold billing usage sub-0001 --period 2026-11 --json
    """
    with _asking(config, period) as (client, span, audit):
        answer = bills.usage(client, subscriber, span, _now_us(), audit, reference)
    _show(as_json, present.usage_plain(answer), lambda to: present.print_usage(to, answer))


@billing.command("sessions")
def billing_sessions(
    subscriber: Subscriber,
    period: PeriodText,
    as_json: AsJson = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Access sessions with their ends and connection time.

    Example: tallyhold billing sessions sub-0001 --period 2026-11
    """
    with _asking(config, period) as (client, span, audit):
        answer = bills.sessions(client, subscriber, span, _now_us(), audit, reference)
    _show(as_json, present.sessions_plain(answer), lambda to: present.print_sessions(to, answer))


@billing.command("calls")
def billing_calls(
    subscriber: Subscriber,
    period: PeriodText,
    as_json: AsJson = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Calls with outcome and talk time to the millisecond; withheld numbers stay withheld.

    Example: tallyhold billing calls sub-0009 --period 2026-11
    """
    with _asking(config, period) as (client, span, audit):
        answer = bills.calls(client, subscriber, span, _now_us(), audit, reference)
    _show(as_json, present.calls_plain(answer), lambda to: present.print_calls(to, answer))


@billing.command("export")
def billing_export(
    period: PeriodText,
    output_format: Annotated[Format, typer.Option("--format", help="File format.")] = Format.CSV,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; else stdout.")
    ] = None,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """One row for each subscriber, for the billing run. A file appears only when it is whole.

    Example: tallyhold billing export --period 2026-11 --format csv --output november.csv
    """
    with (
        _asking(config, period) as (client, span, audit),
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("Subscribers", total=None)
        rows = bills.export(
            client,
            span,
            _now_us(),
            audit,
            reference,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
        if output is None:
            _write_rows(sys.stdout, rows, output_format)
            return
        part = output.with_name(f".{output.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            _write_rows(file, rows, output_format)
        part.replace(output)
    typer.echo(f"wrote {output}", err=True)


@demand.command("busy-hour")
def busy_hour(
    period: PeriodText,
    area: Annotated[str, typer.Option("--area", help="One area only.")] = "",
    as_json: AsJson = False,
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Volume by area and hour, the busiest hour of each, with completeness.

    Example: tallyhold demand busy-hour --period 2026-11-22
    """
    with _asking(config, period) as (client, span, _):
        answer = demands.busy_hour(client, span, _now_us(), area)
    _show(as_json, present.busy_hour_plain(answer), lambda to: present.print_busy_hour(to, answer))


@contextmanager
def _asking(path: Path, period: str) -> Iterator[tuple[Client, Period, AuditFile]]:
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
    except StoreError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror}: {error.filename}")
    finally:
        if client:
            client.close()


def _show(as_json: bool, plain: dict[str, Any], table: Callable[[Console], None]) -> None:
    if as_json:
        json.dump(plain, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        table(Console())


def _write_rows(file: Any, rows: Iterator[dict[str, Any]], output_format: Format) -> None:
    if output_format is Format.JSON:
        json.dump(list(rows), file, indent=1)
        file.write("\n")
        return
    writer = csv.DictWriter(file, bills.EXPORT_COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula is quoted."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _now_us() -> int:
    return time.time_ns() // 1000


def load(path: Path) -> configuration.Config:
    """The configuration, or the end of the command with every problem of it."""
    try:
        return configuration.load(path)
    except configuration.ConfigError as error:
        fail(str(error), code=2)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with a message on stderr."""
    typer.echo(f"tallyhold: {message}", err=True)
    raise typer.Exit(code)
