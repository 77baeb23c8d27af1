"""`tallyhold purge`: what is destroyed and why, running it, and the certificates of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from retention import asking, tables
from retention.destruction import compare

purge = typer.Typer(no_args_is_help=True, add_completion=False)

Context = typer.Context

POLL_S: Final = 1.0
"""Between two looks at a running purge; a partition takes seconds."""


def _purges(ctx: Context, incomplete: str) -> list[str]:
    """Ids of purges for the shell; none where the service is down."""
    parent = ctx.parent.params if ctx.parent else {}
    found = asking.quietly(parent.get("service") or "", "/v1/purge/status")
    return [
        each["id"]
        for each in asking.listed(found, "purges")
        if str(each.get("id", "")).startswith(incomplete)
    ]


CAP: Final = 64
"""More at once is a new policy or a wrong clock, which somebody should see."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]


@purge.callback()
def _purge(ctx: Context, service: Service = "") -> None:
    """What is destroyed, when and why: plan, run, status, certificates.

    Records are destroyed by partition (a class's day or month) once their period is over; what a
    hold matches is kept in the vault first. The service does this by itself; `run` does it now.

    Example: tallyhold purge plan
    """
    ctx.obj = service


@purge.command("plan")
def purge_plan(
    ctx: Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the partitions that are not due yet.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What would be destroyed now, what would be kept of it, and why. Changes nothing.

    Example: tallyhold purge plan --all
    """
    answer = asking.service(ctx.obj).get("/v1/purge/plan")
    asking.show(as_json, answer, lambda to: tables.print_plan(to, answer, everything=everything))


@purge.command("run")
def purge_run(
    ctx: Context,
    execute: Annotated[
        bool, typer.Option("--execute", help="Destroy. Without it this is a dry run.")
    ] = False,
    cap: Annotated[
        int, typer.Option(min=1, max=10_000, help="Partitions at most, oldest first.")
    ] = CAP,
    confirm: Annotated[
        int | None,
        typer.Option(help="Number of partitions, for scripts: instead of typing it when asked."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Destroy what is due, after a look at it and a number typed to confirm. A dry run by default.

    Ctrl-C stops the watching only: what was begun goes on in the service.

    Example: tallyhold purge run --execute --cap 5
    """
    service = asking.service(ctx.obj)
    plan = service.get("/v1/purge/plan", {"cap": cap})
    due = tables.due(plan)
    if not execute or not due:
        asking.show(as_json, plan, lambda to: tables.print_plan(to, plan))
        if due:
            asking.say(f"a dry run: with --execute {len(due)} partitions would be destroyed")
        return
    tables.print_plan(asking.aside(), plan)
    _confirm(len(due), confirm)
    # The number confirmed is the cap: a partition that falls due meanwhile waits for the next run.
    job = service.post("/v1/purge/run", {"cap": len(due), "dry_run": False})
    answer = _watch(service, job, len(due))
    asking.show(as_json, answer, lambda to: tables.print_run(to, answer))
    if tables.failures(answer):
        raise typer.Exit(asking.FAILED)


def _confirm(count: int, given: int | None) -> None:
    """Go on only with the number of partitions, typed or given."""
    if given is None:
        if not asking.interactive():
            asking.fail(
                f"nothing was destroyed: this is not a terminal, so nobody can confirm it; run it "
                f"again with --confirm {count}",
                asking.USAGE,
            )
        typed = asking.ask(
            f"{count} partitions will be destroyed. Type the number to go on", needed=False
        )
        given = int(typed) if typed.isascii() and typed.isdigit() else -1
    if given != count:
        asking.fail(f"nothing was destroyed: {count} partitions are due, not what was confirmed")


def _watch(service: asking.Service, job: Any, count: int) -> Any:
    """Follow a job until it ends; on Ctrl-C it goes on by itself and the command ends."""
    name = str(job["job"])
    try:
        with asking.progress("Partitions", count) as advance:
            while True:
                answer = service.get(f"/v1/purge/run/{asking.quoted(name)}")
                advance(tables.done(answer))
                if not tables.running(answer):
                    return answer
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        asking.say()
        asking.fail(
            f"job {name} goes on in the service; see: tallyhold purge status", asking.INTERRUPTED
        )


@purge.command("status")
def purge_status(ctx: Context, as_json: AsJson = False) -> None:
    """Purges by state: pending and what each waits for, final, failed and why.

    Example: tallyhold purge status --json
    """
    answer = asking.service(ctx.obj).get("/v1/purge/status")
    asking.show(as_json, answer, lambda to: tables.print_purges(to, answer))


@purge.command("certificate")
def purge_certificate(
    ctx: Context,
    purge_id: Annotated[
        str, typer.Argument(help="Id of the purge, e.g. P-2026-000001.", autocompletion=_purges)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write it to, byte for byte.")
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(help="A copy of the audit log to check it by.", exists=True, file_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The signed certificate of a purge: policy, counts, holds, evidence of each disk.

    With --verify its signature, its leaf in the log and all figures in both are compared; exits 1
    if anything differs. `tallyhold audit verify` proves the log itself.

    Example: tallyhold purge certificate P-2026-000001 -o p1.json --verify /mnt/copy-of-the-log
    """
    answer = asking.service(ctx.obj).get(f"/v1/purge/{asking.quoted(purge_id)}/certificate")
    try:
        data = compare.file_of(answer)
    except ValueError as error:
        asking.fail(f"the service's answer is not a certificate: {error}")
    if output is not None:
        try:
            output.write_bytes(data)
        except OSError as error:
            asking.fail(f"{output}: {error.strerror}")
        asking.say(f"wrote {output}")
    if as_json:
        asking.show(True, answer, lambda to: None)
    elif output is None:
        asking.show(False, answer, lambda to: tables.print_certificate(to, answer))
    if verify is not None:
        _verify(data, verify)


def _verify(data: bytes, folder: Path) -> None:
    try:
        wrong, index = compare.problems(data, folder)
    except compare.ERRORS as error:
        asking.fail(f"{folder}: {error}; see: tallyhold audit verify {folder}")
    except OSError as error:
        asking.fail(f"{error.filename}: {error.strerror}")
    for each in wrong:
        asking.say(f"WRONG: {each}")
    if wrong:
        raise typer.Exit(asking.FAILED)
    asking.say(f"good: signed by the log's key, stated by leaf {index}, all figures agree")
