"""Replays what people do to the dates of a hold: reviews, and extensions from wish to approval.

in force ── extension-requested ─┬─ extended, by another person
                                 ├─ extension-rejected, by another person
                                 └─ extension-cancelled, by who requested it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from retention.audit.canonical import Leaf

if TYPE_CHECKING:
    from retention.audit.replay_holds import Hold

Wrong = Callable[[str, str], None]


class Wish(NamedTuple):
    """A later end that somebody wants; no `expires` is no end by itself."""

    requester: str
    expires: int | None


def _reviewed(wrong: Wrong, hold: Hold, leaf: Leaf) -> None:
    if leaf["review_by"] <= leaf["at"]:
        wrong("review", "a hold reviewed, and the next review is before that")
    hold.review_by = leaf["review_by"]


def _requested(wrong: Wrong, hold: Hold, leaf: Leaf) -> None:
    if not hold.approved:
        wrong("hold-state", "an extension of a hold that nobody approved")
    if hold.extension:
        wrong("hold-state", "an extension requested while another was")
    if _is_earlier(hold, leaf["expires"]):
        wrong("extension", "an extension that ends a hold earlier; that is a release")
    hold.extension = Wish(leaf["requester"], leaf["expires"])


def _extended(wrong: Wrong, hold: Hold, leaf: Leaf) -> None:
    if leaf["approver"] == leaf["requester"]:
        wrong("self-approval", "an extension approved by its requester")
    if hold.extension != Wish(leaf["requester"], leaf["expires"]):
        wrong("hold-state", "an extension approved that nobody requested so")
    if not hold.approved:
        wrong("hold-state", "an extension of a hold that nobody approved")
    if _is_earlier(hold, leaf["expires"]):
        wrong("extension", "an extension that ends a hold earlier; that is a release")
    hold.expires, hold.extension = leaf["expires"], None


def _rejected(wrong: Wrong, hold: Hold, leaf: Leaf) -> None:
    if not hold.extension:
        wrong("hold-state", "an extension rejected that nobody requested")
    elif leaf["approver"] == hold.extension.requester:
        wrong("self-approval", "an extension rejected by its requester")
    hold.extension = None


def _cancelled(wrong: Wrong, hold: Hold, leaf: Leaf) -> None:
    if not hold.extension or leaf["actor"] != hold.extension.requester:
        wrong("hold-state", "an extension taken back by one who did not request it")
    hold.extension = None


def _is_earlier(hold: Hold, expires: int | None) -> bool:
    return expires is not None and (hold.expires is None or expires < hold.expires)


DATES: Final[dict[str, Callable[[Wrong, Hold, Leaf], None]]] = {
    "hold.reviewed": _reviewed,
    "hold.extension-requested": _requested,
    "hold.extended": _extended,
    "hold.extension-rejected": _rejected,
    "hold.extension-cancelled": _cancelled,
}
