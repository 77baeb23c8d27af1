"""Replays leaves in order and gives findings: what the log, though well signed, shows done wrong.

One `Replay` takes each leaf once, by `step`, then `finish`. Rules that need no state stand in
`leaf.py`; those on holds in `replay_holds.py`, on destruction in `replay_purges.py`; here are the
clock, the policy and the log's own leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from retention.audit.canonical import Leaf
from retention.audit.checkpoint import Key, NoteError
from retention.audit.replay_holds import Holds
from retention.audit.replay_purges import Purges
from retention.audit.report import Finding


@dataclass
class Replay:
    """What the log says is so after the leaves seen."""

    origin: str
    findings: list[Finding] = field(default_factory=list)
    index: int = -1
    at: int = 0
    trusted_clock: bool = True
    policy: str = ""
    periods: dict[str, tuple[int, int]] = field(default_factory=dict)
    witnesses: list[Key] = field(default_factory=list)
    cosigned: dict[str, str] = field(default_factory=dict)
    """Name under `witnessed/` to the SHA-256 that its leaf states."""
    holds: Holds = field(init=False)
    purges: Purges = field(init=False)

    def __post_init__(self) -> None:
        self.holds = Holds(self.wrong)
        self.purges = Purges(self.wrong, self.holds)

    def wrong(self, rule: str, text: str) -> None:
        """Note a finding at the present leaf."""
        self.findings.append(Finding(f"leaf {self.index}", rule, text))

    def step(self, leaf: Leaf) -> None:
        """Take the next leaf, which `leaf.check` has passed."""
        self.index += 1
        kind = leaf["kind"]
        if (kind == "genesis") != (self.index == 0):
            self.wrong("genesis", "the first leaf, and no other, is the genesis")
        if leaf["at"] < self.at and kind != "clock.step":
            self.wrong("clock", "earlier than the leaf before it without a clock.step")
        self.at = leaf["at"]
        family = kind.split(".")[0]
        if family == "hold":
            self.holds.step(leaf, self.purges)
        elif family in ("purge", "late", "partition"):
            if family != "partition" and not self.trusted_clock and kind not in _NOT_DESTRUCTIVE:
                self.wrong("clock-destroys", f"{kind} while the clock was not to be trusted")
            self.purges.step(leaf, self.policy, self.periods)
        elif kind in _HANDLERS:
            _HANDLERS[kind](self, leaf)

    def finish(self) -> None:
        """Say what is still owed at the time of the last leaf."""
        self.purges.finish(self.at)

    def _genesis(self, leaf: Leaf) -> None:
        if leaf["origin"] != self.origin:
            self.wrong("genesis", "the genesis names another log")

    def _clock(self, leaf: Leaf) -> None:
        self.trusted_clock = leaf["trusted"]

    def _heartbeat(self, leaf: Leaf) -> None:
        if leaf["generation"] != self.holds.generation:
            self.wrong("generation", "a heartbeat states another hold generation than the leaves")
        if leaf["holds"] != len(self.holds.active()):
            self.wrong("holds", "a heartbeat states another number of active holds than the leaves")

    def _policy(self, leaf: Leaf) -> None:
        self.policy = leaf["digest"]
        self.periods = {p["class"]: (p["months"], p["days"]) for p in leaf["periods"]}
        if len(self.periods) != len(leaf["periods"]):
            self.wrong("policy", "a policy names a class twice")

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
    "purge.failed",
    "purge.certificate-pending",
    "purge.certificate-final",
)

_HANDLERS: Final[dict[str, Callable[[Replay, Leaf], None]]] = {
    "genesis": Replay._genesis,
    "clock.step": Replay._clock,
    "heartbeat": Replay._heartbeat,
    "policy.loaded": Replay._policy,
    "witness.enrolled": Replay._enrolled,
    "witness.cosigned": Replay._cosigned,
}
