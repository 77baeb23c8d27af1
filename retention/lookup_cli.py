"""`tallyhold lookup`: who had an address and port at a time, by asking the service."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Final

import typer

from retention import asking, lookup_tables

lookup = typer.Typer(add_completion=False)

_UNITS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(ms|s|min|m|h|)")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter("a duration such as 2s, 500ms or 1m is needed")
    return float(found[1]) * _UNITS[found[2]]


def _instant(text: str) -> str:
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter("an instant with its zone is needed: 2026-11-22T14:03:07Z")
    return at.isoformat()


@lookup.command()
def lookup_command(
    address: Annotated[str, typer.Argument(help="IPv4 or IPv6 address, as the other side saw it.")],
    at: Annotated[str, typer.Option("--at", help="When, with its zone.", callback=_instant)],
    reference: Annotated[
        str, typer.Option("--reference", "-r", help="What it is asked under; goes into the log.")
    ],
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", help="Source port that was seen.", min=0, max=65535),
    ] = None,
    proto: Annotated[str, typer.Option("--proto", help="tcp, udp, ... or a number.")] = "",
    tolerance: Annotated[
        str, typer.Option("--tolerance", help="How far the time may be off: 2s, 500ms, 1m.")
    ] = "2s",
    hold: Annotated[
        str,
        typer.Option("--hold", help="Order in force whose rows in the vault are looked up too."),
    ] = "",
    as_json: AsJson = False,
    service: Service = "",
) -> None:
    """Who had an address (and port) at a time: everybody who can have, and how sure that is.

    \b
    CERTAIN    one can have had it, and it is proven over the whole tolerance
    BOUNDED    one can, but the proof ends before, begins after or was inferred
    AMBIGUOUS  several can; a shared address without --port is never answered with a name
    GAP        records that would tell are lost, destroyed or not delivered yet
    NONE       nobody had it, and nothing is known to be missing

    What only holds keep, past its period, is looked at where --hold names the order: approved, in
    force, of a court or for production. It sees what that order protects and nothing else.

    Each look-up, refused ones too, is in the audit log before it is answered. Takes the role
    legal-requester, legal-approver or dpo.

    Exit codes: 0 answered, 1 failed, 2 the command is wrong, 3 refused, 4 no service.

    Example: tallyhold lookup 192.0.2.7 --port 40123 --proto tcp --at 2026-11-22T14:03:07Z -r R-17
    """
    body = {
        "address": address,
        "port": port,
        "proto": proto or None,
        "at": at,
        "tolerance_s": _seconds(tolerance),
        "reference": reference,
        "hold": hold or None,
    }
    answer = asking.service(service).post("/v1/lookup", body)
    asking.show(as_json, answer, lambda to: lookup_tables.print_lookup(to, answer))
