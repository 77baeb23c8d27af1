"""`tallyhold appliance`, `billing` and `demand`: run the appliance and ask it."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aggregator import config as configuration
from aggregator import outfile, present
from aggregator.asking import asking, fail, load, now_us, progress_bar, show
from aggregator.options import AsJson, ConfigPath, PeriodText, Reference, Subscriber
from aggregator.queries import billing as bills
from aggregator.queries import demand as demands
from aggregator.queries import export as exports
from aggregator.statement import billing_statement

appliance = typer.Typer(no_args_is_help=True, add_completion=False)
billing = typer.Typer(no_args_is_help=True, add_completion=False)
demand = typer.Typer(no_args_is_help=True, add_completion=False)


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


class StaffRole(StrEnum):
    """What a person is for, as the retention service's certificates say it."""

    OPERATIONS = "operations"
    BILLING = "billing"
    DEMAND = "demand"
    FAULTS = "faults"
    LEGAL_REQUESTER = "legal-requester"
    LEGAL_APPROVER = "legal-approver"
    DPO = "dpo"
    AUDITOR = "auditor"


@appliance.command("staff")
def appliance_staff(
    name: Annotated[str, typer.Argument(help="The person's login name, e.g. amayer.")],
    role: Annotated[list[StaffRole], typer.Option("--role", help="What for; repeatable.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for ca.pem, NAME.pem and NAME.key.")
    ],
    days: Annotated[int, typer.Option(help="How long it lasts.", min=1, max=825)] = 800,
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Issue the certificate by which a person comes in to the retention service over HTTPS.

    With other roles than before, the certificate of before is revoked. One person has one name,
    here and as a login: who had two could approve their own requests.

    Example: tallyhold appliance staff amayer --role legal-requester --output amayer-pki
    """
    from aggregator.setup import SetupError, staff

    try:
        files = staff(load(config), name, [each.value for each in role], output, days)
    except SetupError as error:
        fail(str(error))
    for file in files:
        typer.echo(f"wrote {file}")


@appliance.command("revoke")
def appliance_revoke(
    name: Annotated[str, typer.Argument(help="Name of the collector or person, e.g. edge-1.")],
    staff: Annotated[bool, typer.Option("--staff", help="It is a person's certificate.")] = False,
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Refuse a collector's or a person's certificate from now on; the servers notice by themselves.

    Example: tallyhold appliance revoke edge-1
    """
    from aggregator.setup import SetupError, revoke

    try:
        serial = revoke(load(config), name, kind="staff" if staff else "collectors")
    except SetupError as error:
        fail(str(error))
    typer.echo(f"revoked certificate {serial:x} of {name}")


@appliance.command("run")
def appliance_run(config: ConfigPath = configuration.DEFAULT_PATH) -> None:
    """Run the engine, the aggregator and the retention service until SIGTERM or Ctrl-C.

    Example: tallyhold appliance run --config /etc/tallyhold/aggregator.toml
    """
    import asyncio
    import logging

    from aggregator.companion import Appliance
    from aggregator.service import STARTUP_ERRORS, run

    settings = load(config)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Appliance(settings)))
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
    hourly: Annotated[bool, typer.Option("--hourly", help="By hour instead of by day.")] = False,
    as_json: AsJson = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Bytes up and down by day or hour, with totals and completeness.

    Example: tallyhold billing usage sub-0001 --period 2026-11 --json
    """
    step: bills.Step = "hour" if hourly else "day"
    with asking(config, period) as (client, span, audit):
        answer = bills.usage(client, subscriber, span, now_us(), audit, reference, step)
    show(as_json, present.usage_plain(answer), lambda to: present.print_usage(to, answer))


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
    with asking(config, period) as (client, span, audit):
        answer = bills.sessions(client, subscriber, span, now_us(), audit, reference)
    show(as_json, present.sessions_plain(answer), lambda to: present.print_sessions(to, answer))


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
    with asking(config, period) as (client, span, audit):
        answer = bills.calls(client, subscriber, span, now_us(), audit, reference)
    show(as_json, present.calls_plain(answer), lambda to: present.print_calls(to, answer))


@billing.command("export")
def billing_export(
    period: PeriodText,
    output_format: Annotated[Format, typer.Option("--format", help="File format.")] = Format.CSV,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; else stdout.")
    ] = None,
    octets: Annotated[
        bool,
        typer.Option(
            "--octets", help="Hold the NAS's octets of each session against what was metered."
        ),
    ] = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """One row for each subscriber, for the billing run. A file appears only when it is whole.

    With --octets four columns more: sessions whose octets agree, differ and cannot be judged, and
    how they differ. It asks several statements more for each subscriber whose NAS counts.

    Example: tallyhold billing export --period 2026-11 --format csv --output november.csv
    """
    if output is not None and not output.parent.is_dir():
        fail(f"{output.parent}: no such folder", code=2)
    with asking(config, period) as (client, span, audit), progress_bar() as progress:
        rows = exports.export(client, span, now_us(), audit, reference, progress, octets)
        columns = exports.EXPORT_COLUMNS + (exports.OCTET_COLUMNS if octets else ())
        with nullcontext(sys.stdout) if output is None else outfile.whole_file(output) as file:
            outfile.write_rows(file, rows, columns, output_format.value)
    if output is not None:
        typer.echo(f"wrote {output}", err=True)


billing.command("statement")(billing_statement)


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
    with asking(config, period) as (client, span, _):
        answer = demands.busy_hour(client, span, now_us(), area)
    show(as_json, present.busy_hour_plain(answer), lambda to: present.print_busy_hour(to, answer))
