"""Replays hold leaves: who may do what when, the generation, and that evidence only grows.

submitted ─┬─ approved ── release-requested ── two approvals, 7 days ── released
           ├─ rejected        └── release-cancelled: as before
           ├─ lapsed, 72 h without an approval
           └─ expired, at its date
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from retention.audit.canonical import Leaf
from retention.audit.merkle import EMPTY_ROOT
from retention.audit.replay_dates import DATES, Wish

if TYPE_CHECKING:
    from retention.audit.replay_purges import Purges

DAY_US: Final = 86_400_000_000
PROTECT_US: Final = 3 * DAY_US
"""How long one person's submission protects without an approval."""
RELEASE_US: Final = 7 * DAY_US
"""From the second approval of a release to the release."""
SLACK_US: Final = DAY_US
"""From the time at which a hold must end to the leaf that ends it; a service can be down."""

_LOOK_US: Final = 600_000_000
"""The service looks at its clock at least every five minutes; leaves may be newer than that."""

NO_ROWS: Final = EMPTY_ROOT.hex()

Place = tuple[str, str]
"""Class and partition."""
Wrong = Callable[[str, str], None]

_ENDS: Final = ("hold.rejected", "hold.lapsed", "hold.released", "hold.expired")
_SAME_GENERATION: Final = (
    "hold.evidence",
    "hold.reviewed",
    "hold.extension-requested",
    "hold.extension-rejected",
    "hold.extension-cancelled",
    "hold.release-requested",
    "hold.release-approved",
    "hold.release-cancelled",
)


_REQUESTER: Final = frozenset({"legal-requester"})
_APPROVER: Final = frozenset({"legal-approver", "dpo"})
_ROLES: Final = {
    "hold.submitted": _REQUESTER,
    "hold.reviewed": _REQUESTER | _APPROVER,
    "hold.extension-requested": _REQUESTER,
    "hold.extension-rejected": _APPROVER,
    "hold.extension-cancelled": _REQUESTER,
    "hold.release-requested": _REQUESTER,
    "hold.approved": _APPROVER,
    "hold.rejected": _APPROVER,
    "hold.release-approved": _APPROVER,
    "hold.release-cancelled": _REQUESTER | _APPROVER,
}


class Evidence(NamedTuple):
    """What a hold had of one partition when it was last counted."""

    rows: int
    root: str
    """Empty where later versions of the rows came since."""
    generation: int
    at: int


@dataclass
class Hold:
    """One hold as the leaves so far have it."""

    requester: str
    submitted: int
    all_sharers: bool
    expires: int | None
    review_by: int | None
    scope: list[tuple[int, Leaf]] = field(default_factory=list)
    """Items, each with the generation at which it came."""
    changed: int = 0
    """Generation at which the scope changed last."""
    approved: bool = False
    ended: int | None = None
    """Time of the leaf that ended it; until then it protects, whatever its dates say."""
    freed: int = 0
    """Time at which it was to end: rows are kept 31 days longer at most."""
    extension: Wish | None = None
    """A later end that waits for its approval."""
    release_requester: str = ""
    release_approvers: dict[str, int] = field(default_factory=dict)
    """Who approved the release, and when."""
    evidence: dict[Place, Evidence] = field(default_factory=dict)

    def meets(self, kind: str, earliest: int, latest: int) -> bool:
        """Whether it can protect a row of this class within [earliest, latest)."""
        return self.came_after(kind, earliest, latest, -1)

    def came_after(self, kind: str, earliest: int, latest: int, generation: int) -> bool:
        """Whether it does so by an item that came after a generation."""
        return any(
            since > generation
            and item["from"] < latest
            and earliest < item["to"]
            and kind in item["classes"]
            for since, item in self.scope
        )

    def grow(self, items: list[Leaf], generation: int) -> None:
        """Add to the scope."""
        self.scope += [(generation, item) for item in items]
        self.changed = generation

    def due(self) -> tuple[int, str] | None:
        """When it must end, and by what rule; None while it need not."""
        ends = [] if self.approved else [(self.submitted + PROTECT_US, "lapse")]
        if self.expires is not None:
            ends.append((self.expires, "expiry"))
        approvals = sorted(self.release_approvers.values())
        if len(approvals) > 1:
            ends.append((approvals[1] + RELEASE_US, "release-delay"))
        return min(ends, default=None)


class Holds:
    """All holds, and the generation."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self.all: dict[str, Hold] = {}
        self.generation = 0
        self.believed = 0
        """The latest time of a leaf that was written while the clock was trusted."""

    def active(self) -> dict[str, Hold]:
        """Holds that protect now."""
        return {name: hold for name, hold in self.all.items() if hold.ended is None}

    def meeting(self, kind: str, earliest: int, latest: int) -> dict[str, Hold]:
        """Active holds that can protect a row of this class within [earliest, latest)."""
        return {n: hold for n, hold in self.active().items() if hold.meets(kind, earliest, latest)}

    def concerned(self, place: Place, earliest: int, latest: int) -> dict[str, Hold]:
        """Those, and active holds that had rows of the partition when it was counted."""
        return {
            name: hold
            for name, hold in self.active().items()
            if hold.meets(place[0], earliest, latest)
            or (place in hold.evidence and hold.evidence[place].rows)
        }

    def covers(self, place: Place, rows: int) -> bool:
        """Whether one active hold has so many rows of a partition."""
        return any(
            hold.evidence[place].rows >= rows
            for hold in self.active().values()
            if place in hold.evidence
        )

    def versions_came(self, place: Place, held: list[Leaf]) -> None:
        """Note that late rows came, which can be later versions of rows counted before."""
        for item in held:
            hold = self.all.get(item["hold"])
            if hold and place in hold.evidence:
                hold.evidence[place] = hold.evidence[place]._replace(root="")

    def review_overdue(self, at: int) -> list[str]:
        """Active holds whose review was due before this time."""
        active = self.active().items()
        return [name for name, hold in active if hold.review_by and hold.review_by < at]

    def finish(self, at: int) -> None:
        """Say which holds should have ended when the log ends at this time."""
        for name, hold in self.active().items():
            due = hold.due()
            if due and at > due[0] + SLACK_US:
                self._wrong(due[1], f"hold {name} was to end and still protects")

    def step(self, leaf: Leaf, purges: Purges) -> None:
        """Take one hold leaf."""
        kind = leaf["kind"]
        due = self.generation + (kind not in _SAME_GENERATION)
        if leaf["generation"] != due:
            self._wrong("generation", f"{kind} has generation {leaf['generation']}, not {due}")
        self.generation = max(due, leaf["generation"])
        if kind not in _SAME_GENERATION and purges.underway():
            self._wrong("interleaved", f"{kind} while a purge was neither finished nor failed")
        if kind in _ROLES and leaf["role"] not in _ROLES[kind]:
            self._wrong("role", f"{kind} by one whose role does not allow it")
        if kind == "hold.submitted":
            self._submitted(leaf)
            return
        hold = self.all.get(leaf["hold"])
        if hold is None:
            self._wrong("hold-state", f"{kind} for a hold that was never submitted")
        elif hold.ended is not None:
            self._wrong("hold-state", f"{kind} for a hold that had ended")
        else:
            ends = hold.due()
            if kind in DATES:
                DATES[kind](self._wrong, hold, leaf)
            else:
                _HANDLERS[kind](self, hold, leaf, purges)
            if kind in _ENDS:
                hold.ended = leaf["at"]
                hold.freed = min(leaf["at"], ends[0]) if ends else leaf["at"]

    def _submitted(self, leaf: Leaf) -> None:
        if leaf["hold"] in self.all:
            self._wrong("hold-state", "a hold submitted twice")
            return
        dates = leaf["expires"], leaf["review_by"]
        # A clock that is back while somebody places a hold does not shorten its 72 hours.
        submitted = max(leaf["at"], self.believed - _LOOK_US)
        hold = Hold(leaf["requester"], submitted, leaf["all_sharers"], *dates)
        hold.grow(leaf["scope"], self.generation)
        self.all[leaf["hold"]] = hold

    def _grown(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        hold.grow(leaf["scope"], self.generation)

    def _approved(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.approved:
            self._wrong("hold-state", "a hold approved twice")
        if leaf["approver"] == hold.requester:
            self._wrong("self-approval", "a hold approved by its requester")
        if hold.all_sharers and leaf["role"] != "dpo":
            self._wrong("role", "all sharers of an address held without the dpo's approval")
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

    def _release_requested(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if hold.release_requester:
            self._wrong("hold-state", "a release requested while another was")
        hold.release_requester, hold.release_approvers = leaf["requester"], {}

    def _release_approved(self, hold: Hold, leaf: Leaf, _: Purges) -> None:
        if not hold.release_requester:
            self._wrong("hold-state", "a release approved that nobody requested")
        if leaf["approver"] in (hold.release_requester, hold.requester):
            self._wrong("self-approval", "a release approved by its or the hold's requester")
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

    def _preserved(self, hold: Hold, _leaf: Leaf, purges: Purges) -> None:
        """What is preserved is what evidence and purges state; that it is all is claimed here."""
        for name in purges.missed_by(hold)[:1]:
            self._wrong("unavailable", f"called preserved, though purge {name} came before it")

    def _unavailable(self, _hold: Hold, leaf: Leaf, purges: Purges) -> None:
        if not leaf["purges"] or not set(leaf["purges"]) <= purges.dropped_ids():
            self._wrong("unavailable", "data called destroyed without a logged destruction")

    def _evidence(self, hold: Hold, leaf: Leaf, purges: Purges) -> None:
        place = (leaf["class"], leaf["partition"])
        rows, root = leaf["rows"], leaf["root"]
        before = hold.evidence.get(place, Evidence(0, "", 0, 0))
        if rows < before.rows:
            self._wrong("held-destroyed", f"{before.rows - rows} rows of an active hold are gone")
        if rows == before.rows > 0 and before.root not in ("", root):
            self._wrong("held-changed", "rows of an active hold changed: the root is another")
        if not rows and root != NO_ROWS:
            self._wrong("evidence", "no rows, and not the root of none")
        kept = purges.kept_for(place, leaf["hold"])
        if kept is not None and rows < kept:
            self._wrong("held-destroyed", f"{kept - rows} rows kept for a hold are gone")
        hold.evidence[place] = Evidence(rows, root, self.generation, leaf["at"])


_HANDLERS: Final[dict[str, Callable[[Holds, Hold, Leaf, Purges], None]]] = {
    "hold.grown": Holds._grown,
    "hold.approved": Holds._approved,
    "hold.rejected": Holds._rejected,
    "hold.lapsed": Holds._lapsed,
    "hold.release-requested": Holds._release_requested,
    "hold.release-approved": Holds._release_approved,
    "hold.release-cancelled": Holds._release_cancelled,
    "hold.released": Holds._released,
    "hold.expired": Holds._expired,
    "hold.preserved": Holds._preserved,
    "hold.unavailable": Holds._unavailable,
    "hold.evidence": Holds._evidence,
}
