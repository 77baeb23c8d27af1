"""Who may do what with a hold, and what time does to it: the tables behind `state.py`. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from retention.model import DAY_US, PROTECT_US, RELEASE_US, Hold, State

REQUESTER: Final = "legal-requester"
APPROVER: Final = "legal-approver"
DPO: Final = "dpo"


class Actor(NamedTuple):
    """Who acts, and in which role."""

    person: str
    role: str


class Action(StrEnum):
    """What people do with holds; also the `action` of a refusal in the audit log."""

    PLACE = "hold.place"
    APPROVE = "hold.approve"
    REJECT = "hold.reject"
    EXTEND = "hold.extend"
    CANCEL_EXTENSION = "hold.cancel-extension"
    REVIEW = "hold.review"
    RELEASE = "hold.release"
    CANCEL_RELEASE = "hold.cancel-release"


ROLES: Final = {
    Action.PLACE: (REQUESTER,),
    Action.APPROVE: (APPROVER, DPO),
    Action.REJECT: (APPROVER, DPO),
    Action.EXTEND: (REQUESTER,),
    Action.CANCEL_EXTENSION: (REQUESTER,),
    Action.REVIEW: (REQUESTER, APPROVER, DPO),
    Action.RELEASE: (REQUESTER,),
    Action.CANCEL_RELEASE: (REQUESTER, APPROVER, DPO),
}
MAX_REVIEW_US: Final = 731 * DAY_US
"""How far ahead a review is put off at once; a hold that nobody looks at keeps data for good."""
APPROVED: Final = frozenset(
    {State.AWAITING_PRESERVATION, State.PRESERVED, State.PRESERVATION_NOT_AVAILABLE}
)
"""States after the approval in which a hold protects."""


class Ending(StrEnum):
    """How time ends a hold."""

    LAPSE = "lapse"
    EXPIRE = "expire"
    RELEASE = "release"


ENDS: Final = {
    Ending.LAPSE: State.LAPSED,
    Ending.EXPIRE: State.EXPIRED,
    Ending.RELEASE: State.CANCELLED,
}


class Due(NamedTuple):
    """A transition that time makes, and the instant from which it is due."""

    ending: Ending
    at_us: int


def due(hold: Hold, now_us: int) -> Due | None:
    """The transition that time has made due, the earliest of them; None for none."""
    coming = upcoming(hold)
    return coming if coming and coming.at_us <= now_us else None


def upcoming(hold: Hold) -> Due | None:
    """The transition that time will make next if nobody does anything; None for none."""
    if not hold.protects:
        return None
    found = []
    if hold.state is State.AWAITING_APPROVAL:
        found.append(Due(Ending.LAPSE, hold.requested.at_us + PROTECT_US))
    if hold.release and len(hold.release.approvals) >= 2:
        second = max(approval.at_us for approval in hold.release.approvals)
        found.append(Due(Ending.RELEASE, second + RELEASE_US))
    if hold.expires_us is not None:
        found.append(Due(Ending.EXPIRE, hold.expires_us))
    return min(found, key=lambda each: each.at_us, default=None)


def review_overdue(hold: Hold, now_us: int) -> bool:
    """Whether its review is late. That is told, and changes nothing."""
    return hold.protects and hold.review_by_us is not None and hold.review_by_us < now_us
