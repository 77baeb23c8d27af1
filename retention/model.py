"""What retention speaks of: places, partitions, scopes, holds, releases, purges. No behaviour.

Times are integer microseconds since 1970, UTC; intervals are half-open [from, to). `NEVER` ends an
interval that has no end. Values of identifiers are personal data: they are kept in the register
and in the scope of a running selection, never in a log line, an error, a metric or SQL text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

NEVER: Final = 4_102_444_800_000_000
"""The year 2100; the audit log's leaves take no later time."""
DAY_US: Final = 86_400_000_000
PROTECT_US: Final = 3 * DAY_US
"""How long one person's submission protects without an approval."""
RELEASE_US: Final = 7 * DAY_US
"""From the second approval of a release to the release."""
OPEN_US: Final = DAY_US
"""From retain-until, when a partition is closed for writing, to its destruction at the earliest."""
GRACE_US: Final = 31 * DAY_US
"""From retain-until, or the end of the last hold, to destruction at the latest."""


class Place(NamedTuple):
    """One partition of one record class: `number` is 20261122 for a day, 202611 for a month."""

    record_class: str
    number: int

    @property
    def name(self) -> str:
        """The partition as leaves and people name it: "20261122"."""
        return str(self.number)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition with rows. [start, end) are its clock days; its rows cover [earliest, latest).

    The two differ where rows are intervals: a call of 23:59 ends on the next day, a mapping has
    its clock on the day it ended.
    """

    place: Place
    start_us: int
    end_us: int
    earliest_us: int
    latest_us: int
    rows: int


class Kind(StrEnum):
    """Identifiers a record can hold. An address may be a prefix and may have a port range."""

    SUBSCRIBER = "subscriber"
    ACCOUNT = "account"  # Chargeable-User-Identity, RFC 4372
    LINE = "line"  # NAS-Port-Id
    ADDRESS = "address"
    NUMBER = "number"  # E.164
    USER = "user"  # User-Name, with its realm or without
    SESSION = "session"  # Acct-Session-Id


@dataclass(frozen=True, slots=True)
class ScopeItem:
    """One identifier in [from, to), for some record classes.

    value: in normal form (`holds.scope.normalise`). ports: public ports of an address, both
    included; (0, 65535) for all. resolved: it came from binding history, not from the order.
    """

    kind: Kind
    value: str
    from_us: int
    to_us: int
    classes: tuple[str, ...]
    ports: tuple[int, int] = (0, 65535)
    resolved: bool = False


class State(StrEnum):
    """States of a hold, in the words of ETSI TS 103 120 (task objects)."""

    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_PRESERVATION = "AwaitingPreservation"
    PRESERVED = "Preserved"
    PRESERVATION_NOT_AVAILABLE = "PreservationNotAvailable"
    EXPIRED = "Expired"
    CANCELLED = "Cancelled"  # released
    REJECTED = "Rejected"
    LAPSED = "Lapsed"  # nobody approved within 72 hours
    INVALID = "Invalid"
    ERROR = "Error"


PROTECTING: Final = frozenset(
    {
        State.AWAITING_APPROVAL,
        State.AWAITING_PRESERVATION,
        State.PRESERVED,
        State.PRESERVATION_NOT_AVAILABLE,
    }
)
"""A hold in one of these protects, whatever its dates say, until a transition ends it."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved, in which role, when."""

    person: str
    role: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Release:
    """A release that was requested; it takes two approvals and then seven days."""

    requested: Approval
    approvals: tuple[Approval, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """A later expiry that was requested; it takes one approval of another person."""

    requested: Approval
    expires_us: int | None


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold as the register has it.

    unavailable: ids of the purges that had destroyed rows of its scope's classes and times before
    it was placed; told from the submission on. What is left is protected all the same.
    """

    id: str
    matter: str
    basis: str
    authority: str
    reference: str
    order_sha256: str
    served_us: int
    requested: Approval
    scope: tuple[ScopeItem, ...]
    state: State
    resolve: bool = True
    all_sharers: bool = False
    expires_us: int | None = None
    review_by_us: int | None = None
    confidential: bool = True
    approved: Approval | None = None
    release: Release | None = None
    extension: Extension | None = None
    unavailable: tuple[str, ...] = ()
    ended_us: int | None = None

    @property
    def protects(self) -> bool:
        """Whether rows in its scope must be kept."""
        return self.state in PROTECTING

    def meets(self, record_class: str, earliest_us: int, latest_us: int) -> bool:
        """Whether it can protect a row of this class within [earliest, latest)."""
        return any(
            record_class in item.classes and item.from_us < latest_us and earliest_us < item.to_us
            for item in self.scope
        )


class Step(StrEnum):
    """How far a purge has come; each is durable before the next begins."""

    INTENT = "intent"
    PRESERVED = "preserved"
    DROPPED = "dropped"
    PENDING = "pending"  # certificate issued, physical verification not finished
    FINAL = "final"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HeldRoot:
    """What one hold keeps of one partition: rows, and the salted Merkle root over them (hex)."""

    hold: str
    rows: int
    root: str


StoreName = Literal["live", "vault"]


@dataclass(frozen=True, slots=True)
class Purge:
    """One purge as the register has it; counts are 0 until their step."""

    id: str
    partition: Partition
    store: StoreName
    retain_until_us: int
    policy: str
    generation: int
    step: Step
    operator: str
    intent_us: int
    rows_before: int = 0
    preserved: int = 0
    destroyed: int = 0
    digest: str = ""
    held: tuple[HeldRoot, ...] = ()
    dropped_us: int = 0
    final_us: int = 0
    waiting: tuple[str, ...] = ()
    reason: str = ""
