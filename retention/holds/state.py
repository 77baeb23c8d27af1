"""The states of a hold and who may move it: a hold and an action in, the next hold out. Pure.

    submit
      |                        protects at once, by one person's word
    AwaitingApproval           reject: Rejected; 72 hours: Lapsed; its date: Expired
      | approve                another person
    AwaitingPreservation
      | settle
    Preserved or PreservationNotAvailable
      |                        its date: Expired; extension: by one, approved by another
      |                        review: by any one person; it ends nothing
      | request_release        called off by any one person (cancel_release)
      | approve_release        twice, by two people, neither of them a requester
      | 7 days
    Cancelled

Every state above Cancelled in this column protects until a transition ends it, whatever the dates
say: `due` names the transition that time has made due, and somebody has to apply it with `end`.
Nothing narrows a scope or shortens a hold. Times are microseconds UTC; HoldRefused says why a step
is not taken.
"""

from __future__ import annotations

from dataclasses import replace

from retention.holds import scope
from retention.holds.draft import Draft, check, check_text
from retention.holds.errors import HoldRefused
from retention.holds.rules import (
    APPROVED,
    DPO,
    ENDS,
    MAX_REVIEW_US,
    ROLES,
    Action,
    Actor,
    Due,
    Ending,
    due,
    review_overdue,
    upcoming,
)
from retention.holds.wording import next_step
from retention.model import NEVER, Approval, Extension, Hold, Release, State

__all__ = [
    "Action",
    "Actor",
    "Draft",
    "Due",
    "Ending",
    "HoldRefused",
    "approval",
    "approve",
    "approve_extension",
    "approve_release",
    "cancel_extension",
    "cancel_release",
    "due",
    "end",
    "next_step",
    "reject",
    "reject_extension",
    "request_extension",
    "request_release",
    "review",
    "review_overdue",
    "settle",
    "submit",
    "upcoming",
]


def submit(draft: Draft, id: str, actor: Actor, now_us: int) -> Hold:
    """A new hold, which protects from now on. Raises HoldRefused, ScopeError."""
    _allow(Action.PLACE, actor)
    check(draft, now_us)
    items = draft.scope if draft.resolve else tuple(map(scope.literal, draft.scope))
    return Hold(
        id=id,
        matter=draft.matter,
        basis=draft.basis,
        authority=draft.authority,
        reference=draft.reference,
        order_sha256=draft.order_sha256,
        served_us=draft.served_us,
        requested=approval(actor, now_us),
        scope=items,
        state=State.AWAITING_APPROVAL,
        resolve=draft.resolve,
        all_sharers=draft.all_sharers,
        expires_us=draft.expires_us,
        review_by_us=draft.review_by_us,
        confidential=draft.confidential,
    )


def approve(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The submission approved by another person; all sharers of an address take the dpo."""
    _allow(Action.APPROVE, actor)
    _in_time(hold, now_us)
    _in_state(hold, State.AWAITING_APPROVAL, "this hold does not wait for an approval")
    _another(actor, hold.requested, "nobody approves a hold that they requested")
    if hold.all_sharers and actor.role != DPO:
        raise HoldRefused(
            "not-allowed",
            "a hold on all sharers of an address takes the data protection officer's approval",
        )
    return replace(hold, state=State.AWAITING_PRESERVATION, approved=approval(actor, now_us))


def reject(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The submission rejected, which ends it at once. After the approval only a release does."""
    _allow(Action.REJECT, actor)
    _in_time(hold, now_us)
    _in_state(
        hold,
        State.AWAITING_APPROVAL,
        "only a hold that waits for its approval can be rejected; request its release instead",
    )
    _another(actor, hold.requested, "nobody rejects a hold that they requested")
    return replace(hold, state=State.REJECTED, ended_us=now_us)


def settle(hold: Hold, missed: tuple[str, ...] = ()) -> Hold:
    """The hold after its scope was resolved and compared with what had been destroyed before.

    missed: ids of purges that destroyed, before the hold had them, rows of its classes and times.
    Before the approval the state stays: what is missed is told at once all the same.
    """
    if not hold.protects:
        raise HoldRefused("ended", "the hold has ended")
    unavailable = tuple(dict.fromkeys((*hold.unavailable, *missed)))
    state = hold.state
    if state in APPROVED:
        state = State.PRESERVATION_NOT_AVAILABLE if unavailable else State.PRESERVED
    return replace(hold, state=state, unavailable=unavailable)


def request_extension(hold: Hold, actor: Actor, expires_us: int | None, now_us: int) -> Hold:
    """A later expiry requested, None for no expiry at all; it takes another person's approval."""
    _allow(Action.EXTEND, actor)
    _in_time(hold, now_us)
    _in_force(hold)
    if hold.release:
        raise HoldRefused("release-waiting", "a release is under way; cancel it first")
    if hold.extension:
        raise HoldRefused("extension-waiting", "an extension waits already; it is to be approved")
    if hold.expires_us is None:
        raise HoldRefused("no-change", "this hold does not expire; an earlier end is a release")
    if expires_us is None and hold.review_by_us is None:
        raise HoldRefused("no-end", "a hold without a review date needs a date of expiry")
    if expires_us is not None and not max(hold.expires_us, now_us) < expires_us <= NEVER:
        raise HoldRefused("not-later", "an extension ends later than before; else it is a release")
    return replace(hold, extension=Extension(approval(actor, now_us), expires_us))


def approve_extension(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The extension approved by another person than asked for it."""
    _allow(Action.APPROVE, actor)
    _in_time(hold, now_us)
    extension = _extension(hold)
    _another(actor, extension.requested, "nobody approves an extension that they requested")
    return replace(hold, expires_us=extension.expires_us, extension=None)


def reject_extension(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The extension turned down by another person; the hold stays as it is."""
    _allow(Action.REJECT, actor)
    _in_time(hold, now_us)
    requested = _extension(hold).requested
    _another(actor, requested, "nobody rejects an extension that they requested; cancel it instead")
    return replace(hold, extension=None)


def cancel_extension(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The extension taken back by who requested it; the hold stays as it is."""
    _allow(Action.CANCEL_EXTENSION, actor)
    _in_time(hold, now_us)
    if _extension(hold).requested.person != actor.person:
        raise HoldRefused(
            "other-person", "only its requester takes an extension back; others reject it"
        )
    return replace(hold, extension=None)


def review(hold: Hold, actor: Actor, review_by_us: int, now_us: int) -> Hold:
    """Looked at by one person, and to be looked at again by a later day; it protects as before."""
    _allow(Action.REVIEW, actor)
    _in_time(hold, now_us)
    if not hold.protects:
        raise HoldRefused("ended", "the hold has ended")
    if not now_us < review_by_us <= now_us + MAX_REVIEW_US:
        raise HoldRefused("bad-review", "the next review is in the future, within two years")
    return replace(hold, review_by_us=review_by_us)


def request_release(hold: Hold, actor: Actor, reason: str, now_us: int) -> Hold:
    """A release requested; it takes two other people and then seven days."""
    _allow(Action.RELEASE, actor)
    _in_time(hold, now_us)
    _in_force(hold)
    check_text("reason", reason)
    if hold.release:
        raise HoldRefused("release-waiting", "a release is under way already")
    if hold.extension:
        raise HoldRefused(
            "extension-waiting", "an extension waits; approve or reject it before a release"
        )
    return replace(hold, release=Release(approval(actor, now_us), (), reason))


def approve_release(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """One of the two approvals of a release: by neither requester, and each by another person."""
    _allow(Action.APPROVE, actor)
    _in_time(hold, now_us)
    release = _release(hold)
    _another(actor, release.requested, "nobody approves a release that they requested")
    _another(actor, hold.requested, "the requester of a hold does not approve its release")
    if len(release.approvals) >= 2:
        raise HoldRefused("already-approved", "two people have approved this release")
    for other in release.approvals:
        _another(actor, other, "a release takes two different people; you have approved it")
    approvals = (*release.approvals, approval(actor, now_us))
    return replace(hold, release=replace(release, approvals=approvals))


def cancel_release(hold: Hold, actor: Actor, now_us: int) -> Hold:
    """The release called off, which takes one person at any time before it has taken effect."""
    _allow(Action.CANCEL_RELEASE, actor)
    _in_time(hold, now_us)
    _release(hold)
    return replace(hold, release=None)


def end(hold: Hold, now_us: int) -> tuple[Ending, Hold]:
    """The hold ended by what is due; raises HoldRefused if nothing is."""
    found = due(hold, now_us)
    if found is None:
        raise HoldRefused("not-due", "nothing is due for this hold")
    return found.ending, replace(hold, state=ENDS[found.ending], ended_us=now_us)


def approval(actor: Actor, now_us: int) -> Approval:
    """That an actor does something now."""
    return Approval(actor.person, str(actor.role), now_us)


def _allow(action: Action, actor: Actor) -> None:
    if actor.role not in ROLES[action]:
        roles = " or ".join(ROLES[action])
        raise HoldRefused("not-allowed", f"{action} takes the role {roles}")


def _another(actor: Actor, other: Approval, text: str) -> None:
    if actor.person == other.person:
        raise HoldRefused("same-person", text)


def _in_time(hold: Hold, now_us: int) -> None:
    """What time has ended cannot be acted on, whether or not the end was applied already."""
    found = due(hold, now_us)
    if found:
        raise HoldRefused("overdue", f"the hold was to end ({found.ending}) before this action")


def _in_state(hold: Hold, state: State, text: str) -> None:
    if hold.state is not state:
        raise HoldRefused("wrong-state", text)


def _in_force(hold: Hold) -> None:
    if hold.state not in APPROVED:
        raise HoldRefused("wrong-state", "this takes a hold that was approved and has not ended")


def _extension(hold: Hold) -> Extension:
    if not hold.protects or hold.extension is None:
        raise HoldRefused("nothing-waits", "no extension of this hold waits")
    return hold.extension


def _release(hold: Hold) -> Release:
    if not hold.protects or hold.release is None:
        raise HoldRefused("nothing-waits", "no release of this hold was requested")
    return hold.release
