"""`tallyhold faults`: one line and outages, by asking the service."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from retention import asking
from retention.present import Answer, line, table, when

faults = typer.Typer(no_args_is_help=True, add_completion=False)

Context = typer.Context
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]
Period = Annotated[
    str, typer.Option("--period", "-p", help="2026-11, 2026-11-22, or 2026-11-01/2026-11-08; UTC.")
]


@faults.callback()
def _faults(ctx: Context, service: Service = "") -> None:
    """What went wrong on a line, and where many lines fell at once. Takes the role faults.

    Exit codes: 0 answered, 1 failed, 2 the command is wrong, 3 refused, 4 no service.

    Example: tallyhold faults outages --period 2026-11-22
    """
    ctx.obj = service


@faults.command("line")
def faults_line(
    ctx: Context,
    subscriber: Annotated[str, typer.Argument(help="The operator's opaque reference.")],
    period: Period,
    reference: Annotated[
        str, typer.Option("--reference", "-r", help="Ticket; goes into the audit log.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Sessions, ends with causes, flaps, gaps and failed calls of one line on one timeline.

    Telephone numbers are not shown. The look-up is in the audit log before it is answered.

    Example: tallyhold faults line sub-0001 --period 2026-11-22 --reference T-4711
    """
    body = {"subscriber": subscriber, "period": period, "reference": reference or None}
    answer = asking.service(ctx.obj).post("/v1/faults/line", body)
    asking.show(as_json, answer, lambda to: _print_line(to, answer))


@faults.command("outages")
def faults_outages(
    ctx: Context,
    period: Period,
    lines: Annotated[int, typer.Option(help="Fewest lines that are an outage.", min=2)] = 5,
    share: Annotated[
        float, typer.Option(help="Least share of a place's lines.", min=0, max=1)
    ] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Many lines of one port, NAS or area that ended together, with the causes.

    Areas are those of [faults.areas] in the service's configuration.

    Example: tallyhold faults outages --period 2026-11-22 --lines 10
    """
    body = {"period": period, "lines": lines, "share": share}
    answer = asking.service(ctx.obj).post("/v1/faults/outages", body)
    asking.show(as_json, answer, lambda to: _print_outages(to, answer))


def _print_line(console: Console, answer: Answer) -> None:
    rows = [
        (
            when(each["at"]),
            each["what"],
            each["detail"],
            f"{each.get('nas', '')} {each.get('line', '')}".strip(),
            each.get("until") or each.get("until_at_latest") or "",
        )
        for each in answer["timeline"]
    ]
    title = f"Line of {answer['subscriber']} in {answer['period']} (UTC)"
    table(console, title, ("At", "What", "Detail", "Where", "Until"), rows)
    line(
        console,
        f"{answer['sessions']} sessions, {answer['drops']} falls, {answer['flaps']} times flapping,"
        f" {answer['calls_failed']} calls failed, connected {answer['connected_s']:,.0f} s",
    )
    line(console, f"completeness {answer['completeness']:.2%}")


def _print_outages(console: Console, answer: Answer) -> None:
    rows = [
        (
            when(each["start"]),
            when(each["end"]),
            each["kind"],
            each["place"],
            f"{each['lines']} of {each['of_lines']}",
            ", ".join(f"{cause} {count}" for cause, count in each["causes"].items()),
            ", ".join(f"{part['place']} ({part['lines']})" for part in each["parts"]),
        )
        for each in answer["outages"]
    ]
    headings = ("From", "Until", "Kind", "Place", "Lines", "Causes", "Parts")
    table(console, f"Outages in {answer['period']} (UTC)", headings, rows, (4,))
    if not rows:
        line(console, "No lines ended together.")
