"""`tallyhold policy`: what is kept how long and why; checks, comparisons, published texts."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from retention import asking, present, tables
from retention.policy import load, publish, report
from retention.policy.model import Policy

policy = typer.Typer(no_args_is_help=True, add_completion=False)

Context = typer.Context

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]
OwnFile = Annotated[
    Path | None,
    typer.Option("--file", help="A policy file, instead of asking the service.", dir_okay=False),
]
PolicyFile = Annotated[Path, typer.Argument(help="Policy file (TOML).", dir_okay=False)]


@policy.callback()
def _policy(ctx: Context, service: Service = "") -> None:
    """How long what is kept, for which purpose, on what basis; and the texts made from it.

    `show` and `report` may reveal that a retention notice is in force, which is an offence to
    disclose (IPA 2016 s.95). The text of `notice` is for the public and never does.

    Example: tallyhold policy show
    """
    ctx.obj = service


def _load(path: Path) -> Policy:
    try:
        return load.load(path, time.time_ns() // 1000)
    except load.PolicyError as error:
        asking.fail(str(error), asking.USAGE)


@policy.command("show")
def policy_show(ctx: Context, file: OwnFile = None, as_json: AsJson = False) -> None:
    """The periods in force, with the purpose and basis of each.

    Example: tallyhold policy show --file /etc/tallyhold/policy.toml
    """
    if file is None:
        answer = asking.service(ctx.obj).get("/v1/policy")
    else:
        found = _load(file)
        answer = {"digest": found.digest, **found.plain()}
    asking.show(as_json, answer, lambda to: tables.print_policy(to, answer))


@policy.command("check")
def policy_check(file: PolicyFile, as_json: AsJson = False) -> None:
    """Report every problem of a policy file at once; exits 2 if there is one.

    Example: tallyhold policy check /etc/tallyhold/policy.toml
    """
    problems: list[str] = []
    try:
        digest = load.load(file, time.time_ns() // 1000).digest
    except load.PolicyError as error:
        problems, digest = error.problems, ""
        if not as_json:
            asking.fail(str(error), asking.USAGE)
    answer = {"file": str(file), "good": not problems, "digest": digest, "problems": problems}
    asking.show(
        as_json,
        answer,
        lambda to: present.line(to, f"{file}: no problem found; digest {digest}"),
    )
    if problems:
        raise typer.Exit(asking.USAGE)


@policy.command("diff")
def policy_diff(
    old: Annotated[Path, typer.Argument(help="Policy file in force.", dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="Policy file to come.", dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """What a new policy would keep longer, destroy sooner or state otherwise.

    Example: tallyhold policy diff /etc/tallyhold/policy.toml draft.toml
    """
    answer = report.diff(_load(old), _load(new))
    asking.show(as_json, answer, lambda to: tables.print_diff(to, answer))


@policy.command("report")
def policy_report(ctx: Context, file: OwnFile = None, as_json: AsJson = False) -> None:
    """By class: the oldest day there is, what is due or overdue, and alarms.

    With --file it is judged as if nothing were stored: which notices are about to end.

    Example: tallyhold policy report --json
    """
    answer: Any
    if file is None:
        answer = asking.service(ctx.obj).get("/v1/policy/report")
    else:
        answer = report.report(_load(file), (), time.time_ns() // 1000)
    asking.show(as_json, answer, lambda to: tables.print_report(to, answer))


@policy.command("notice")
def policy_notice(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Policy file; else the appliance's.", dir_okay=False),
    ] = None,
    article_30: Annotated[
        bool, typer.Option("--article-30", help="The register of processing (UK GDPR article 30).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the text for customers, or the register of processing, made from the policy file.

    A stored column that no line of it explains is an error, so the text cannot fall behind what is
    stored.

    Example: tallyhold policy notice --file /etc/tallyhold/policy.toml > privacy-notice.md
    """
    path = file or (load.DEFAULT_PATH if load.DEFAULT_PATH.exists() else load.PACKAGED)
    if file is None:
        asking.say(f"made from {path}")
    found = _load(path)
    if article_30:
        lines = publish.article30(found)
        asking.show(as_json, lines, lambda to: tables.print_register(to, lines))
        return
    text = publish.notice_text(found)
    if as_json:
        asking.show(True, {"notice": text}, lambda to: None)
    else:
        sys.stdout.write(text)
