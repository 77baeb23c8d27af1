"""`tallyhold safeguard`: what SafeGuard counted, what it cost, and whether its promise is kept.

Exit codes: 0 good, 1 not good or failed, 2 the command or a configuration is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aggregator import config as configuration
from aggregator.asking import fail, load, now_us, show
from aggregator.outfile import whole_file
from aggregator.queries.arithmetic import Period, PeriodError, parse_period
from aggregator.reader import advice, reader
from aggregator.store.client import Client, StoreError, Unavailable
from collector.wire.releases import MICRO
from retention.audit.canonical import CanonicalError
from retention.audit.checkpoint import Key, NoteError
from retention.audit.log import LogError
from safeguard import document as documents
from safeguard import figures, keys, leaves, ledger, plots, present, rules, stored
from safeguard import verify as verification
from safeguard.prove import cli as proving

app = typer.Typer(no_args_is_help=True, add_completion=False)

ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="TALLYHOLD_CONFIG", help="The appliance's TOML.")
]
PeriodText = Annotated[
    str, typer.Option("--period", "-p", help="2026-11, 2026-11-22, or FROM/TO; UTC.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
KeyFile = Annotated[
    Path,
    typer.Option("--key-file", help="The key that signs; made at its first use.", dir_okay=False),
]
LogFolder = Annotated[
    Path | None,
    typer.Option("--log", help="An audit log's folder, to compare with.", file_okay=False),
]


@app.callback()
def _safeguard() -> None:
    """Anonymous block counts: report, ledger, proof, and their verification.

    Example: tallyhold safeguard report --period 2026-11-22
    """


@app.command("report")
def safeguard_report(
    period: PeriodText,
    config: ConfigPath = configuration.DEFAULT_PATH,
    key_file: KeyFile = keys.DEFAULT_KEY,
    output: Annotated[
        Path | None, typer.Option(help="Write the signed report there.", dir_okay=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with drawings there.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Numbers of households that met a block, with error bars, and what they cost.

    --json prints the signed report, as --output writes it. Nothing is signed that `verify` would
    find something in.

    Example: tallyhold safeguard report -p 2026-11-22 --output report.json --html report.html
    """
    with _plainly(), _asking(config, period) as (client, span, settings):
        terms = figures.Terms(
            made_us=now_us(),
            start_us=span.start_us,
            end_us=span.end_us,
            budget_micro=round(settings.safeguard.daily_budget * MICRO),
            day_us=settings.safeguard.day_s * MICRO,
        )
        made = figures.report(stored.releases(client, span.start_us, span.end_us), terms)
        broken = [f"{text} [{rule}]" for rule, text in rules.judge(made)]
        if broken:
            fail("the tables break these rules, so nothing is signed:\n" + "\n".join(broken[:20]))
        data = documents.seal(made, keys.signer(key_file)).decode()
        for path, text in ((output, data), (html, plots.page(made))):
            if path is not None:
                with whole_file(path) as file:
                    file.write(text)
    if as_json:
        sys.stdout.write(data)
    else:
        present.print_report(Console(), made)


@app.command("ledger")
def safeguard_ledger(
    period: PeriodText,
    config: ConfigPath = configuration.DEFAULT_PATH,
    log: LogFolder = None,
    as_json: AsJson = False,
) -> None:
    """What each day cost a household, against the budget; with --log, what the log has otherwise.

    Exits 1 where a day cost too much or the log says something else.

    Example: tallyhold safeguard ledger -p 2026-11 --log /var/lib/tallyhold/retention/audit
    """
    with _plainly(), _asking(config, period) as (client, span, settings):
        entries = stored.entries(client, span.start_us, span.end_us)
        budget = round(settings.safeguard.daily_budget * MICRO)
        day_us = settings.safeguard.day_s * MICRO
        days, wrong = ledger.days(entries, day_us), ledger.wrong(entries, budget, day_us)
        if log is not None:
            told, twice = leaves.windows(log)
            wrong += [f"{twice} releases have two leaves in the log"] if twice else []
            wrong += ledger.unlike(entries, told)
            wrong += ledger.gone(entries, told, span.start_us, span.end_us)

    def table(console: Console) -> None:
        present.print_days(console, days, budget)
        for text in wrong:
            console.print(text, style="red", markup=False)

    show(as_json, {"budget_micro": budget, "days": days, "findings": wrong}, table)
    raise typer.Exit(1 if wrong else 0)


@app.command("verify")
def safeguard_verify(
    report: Annotated[Path, typer.Argument(help="A report or a proof.", dir_okay=False)],
    key: Annotated[
        str, typer.Option(metavar="VKEY", help="The key that must have signed, from elsewhere.")
    ] = "",
    log: LogFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check a signed report or proof, anywhere: it takes no database and no network.

    A report is worked out anew from its own parameters: ids, charges, error bars, thresholds, every
    cell of the public domain. A proof has every check, and none that failed.

    Example: tallyhold safeguard verify safeguard-report.json --key VKEY
    """
    with _plainly():
        expected = Key.parse(key) if key else None
        with report.open("rb") as file:
            data = file.read(documents.MAX_DOCUMENT + 1)
        told = leaves.windows(log)[0] if log is not None else None
    verdict = verification.verify(data, expected, told)
    show(as_json, verdict.as_json(), lambda to: _lines(to, verdict.lines()))
    raise typer.Exit(0 if verdict.good else 1)


app.command("prove")(proving.prove)
app.command("canary")(proving.canary)


@app.command("key")
def safeguard_key(key_file: KeyFile = keys.DEFAULT_KEY) -> None:
    """Print the public key that reports are signed with, to be published elsewhere than with them.

    Example: tallyhold safeguard key
    """
    with _plainly():
        typer.echo(str(keys.signer(key_file).key))


def _lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _asking(path: Path, period: str) -> Iterator[tuple[Client, Period, configuration.Config]]:
    """A connection that can only read, and the period."""
    settings = load(path)
    try:
        span = parse_period(period)
    except PeriodError as error:
        fail(str(error), code=2)
    client = None
    try:
        client = reader(settings)
        yield client, span, settings
    except Unavailable as error:
        fail(f"{error}; {advice(settings, path)}")
    finally:
        if client:
            client.close()


_ERRORS: tuple[type[Exception], ...] = (
    StoreError, stored.StoredError, documents.DocumentError, keys.KeyFileError, NoteError, LogError,
    CanonicalError,
)  # fmt: skip


@contextmanager
def _plainly() -> Iterator[None]:
    """What goes wrong, in words."""
    try:
        yield
    except _ERRORS as error:
        fail(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
