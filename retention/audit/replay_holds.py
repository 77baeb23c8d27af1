"""Replays hold leaves: who may do what when, the generation, and that evidence only grows.

submitted ─┬─ approved ── release-requested ── two approvals, 7 days ── released
           ├─ rejected        └── release-cancelled: as before
           ├─ lapsed, 72 h without an approval
           └─ expired, at its date
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from retention.audit.canonical import Leaf

if TYPE_CHECKING:
    from retention.audit.replay_purges import Purges

DAY_US: Final = 86_400_000_000
PROTECT_US: Final = 3 * DAY_US
"""How long one person's submission protects without an approval."""
RELEASE_US: Final = 7 * DAY_US
"""From the second approval of a release to the release."""

Place = tuple[str, str]
"""Class and partition."""
Wrong = Callable[[str, str], None]

_ENDS: Final = ("hold.rejected", "hold.lapsed", "hold.released", "hold.expired")
_SAME_GENERATION: Final = (
    "hold.evidence",
    "hold.release-requested",
    "hold.release-approved",
    "hold.release-cancelled",
)


@dataclass
class Hold:
    """One hold as the leaves so far have it."""

    requester: str
    submitted: int
    scope: list[Leaf]
    expires: int | None
    approved: bool = False
    ended: int | None = None
    """Time of the leaf that ended it; until then it protects, whatever its dates say."""
    release_requester: str = ""
    release_approvers: dict[str, int] = field(default_factory=dict)
    """Who approved the release, and when."""
    evidence: dict[Place, tuple[int, str]] = field(default_factory=dict)
    """Rows and root that the latest evidence states."""

    def meets(self, kind: str, earliest: int, end: int) -> bool:
        """Whether it can protect a row of this class within [earliest, end)."""
        return any(
            kind in item["classes"] and item["from"] < end and earliest < item["to"]
            for item in self.scope
        )


class Holds:
    """All holds, and the generation."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self.all: dict[str, Hold] = {}
        self.generation = 0

    def active(self) -> dict[str, Hold]:
        """Holds that protect now."""
        return {name: hold for name, hold in self.all.items() if hold.ended is None}

    def meeting(self, kind: str, earliest: int, end: int) -> dict[str, Hold]:
        """Active holds that can protect a row of this class within [earliest, end)."""
        return {n: hold for n, hold in self.active().items() if hold.meets(kind, earliest, end)}

    def step(self, leaf: Leaf, purges: Purges) -> None:
        """Take one hold leaf."""
        kind = leaf["kind"]
        due = self.generation + (kind not in _SAME_GENERATION)
        if leaf["generation"] != due:
            self._wrong("generation", f"{kind} has generation {leaf['generation']}, not {due}")
        self.generation = max(due, leaf["generation"])
        if kind not in _SAME_GENERATION and purges.underway():
            self._wrong("interleaved", f"{kind} while a purge was neither finished nor failed")
        if kind == "hold.submitted":
            self._submitted(leaf)
            return
        hold = self.all.get(leaf["hold"])
        if hold is None:
            self._wrong("hold-state", f"{kind} for a hold that was never submitted")
        elif hold.ended is not None:
            self._wrong("hold-state", f"{kind} for a hold that had ended")
        else:
            _HANDLERS[kind](self, hold, leaf, purges)
            if kind in _ENDS:
                hold.ended = leaf["at"]

    def _submitted(self, leaf: Leaf) -> None:
        if leaf["hold"] in self.all:
            self._wrong("hold-state", "a hold submitted twice")
            return
        self.all[leaf["hold"]] = Hold(
            leaf["requester"], leaf["at"], list(leaf["scope"]), leaf["expires"]
        )

    def _grown(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        hold.scope += leaf["scope"]

    def _approved(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.approved:
            self._wrong("hold-state", "a hold approved twice")
        if leaf["approver"] == hold.requester:
            self._wrong("self-approval", "a hold approved by its requester")
        hold.approved = True

    def _rejected(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.approved:
            self._wrong("hold-state", "a hold rejected after its approval; that is a release")
        if leaf["approver"] == hold.requester:
            self._wrong("self-approval", "a hold rejected by its requester")

    def _lapsed(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.approved:
            self._wrong("hold-state", "an approved hold lapsed")
        if leaf["at"] < hold.submitted + PROTECT_US:
            self._wrong("lapse", "a hold lapsed before its 72 hours were over")

    def _extended(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if leaf["approver"] == leaf["requester"]:
            self._wrong("self-approval", "an extension approved by its requester")
        new = leaf["expires"]
        if new is not None and (hold.expires is None or new < hold.expires):
            self._wrong("extension", "an extension that ends a hold earlier; that is a release")
        hold.expires = new

    def _release_requested(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.release_requester:
            self._wrong("hold-state", "a release requested while another was")
        hold.release_requester, hold.release_approvers = leaf["requester"], {}

    def _release_approved(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if not hold.release_requester:
            self._wrong("hold-state", "a release approved that nobody requested")
        if leaf["approver"] == hold.release_requester:
            self._wrong("self-approval", "a release approved by its requester")
        elif leaf["approver"] in hold.release_approvers:
            self._wrong("two-people", "a release approved twice by one person")
        else:
            hold.release_approvers[leaf["approver"]] = leaf["at"]

    def _release_cancelled(self, hold: Hold, _leaf: Leaf, _: Purges) -> None:
        if not hold.release_requester:
            self._wrong("hold-state", "a release cancelled that nobody requested")
        hold.release_requester, hold.release_approvers = "", {}

    def _released(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        approvals = sorted(hold.release_approvers.values())
        if len(approvals) < 2:
            self._wrong("two-people", "a hold released without two people's approval")
        elif leaf["at"] < approvals[1] + RELEASE_US:
            self._wrong("release-delay", "a hold released before its seven days were over")

    def _expired(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.expires is None or leaf["at"] < hold.expires:
            self._wrong("expiry", "a hold expired before its date, or without one")

    def _preserved(self, _hold: Hold, _leaf: Leaf, _: Purges) -> None:
        """What is preserved is what evidence and purges state; the state itself claims nothing."""

    def _unavailable(self, _hold: Hold, leaf: Leaf, purges: Purges) -> None:
        if not leaf["purges"] or not set(leaf["purges"]) <= purges.dropped_ids():
            self._wrong("unavailable", "data called destroyed without a logged destruction")

    def _evidence(self, hold: Hold, leaf: Leaf, purges: Purges) -> None:
        place = (leaf["class"], leaf["partition"])
        rows, root = leaf["rows"], leaf["root"]
        before = hold.evidence.get(place, (0, ""))
        if rows < before[0]:
            self._wrong("held-destroyed", f"{before[0] - rows} rows of an active hold are gone")
        if rows == before[0] > 0 and root != before[1]:
            self._wrong("held-changed", "rows of an active hold changed: the root is another")
        kept = purges.kept_for(place, leaf["hold"])
        if kept is not None and rows < kept:
            self._wrong("held-destroyed", f"{kept - rows} rows kept for a hold are gone")
        hold.evidence[place] = (rows, root)


_HANDLERS: Final[dict[str, Callable[[Holds, Hold, Leaf, Purges], None]]] = {
    "hold.grown": Holds._grown,
    "hold.approved": Holds._approved,
    "hold.rejected": Holds._rejected,
    "hold.lapsed": Holds._lapsed,
    "hold.extended": Holds._extended,
    "hold.release-requested": Holds._release_requested,
    "hold.release-approved": Holds._release_approved,
    "hold.release-cancelled": Holds._release_cancelled,
    "hold.released": Holds._released,
    "hold.expired": Holds._expired,
    "hold.preserved": Holds._preserved,
    "hold.unavailable": Holds._unavailable,
    "hold.evidence": Holds._evidence,
}
