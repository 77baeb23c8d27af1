"""Replays leaves in order and gives findings: what the log, though well signed, shows done wrong.

One `Replay` takes each leaf once, by `step`, then `finish`. Rules that need no state stand in
`leaf.py`; those on holds in `replay_holds.py`, on their dates in `replay_dates.py`, on destruction
in `replay_purges.py`, on what is where and for how long in `replay_places.py`, on SafeGuard in
`replay_safeguard.py`; here are the clock and the log's own leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from retention.audit.canonical import Leaf
from retention.audit.checkpoint import Key, NoteError
from retention.audit.replay_holds import DAY_US, Holds
from retention.audit.replay_places import Places
from retention.audit.replay_purges import Purges
from retention.audit.replay_safeguard import Releases
from retention.audit.report import Finding

SILENCE_US: Final = 31 * DAY_US
"""Between two leaves: heartbeats are hourly, and a clock that jumped ahead looks like silence."""


@dataclass
class Replay:
    """What the log says is so after the leaves seen."""

    origin: str
    findings: list[Finding] = field(default_factory=list)
    index: int = -1
    at: int = 0
    trusted_clock: bool = True
    lived: int = 0
    """How late it is at least, by leaves that were no longer apart than SILENCE_US."""
    witnesses: list[Key] = field(default_factory=list)
    cosigned: dict[str, str] = field(default_factory=dict)
    """Name under `witnessed/` to the SHA-256 that its leaf states."""
    holds: Holds = field(init=False)
    places: Places = field(init=False)
    purges: Purges = field(init=False)
    releases: Releases = field(init=False)

    def __post_init__(self) -> None:
        self.holds = Holds(self.wrong)
        self.places = Places(self.wrong, self.holds)
        self.purges = Purges(self.wrong, self.holds, self.places)
        self.releases = Releases(self.wrong)

    def wrong(self, rule: str, text: str) -> None:
        """Note a finding at the present leaf."""
        self.findings.append(Finding(f"leaf {self.index}", rule, text))

    def step(self, leaf: Leaf) -> None:
        """Take the next leaf, which `leaf.check` has passed."""
        self.index += 1
        kind = leaf["kind"]
        if (kind == "genesis") != (self.index == 0):
            self.wrong("genesis", "the first leaf, and no other, is the genesis")
        self._time(leaf["at"], kind)
        family = kind.split(".")[0]
        if family == "hold":
            self.holds.step(leaf, self.purges)
        elif family in ("purge", "late", "restore"):
            if kind not in _NOT_DESTRUCTIVE:
                self._destroys(kind)
            self.purges.step(leaf)
        elif family == "safeguard":
            self.releases.step(leaf)
        elif kind in _HANDLERS:
            _HANDLERS[kind](self, leaf)

    def finish(self) -> None:
        """Say what is still owed at the time of the last leaf."""
        self.holds.finish(self.at)
        self.purges.finish(self.at)
        self.places.finish(self.at)

    def notes(self) -> list[str]:
        """What is not wrong, but should be looked at."""
        overdue = self.holds.review_overdue(self.at)
        reviews = [f"hold {name} protects, and its review is overdue" for name in overdue]
        return reviews + self.releases.notes()

    def _time(self, at: int, kind: str) -> None:
        if at < self.at and kind != "clock.step":
            self.wrong("clock", "earlier than the leaf before it without a clock.step")
        passed = at - self.at
        if self.index == 0:
            self.lived = at
        elif 0 <= passed <= SILENCE_US:
            # A clock that is not trusted may be anywhere, and time passes all the same.
            most = max(self.lived, at) if self.trusted_clock else self.lived + passed
            self.lived = min(self.lived + passed, most)
        if self.trusted_clock and kind != "clock.step":
            self.holds.believed = max(self.holds.believed, at)
        self.at = at

    def _destroys(self, kind: str) -> None:
        if not self.trusted_clock:
            self.wrong("clock-destroys", f"{kind} while the clock was not to be trusted")
        if self.at > self.lived + SILENCE_US:
            self.wrong("clock-jump", f"{kind} after a silence, and nobody said the clock is right")

    def _genesis(self, leaf: Leaf) -> None:
        if leaf["origin"] != self.origin:
            self.wrong("genesis", "the genesis names another log")

    def _clock(self, leaf: Leaf) -> None:
        self.trusted_clock = leaf["trusted"]
        if leaf["trusted"] and leaf["reason"] == "confirmed" and leaf["actor"] is None:
            self.wrong("clock", "a clock confirmed by nobody")
        if leaf["trusted"] and leaf["actor"]:
            # Else it is right only where it fits what passed.
            self.lived = self.holds.believed = leaf["at"]

    def _heartbeat(self, leaf: Leaf) -> None:
        if leaf["generation"] != self.holds.generation:
            self.wrong("generation", "a heartbeat states another hold generation than the leaves")
        if leaf["holds"] != len(self.holds.active()):
            self.wrong("holds", "a heartbeat states another number of active holds than the leaves")

    def _policy(self, leaf: Leaf) -> None:
        self.places.load(leaf)

    def _seen(self, leaf: Leaf) -> None:
        self.places.see(leaf)

    def _enrolled(self, leaf: Leaf) -> None:
        try:
            self.witnesses.append(Key.parse(leaf["key"]))
        except NoteError as error:
            self.wrong("witness", f"an enrolled witness's key is none: {error}")

    def _cosigned(self, leaf: Leaf) -> None:
        if leaf["size"] > self.index:
            self.wrong("witness", "a witness's line for more leaves than there were")
        self.cosigned[f"{leaf['size']:016d}-{leaf['keyid']}"] = leaf["digest"]


_NOT_DESTRUCTIVE: Final = (
    "restore.found",
    "purge.failed",
    "purge.certificate-pending",
    "purge.certificate-final",
)

_HANDLERS: Final[dict[str, Callable[[Replay, Leaf], None]]] = {
    "genesis": Replay._genesis,
    "clock.step": Replay._clock,
    "heartbeat": Replay._heartbeat,
    "policy.loaded": Replay._policy,
    "partition.seen": Replay._seen,
    "witness.enrolled": Replay._enrolled,
    "witness.cosigned": Replay._cosigned,
}
