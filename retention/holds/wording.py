"""What happens next to a hold, and when, in plain words. Pure."""

from __future__ import annotations

import datetime as dt

from retention.holds.rules import Ending, review_overdue, upcoming
from retention.model import PROTECT_US, RELEASE_US, Hold, State


def next_step(hold: Hold, now_us: int) -> str:
    """What happens next and when, in plain words."""
    if not hold.protects:
        ended = f" on {_when(hold.ended_us)}" if hold.ended_us else ""
        return f"Nothing: the hold ended{ended} and protects nothing any more."
    coming = upcoming(hold)
    parts = [_waiting(hold)]
    if coming and coming.at_us <= now_us:
        parts.append(f"It was to end ({coming.ending}) on {_when(coming.at_us)}, and will soon.")
    elif coming and coming.ending is Ending.EXPIRE:
        parts.append(f"Expires on {_when(coming.at_us)}.")
    elif not coming:
        parts.append("Protects until it is released.")
    if review_overdue(hold, now_us):
        parts.append(f"Its review is overdue since {_when(hold.review_by_us)}; it protects on.")
    elif hold.review_by_us is not None:
        parts.append(f"To be reviewed by {_when(hold.review_by_us)}.")
    return " ".join(part for part in parts if part)


def _waiting(hold: Hold) -> str:
    """What the hold waits for from people."""
    if hold.state is State.AWAITING_APPROVAL:
        who = "the data protection officer" if hold.all_sharers else "a legal approver or the dpo"
        until = _when(hold.requested.at_us + PROTECT_US)
        return (
            f"Protects already. Waits for the approval of another person ({who})"
            f" and lapses on {until} without it."
        )
    if hold.extension:
        later = hold.extension.expires_us
        until = f"to {_when(later)}" if later is not None else "without an end"
        return f"An extension {until} waits for the approval of another person."
    if hold.release:
        missing = 2 - len(hold.release.approvals)
        if missing > 0:
            people = "two people" if missing == 2 else "one more person"
            return f"A release waits for the approval of {people}, and takes effect 7 days later."
        at = max(approval.at_us for approval in hold.release.approvals) + RELEASE_US
        return f"Will be released on {_when(at)}; until then any one person can cancel that."
    if hold.state is State.AWAITING_PRESERVATION:
        return "Protects; its scope is still to be resolved through binding history."
    return ""


def _when(at_us: int | None) -> str:
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us or 0)
    return at.strftime("%Y-%m-%d %H:%M UTC")
