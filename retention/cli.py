"""`tallyhold audit`: what a reader of the audit log, and its witness, need.

Exit codes: 2 where the command or a key is wrong, 1 where the log is, or cannot be read.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from retention.audit import verify as verification
from retention.audit.canonical import CanonicalError
from retention.audit.checkpoint import LOG, WITNESS, Key, NoteError
from retention.audit.log import LogError, LogReader
from retention.audit.witness import Witness, WitnessError

audit = typer.Typer(no_args_is_help=True, help="Prove, verify and witness the audit log.")

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


def _load(folder: Path) -> LogReader:
    log = LogReader(folder)
    try:
        log.load()
    except LogError as error:
        _fail(f"{folder}: {error}; see: tallyhold audit verify {folder}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    return log


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
    log = _load(folder)
    try:
        leaves = log.tail(lines)
    except (LogError, CanonicalError) as error:
        _fail(f"{folder}: {error}; see: tallyhold audit verify {folder}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    for index, leaf in leaves:
        if as_json:
            typer.echo(json.dumps({"index": index, **leaf}))
            continue
        when = dt.datetime.fromtimestamp(leaf["at"] / 1e6, dt.UTC).isoformat(" ", "seconds")
        fields = {name: leaf[name] for name in leaf if name not in ("v", "kind", "at")}
        typer.echo(f"{index}  {when}  {leaf['kind']}  {json.dumps(fields)}")


@audit.command("prove")
def audit_prove(
    folder: Folder,
    index: Annotated[int, typer.Argument(min=0, help="Index of the leaf.")],
    as_json: AsJson = False,
) -> None:
    """Print the proof that a leaf is in the log, which holds without the log (C2SP tlog-proof).

    Example: tallyhold audit prove /var/lib/tallyhold/audit 41 > leaf-41.tlog-proof
    """
    log = _load(folder)
    try:
        proof, leaf = log.prove(index), log.entry(index)
    except LogError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps({"index": index, "leaf": leaf.decode(), "proof": proof}))
    else:
        typer.echo(proof, nl=False)


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
        typer.Option(help="A checkpoint kept from before, which the log must extend."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of the log, then from its leaves that nothing was done that must not be.

    Exits 0 if nothing is wrong and 1 if something is, with a line for each finding.

    Example: tallyhold audit verify /var/lib/tallyhold/audit --kept last.checkpoint
    """
    try:
        before = kept.read_bytes() if kept else None
        report = verification.verify(folder, log_key, witness_key or [], before)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
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
