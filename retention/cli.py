"""`tallyhold audit`: what a reader of the audit log, and its witness, need.

Exit codes: 2 where the command or a key is wrong, 1 where the log is, or cannot be read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from retention import asking, present
from retention import config as configuration
from retention.audit import proofs, show
from retention.audit import verify as verification
from retention.audit.canonical import CanonicalError
from retention.audit.checkpoint import LOG, WITNESS, Key, NoteError
from retention.audit.log import LogError, LogReader
from retention.audit.witness import Witness, WitnessError

audit = typer.Typer(no_args_is_help=True, help="Prove, verify and witness the audit log.")
retention = typer.Typer(no_args_is_help=True, add_completion=False)

MAX_TAIL = 10_000
"""Leaves printed at once; more is a job for a copy of the folder."""


def _key_of(kind: int, word: str) -> Callable[[str], Key]:
    def parse(text: str) -> Key:
        try:
            key = Key.parse(text)
        except NoteError as error:
            raise typer.BadParameter(str(error)) from None
        if key.kind != kind:
            raise typer.BadParameter(f"not the key of a {word}")
        return key

    return parse


Folder = Annotated[
    Path, typer.Argument(help="The log's folder or a copy of it.", exists=True, file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LOG_KEY_HELP = "The log's key as text, name+id+base64, got from elsewhere than the log."


def _fail(text: str, code: int = 1) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(code)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What is wrong with a log or its folder, in words."""
    try:
        yield
    except (LogError, CanonicalError, NoteError) as error:
        _fail(f"{folder}: {error}; see: tallyhold audit verify {folder}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")


@audit.callback()
def _audit() -> None:
    """Prove, verify and witness the audit log.

    Example: tallyhold audit verify /var/lib/tallyhold/audit
    """


@audit.command("tail")
def audit_tail(
    folder: Folder,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=MAX_TAIL, help="Leaves.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the last leaves, oldest first; they hold no personal data.

    Example: tallyhold audit tail /var/lib/tallyhold/audit -n 50
    """
    log = LogReader(folder)
    with _reading(folder):
        log.load()
        leaves = log.tail(lines)
    for index, leaf in leaves:
        typer.echo(json.dumps({"index": index, **leaf}) if as_json else show.line(index, leaf))


@audit.command("prove")
def audit_prove(
    folder: Folder,
    index: Annotated[int | None, typer.Argument(min=0, help="Index of the leaf.")] = None,
    purge: Annotated[str, typer.Option(help="Or the purge whose destruction to prove.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print the proof that a leaf is in the log, which holds without the log (C2SP tlog-proof).

    With --purge: of the leaf that says it destroyed and of its certificates, and these as well.

    Example: tallyhold audit prove /var/lib/tallyhold/audit --purge P-2026-000001 > proof
    """
    if (index is None) == (not purge):
        raise typer.BadParameter("an index or --purge is needed")
    log = LogReader(folder)
    with _reading(folder):
        log.load()
        if index is None:
            proved = proofs.of_purge(log, purge)
            shown = proofs.text(proved)
        else:
            proved = proofs.of_leaf(log, index)
            shown = proved["proof"]
    typer.echo(json.dumps(proved) + "\n" if as_json else shown, nl=False)


@audit.command("verify")
def audit_verify(
    folder: Folder,
    log_key: Annotated[
        Key | None,
        typer.Option(metavar="VKEY", parser=_key_of(LOG, "log"), help=_LOG_KEY_HELP),
    ] = None,
    witness_key: Annotated[
        list[Key] | None,
        typer.Option(
            metavar="VKEY",
            parser=_key_of(WITNESS, "witness"),
            help="Key of a witness that must have signed; repeatable.",
        ),
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--kept", "--since", help="A checkpoint kept from before, which the log must extend."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of the log, then from its leaves that nothing was done that must not be.

    Exits 0 if nothing is wrong and 1 if something is, with a line for each finding.

    Example: tallyhold audit verify /var/lib/tallyhold/audit --kept last.checkpoint
    """
    with _reading(folder):
        before = kept.read_bytes() if kept else None
        meter = show.Meter(sys.stderr)
        report = verification.verify(folder, log_key, witness_key or [], before, meter)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        typer.echo("\n".join(report.lines()))
    raise typer.Exit(0 if report.good else 1)


@audit.command("witness")
def audit_witness(
    folder: Folder,
    state: Annotated[
        Path, typer.Option(help="The witness's own folder: its key and what it saw last.")
    ],
    name: Annotated[str, typer.Option(help="The witness's name, e.g. auditor.example/w1.")],
    log_key: Annotated[
        Key | None,
        typer.Option(metavar="VKEY", parser=_key_of(LOG, "log"), help=_LOG_KEY_HELP),
    ] = None,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the witness's public key and stop.")
    ] = False,
) -> None:
    """Countersign the log's checkpoint on the auditor's host, and print it.

    Refuses a log that was cut back or forked since this witness last saw it. Give the printed
    checkpoint to the operator, and keep it: `audit verify --kept` takes it.

    Example: tallyhold audit witness ./copy --state ~/witness --name a.example/w1 --log-key VKEY
    """
    witness = Witness(state, name, lambda: int(time.time()))
    try:
        if show_key:
            typer.echo(str(witness.signer().key))
            return
        if log_key is None:
            _fail("--log-key is needed: a witness must know whose log it signs", code=2)
        sys.stdout.write(witness.cosign(folder, log_key))
    except (WitnessError, NoteError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")


ConfigPath = Annotated[
    Path, typer.Option("--config", "-c", envvar="TALLYHOLD_RETENTION_CONFIG", help="TOML file.")
]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]


def _settings(path: Path) -> configuration.Config:
    try:
        return configuration.load(path)
    except configuration.ConfigError as error:
        _fail(str(error), asking.USAGE)


@retention.callback()
def _retention(ctx: typer.Context, service: Service = "") -> None:
    """Run the retention service, check its configuration, see how it is, confirm its clock.

    Example: tallyhold retention status
    """
    ctx.obj = service


@retention.command("serve")
def retention_serve(config: ConfigPath = configuration.DEFAULT_PATH) -> None:
    """Run the service that keeps, destroys and proves, until SIGTERM or Ctrl-C.

    Example: tallyhold retention serve --config /etc/tallyhold/retention.toml
    """
    import asyncio
    import logging

    settings = _settings(config)
    # Not before: a configuration can be wrong where the service's packages are not installed.
    from retention.service import STARTUP_ERRORS, Retention, run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Retention(settings)))
    except STARTUP_ERRORS as error:
        _fail(str(error))


@retention.command("check-config")
def retention_check_config(
    config: ConfigPath = configuration.DEFAULT_PATH,
    dump: Annotated[bool, typer.Option("--dump", help="Print the effective settings.")] = False,
) -> None:
    """Report every problem of the configuration at once, or print what it comes to.

    Example: tallyhold retention check-config --dump
    """
    settings = _settings(config)
    if dump:
        typer.echo(json.dumps(configuration.dump(settings), indent=1))
        return
    for hint in configuration.hints(settings):
        typer.echo(f"hint: {hint}", err=True)
    typer.echo(f"{config}: no problem found")


@retention.command("status")
def retention_status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """How the service is: whether it can destroy, its clock, holds, and what hangs.

    Example: tallyhold retention status --json
    """
    service = asking.service(ctx.obj)
    answer = service.get("/v1/health")
    asking.show(as_json, answer, lambda to: present.print_values(to, answer))


@retention.command("confirm-clock")
def retention_confirm_clock(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say that the clock is right, after it jumped; nothing is destroyed until somebody does.

    Compare it with another clock than this machine's first. Takes operations or dpo, and is logged.

    Example: tallyhold retention confirm-clock
    """
    service = asking.service(ctx.obj)
    present.print_values(asking.aside(), service.get("/v1/clock"))
    asking.confirmed("Is that the right time (UTC)?", yes=yes)
    answer = service.post("/v1/clock/confirm", {})
    asking.show(as_json, answer, lambda to: present.print_values(to, answer))


@retention.command("reconcile")
def retention_reconcile(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Destroy again what a restored backup brought back, but for what a hold wants now.

    The service does it by itself every few minutes; run this before anybody reads a restored store.
    Takes operations, and is logged.

    Example: tallyhold retention reconcile
    """
    answer = asking.service(ctx.obj).post("/v1/purge/reconcile", {})
    asking.show(as_json, answer, lambda to: present.print_values(to, answer))


@retention.command("witness")
def retention_witness(
    ctx: typer.Context,
    enrol: Annotated[str, typer.Option(metavar="VKEY", help="Key of a witness to enrol.")] = "",
    note: Annotated[
        Path | None, typer.Option(help="Checkpoint that a witness signed.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the log's checkpoint, or enrol a witness, or hand in what it signed.

    The witness itself runs `tallyhold audit witness` on a host of its own.

    Example: tallyhold retention witness --note signed.checkpoint
    """
    service = asking.service(ctx.obj)
    body = {"key": enrol} if enrol else {}
    try:
        body |= {"note": note.read_text(encoding="utf-8")} if note else {}
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{note}: {error}", asking.USAGE)
    answer = (
        service.post("/v1/audit/witness", body) if body else service.get("/v1/audit/checkpoint")
    )
    asking.show(as_json, answer, lambda to: present.print_values(to, answer))
