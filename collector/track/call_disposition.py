"""Disposition: turns how a call failed into the word for it and who ended it."""

from __future__ import annotations

from typing import Final

from collector.track.call_rules import State

ANSWERED: Final = "ANSWERED"
UNCONFIRMED: Final = "ANSWERED_UNCONFIRMED"
CANCELLED: Final = "CANCELLED"
NO_ANSWER: Final = "NO_ANSWER"
FAILED: Final = "FAILED"
PARTIAL: Final = "PARTIAL"
RETRIED: Final = {State.CHALLENGED: "UNAUTHORISED", State.MOVED: "REDIRECTED"}
"""Of a leg that waited for a retry which did not come, by its state."""

_BY_STATUS: Final = {
    486: "BUSY",
    600: "BUSY",
    408: NO_ANSWER,
    480: NO_ANSWER,
    487: CANCELLED,
    403: "REJECTED",
    433: "REJECTED",
    603: "REJECTED",
    607: "REJECTED",
    608: "REJECTED",
}
_CANCEL_FINALS: Final = frozenset((401, 407, 408, 422, 487, 494))
"""Finals that after a CANCEL say no more than that the caller gave up."""
_RELEASED_BY: Final = {CANCELLED: "caller", "BUSY": "callee", "REJECTED": "callee"}


def of_final(status: int, cancelling: bool) -> tuple[str, str]:
    """(disposition, who released) by a final response, 300 to 699, that ended the call.

    Who released is "" where the network or a fault did, or where nobody can tell.
    """
    if cancelling and (status in _CANCEL_FINALS or status < 400):
        disposition = CANCELLED
    else:
        disposition = _BY_STATUS.get(status, FAILED)
    return disposition, _RELEASED_BY.get(disposition, "")
