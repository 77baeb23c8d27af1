"""`tallyhold hold`: place, approve, check and release legal holds, by asking the service."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Context

from retention import asking, present
from retention.holds import placing
from retention.holds.scopefile import Written
from retention.model import Kind, State

hold = typer.Typer(no_args_is_help=True, add_completion=False)


def _ids(ctx: Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of holds for the shell, with their state; none where the service is down."""
    named = ctx.parent.params.get("service") if ctx.parent else ""
    holds = asking.listed(asking.quietly(named or "", "/v1/holds"), "holds")
    found = [(str(each.get("id", "")), str(each.get("state", ""))) for each in holds]
    return [pair for pair in found if pair[0].startswith(incomplete)]


def _words(words: Iterable[str]) -> Any:
    """A completion with fixed words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


HoldId = Annotated[
    str, typer.Argument(help="Id of the hold, e.g. H-2026-0001.", autocompletion=_ids)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Service = Annotated[
    str, typer.Option("--service", envvar=asking.SERVICE_VARIABLE, help=asking.SERVICE_HELP)
]
Many = list[str] | None
KINDS = (
    Kind.SUBSCRIBER, Kind.ACCOUNT, Kind.LINE, Kind.ADDRESS, Kind.NUMBER, Kind.USER, Kind.SESSION,
)  # fmt: skip


def _identifier(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Identifiers (others see them: --scope-file)")


@hold.callback()
def _hold(ctx: Context, service: Service = "") -> None:
    """Place, approve, check and release legal holds.

    A hold keeps records that would be destroyed at the end of their period. From the moment one
    person has placed it, it protects; it lapses after 72 hours unless another person approves it.

    \b
    1. tallyhold hold place --scope-file who.csv   asks for the rest, then what to confirm
    2. tallyhold hold approve H-2026-0001          another person, within 72 hours
    3. tallyhold hold coverage H-2026-0001         what is kept, and what was destroyed before
    4. tallyhold hold release H-2026-0001 --reason "case closed"
    5. tallyhold hold approve H-2026-0001          two others; it ends 7 days after the second

    Every answer ends with what happens next, and when. All times are UTC. `tallyhold hold COMMAND
    --help` explains each step, with an example.

    Exit codes: 0 done, 1 failed, 2 the command is wrong, 3 refused by a rule, 4 the service
    cannot be reached.

    Example: tallyhold hold list
    """
    ctx.obj = service


Basis = Annotated[
    str,
    typer.Option(help=f"Why: {', '.join(placing.BASES)}.", autocompletion=_words(placing.BASES)),
]
Order = Annotated[
    Path | None, typer.Option(help="The order; only its SHA-256 is sent.", dir_okay=False)
]
ScopeFile = Annotated[
    str, typer.Option("--scope-file", "-f", metavar="FILE|-", help="Identifiers, CSV or TOML.")
]
Address = Annotated[Many, _identifier("Address, prefix, or ADDRESS:PORT, [IPV6]:PORT; repeatable.")]
Classes = Annotated[
    Many,
    typer.Option(
        "--class",
        help="Only these records; repeatable. Else all that an identifier can be in.",
        autocompletion=_words(placing.CLASSES),
    ),
]
Literal = Annotated[
    bool, typer.Option("--literal", help="Only these identifiers, not what they were bound to.")
]
AllSharers = Annotated[
    bool, typer.Option("--all-sharers", help="Everyone behind a shared address; DPO approves.")
]


@hold.command("place", help=placing.HELP)
def hold_place(
    ctx: Context,
    matter: Annotated[str, typer.Option(help="The case it is for.")] = "",
    basis: Basis = "",
    authority: Annotated[str, typer.Option(help="Who ordered or asked for it.")] = "",
    reference: Annotated[str, typer.Option(help="Their reference.")] = "",
    order: Order = None,
    served: Annotated[str, typer.Option(help="When it was served on you: day or instant.")] = "",
    start: Annotated[str, typer.Option("--from", help="First day, or instant with zone.")] = "",
    end: Annotated[str, typer.Option("--to", help="Last day (whole), instant or never.")] = "",
    expires: Annotated[str, typer.Option(help="Last day it protects; it ends by itself.")] = "",
    review_by: Annotated[str, typer.Option(help="Day to look at it again; it stays.")] = "",
    scope_file: ScopeFile = "",
    subscriber: Annotated[Many, _identifier("Opaque reference; repeatable.")] = None,
    account: Annotated[Many, _identifier("Chargeable-User-Identity; repeatable.")] = None,
    line: Annotated[Many, _identifier("NAS-Port-Id; repeatable.")] = None,
    address: Address = None,
    number: Annotated[Many, _identifier("Telephone number, +44…; repeatable.")] = None,
    user: Annotated[Many, _identifier("User name, with realm or without; repeatable.")] = None,
    session: Annotated[Many, _identifier("Acct-Session-Id; repeatable.")] = None,
    ports: Annotated[str, _identifier("Public ports of the address: 4000 or 4000-4999.")] = "",
    classes: Classes = None,
    literal: Literal = False,
    all_sharers: AllSharers = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Place a hold, from options, a file or what is typed when asked; see `placing.HELP`."""
    values = (subscriber, account, line, address, number, user, session)
    typed = placing.Typed(
        facts={
            "matter": matter,
            "basis": basis,
            "authority": authority,
            "reference": reference,
            "served": served,
            "expires": expires,
            "review_by": review_by,
        },
        identifiers=[
            Written(f"--{kind}", kind, value)
            for kind, given in zip(KINDS, values, strict=True)
            for value in given or ()
        ],
        stated=Written("", "", "", start, end, tuple(classes or ()), ports),
        scope_file=scope_file,
        order=order,
        literal=literal,
        all_sharers=all_sharers,
    )
    body = placing.request(typed)
    asking.say("A hold will be placed; from then on nothing of it is destroyed:")
    present.print_hold(asking.aside(), body)
    asking.confirmed("Place this hold?", yes=yes)
    _show(as_json, asking.service(ctx.obj).post_once("/v1/holds", body))


def _show(as_json: bool, answer: Any) -> None:
    asking.show(as_json, answer, lambda to: present.print_hold(to, answer))


def _path(hold_id: str, action: str = "") -> str:
    return "/".join(("/v1/holds", asking.quoted(hold_id), *([action] if action else [])))


@hold.command("list")
def hold_list(
    ctx: Context,
    state: Annotated[
        str, typer.Option(help="In this state, as AwaitingApproval.", autocompletion=_words(State))
    ] = "",
    as_json: AsJson = False,
) -> None:
    """All holds, each with what happens next and when.

    Example: tallyhold hold list --state AwaitingApproval
    """
    if state and state not in list(State):
        asking.fail(f"--state: one of {', '.join(State)}", asking.USAGE)
    answer = asking.service(ctx.obj).get("/v1/holds", {"state": state} if state else {})
    asking.show(as_json, answer, lambda to: present.print_holds(to, asking.listed(answer, "holds")))


@hold.command("show")
def hold_show(ctx: Context, hold_id: HoldId, as_json: AsJson = False) -> None:
    """One hold in full: who asked and approved, its scope, what happens next and when.

    Example: tallyhold hold show H-2026-0001
    """
    _show(as_json, asking.service(ctx.obj).get(_path(hold_id)))


@hold.command("approve")
def hold_approve(ctx: Context, hold_id: HoldId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Approve what waits: the hold itself, an extension of it, or its release.

    Nobody approves what they asked for. A release takes two people, and then seven days.

    Example: tallyhold hold approve H-2026-0001
    """
    service = asking.service(ctx.obj)
    waiting = service.get(_path(hold_id))
    present.print_hold(asking.aside(), waiting)
    asking.confirmed(f"Approve {present.waiting(waiting)}?", yes=yes)
    _show(as_json, service.post(_path(hold_id, "approve"), {}))


@hold.command("reject")
def hold_reject(
    ctx: Context,
    hold_id: HoldId,
    reason: Annotated[
        str,
        typer.Option(
            help=f"One of: {', '.join(placing.REASONS)}.", autocompletion=_words(placing.REASONS)
        ),
    ],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Reject what waits: a hold that was placed, or an extension; what you asked for, cancel.

    A rejected hold protects nothing any more: what is due is destroyed in the next run. After its
    approval only a release ends a hold; a release is undone with cancel-release.

    Example: tallyhold hold reject H-2026-0001 --reason too-wide
    """
    if reason not in placing.REASONS:
        asking.fail(f"--reason: one of {', '.join(placing.REASONS)}", asking.USAGE)
    service = asking.service(ctx.obj)
    waiting = service.get(_path(hold_id))
    present.print_hold(asking.aside(), waiting)
    asking.confirmed(f"Reject {present.waiting(waiting)}?", yes=yes)
    _show(as_json, service.post(_path(hold_id, "reject"), {"reason": reason}))


@hold.command("extend")
def hold_extend(
    ctx: Context,
    hold_id: HoldId,
    expires: Annotated[
        str, typer.Option(help='New last day it protects, or "never" for no end by itself.')
    ],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a later expiry; another person approves it. Until then the old one stands.

    `tallyhold hold cancel-extension` takes the request back.

    Example: tallyhold hold extend H-2026-0001 --expires 2027-12-31
    """
    until = None if expires == "never" else placing.when("--expires", expires, is_end=True)
    shown = present.end(until) if until else "without expiry"
    asking.confirmed(f"Ask that {hold_id} protects {shown}?", yes=yes)
    _show(as_json, asking.service(ctx.obj).post(_path(hold_id, "extend"), {"expires": until}))


@hold.command("cancel-extension")
def hold_unasked(ctx: Context, hold_id: HoldId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Take back an extension that you asked for and nobody has approved; the hold stays as it is.

    Example: tallyhold hold cancel-extension H-2026-0001
    """
    asking.confirmed(f"Take back the extension asked for {hold_id}?", yes=yes)
    _show(as_json, asking.service(ctx.obj).post(_path(hold_id, "cancel-extension"), {}))


@hold.command("review")
def hold_review(
    ctx: Context,
    hold_id: HoldId,
    review_by: Annotated[str, typer.Option(help="Day by which to look at it again.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Say that you looked at a hold and it is still needed, and by when to look at it again.

    It protects as before, also where the review is late. What is no longer needed you release.

    Example: tallyhold hold review H-2026-0001 --review-by 2027-06-30
    """
    until = placing.when("--review-by", review_by, is_end=True)
    service = asking.service(ctx.obj)
    present.print_hold(asking.aside(), service.get(_path(hold_id)))
    asking.confirmed(f"{hold_id} is still needed; review it again by {review_by}?", yes=yes)
    _show(as_json, service.post(_path(hold_id, "review"), {"review_by": until}))


@hold.command("release")
def hold_release(
    ctx: Context,
    hold_id: HoldId,
    reason: Annotated[str, typer.Option(help="Why it is no longer needed.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Ask for the end of a hold. Two other people approve it; it ends seven days later.

    Until then anybody of the three legal roles can undo it: `tallyhold hold cancel-release`.

    Example: tallyhold hold release H-2026-0001 --reason "proceedings ended"
    """
    service = asking.service(ctx.obj)
    present.print_hold(asking.aside(), service.get(_path(hold_id)))
    asking.confirmed(f"Ask for the release of {hold_id}?", yes=yes)
    _show(as_json, service.post(_path(hold_id, "release"), {"reason": reason}))


@hold.command("cancel-release")
def hold_go_on(ctx: Context, hold_id: HoldId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Undo a release that was asked for or approved. One person is enough.

    Example: tallyhold hold cancel-release H-2026-0001
    """
    asking.confirmed(f"Undo the release of {hold_id}?", yes=yes)
    _show(as_json, asking.service(ctx.obj).post(_path(hold_id, "cancel-release"), {}))


@hold.command("coverage")
def hold_coverage(ctx: Context, hold_id: HoldId, as_json: AsJson = False) -> None:
    """What a hold keeps, by class and day, and what had been destroyed before it was placed.

    Example: tallyhold hold coverage H-2026-0001
    """
    answer = asking.service(ctx.obj).get(_path(hold_id, "coverage"))
    asking.show(as_json, answer, lambda to: present.print_coverage(to, answer))
