"""Replays destruction: intent, preservation, drop and certificate, and late rows.

What a hold protects is known from two counts made apart: the hold's evidence before the purge, and
the purge's own. A purge that keeps fewer rows than the evidence states destroyed held ones.

intent ── preserved ── dropped ── certificate-pending ── certificate-final
   └───────────┴────── failed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from retention.audit.canonical import Leaf
from retention.audit.replay_holds import DAY_US, Hold, Holds, Place, Wrong
from retention.audit.replay_places import GRACE_US, Places, Vault
from retention.audit.replay_places import after as _after

__all__ = ["Destroyed", "Purge", "Purges", "_after"]

OPEN_US: Final = DAY_US
"""From retain-until to the first instant at which destruction may begin."""
OUTCOME_US: Final = DAY_US
"""From an intent to its outcome, and from a drop to its certificate, pending at least."""


@dataclass
class Purge:
    """One purge as the leaves so far have it."""

    intent: Leaf
    preserved: Leaf | None = None
    dropped: Leaf | None = None
    pending: bool = False

    @property
    def place(self) -> Place:
        """Class and partition."""
        return self.intent["class"], self.intent["partition"]


class Destroyed(NamedTuple):
    """What is remembered of a purge that destroyed rows."""

    record_class: str
    earliest: int
    latest: int
    generation: int


class Purges:
    """All purges.

    `certified` is called with each certificate's leaf, its purge's intent, and what that preserved.
    """

    def __init__(self, wrong: Wrong, holds: Holds, places: Places) -> None:
        self._wrong, self._holds, self._places = wrong, holds, places
        self._open: dict[str, Purge] = {}  # until the final certificate, or the failure
        self._over: set[str] = set()
        self._destroyed: dict[str, Destroyed | None] = {}  # None: it found nothing to destroy
        self._underway = ""
        self.certified: Callable[[Leaf, Leaf, Leaf], None] = lambda *_: None

    def underway(self) -> bool:
        """Whether a purge is between what it preserved and its outcome."""
        return bool(self._underway)

    def dropped_ids(self) -> set[str]:
        """Purges that destroyed."""
        return set(self._destroyed)

    def kept_for(self, place: Place, hold: str) -> int | None:
        """Rows at least in the vault for a hold, or None where the partition was never purged."""
        return self._places.kept_for(place, hold)

    def missed_by(self, hold: Hold) -> list[str]:
        """Purges that destroyed rows of a hold's classes and times before the hold had them."""
        return [
            name
            for name, gone in self._destroyed.items()
            if gone and hold.came_after(gone.record_class, gone.earliest, gone.latest, gone[3])
        ]

    def step(self, leaf: Leaf) -> None:
        """Take one leaf of kind purge.* or late.swept."""
        kind = leaf["kind"]
        if kind == "late.swept":
            self._swept(leaf)
        elif kind == "restore.found":
            self._places.come_back(leaf)
        elif kind == "purge.intent":
            self._intent(leaf)
        elif leaf["purge"] in self._over:
            self._wrong("outcome", f"{kind} for a purge that was over")
        elif leaf["purge"] not in self._open:
            self._wrong("intent", f"{kind} without an intent before it")
        else:
            _HANDLERS[kind](self, self._open[leaf["purge"]], leaf)

    def finish(self, at: int) -> None:
        """Say what is owed when the log ends at this time."""
        for name, purge in self._open.items():
            if not purge.dropped:
                if at > purge.intent["at"] + OUTCOME_US:
                    self._wrong("outcome", f"no outcome follows the intent of purge {name}")
            elif not purge.pending and at > purge.dropped["at"] + OUTCOME_US:
                self._wrong("certificate", f"no certificate follows the drop of purge {name}")
            elif at > purge.dropped["at"] + GRACE_US:
                self._wrong("certificate", f"purge {name}: not proven gone from disk in 31 days")

    def _intent(self, leaf: Leaf) -> None:
        place = (leaf["class"], leaf["partition"])
        if leaf["purge"] in self._open or leaf["purge"] in self._over:
            self._wrong("intent", "two intents for one purge")
        if self._underway:
            self._wrong("interleaved", "an intent while another purge had no outcome")
        self._at_generation(leaf)
        self._of_partition(leaf, place)
        self._open[leaf["purge"]] = Purge(leaf)
        meeting = self._holds.meeting(leaf["class"], leaf["earliest"], leaf["latest"])
        if leaf["holds"] != len(meeting):
            self._wrong("holds", f"an intent that sees {leaf['holds']} holds of {len(meeting)}")
        for name, hold in meeting.items():
            counted = hold.evidence.get(place)
            if counted is None:
                self._wrong("evidence", f"hold {name} was not counted before the purge")
            elif counted.generation < hold.changed:
                self._wrong("evidence", f"hold {name} grew after it was counted")
            elif counted.at < leaf["retain_until"]:
                self._wrong("evidence", f"hold {name} was counted while rows could still come")

    def _of_partition(self, leaf: Leaf, place: Place) -> None:
        """Check an intent against its partition: as it was seen, and due under the policy."""
        known, live = self._places.last_seen(place), leaf["store"] == "live"
        if leaf["policy"] != self._places.policy:
            self._wrong("policy", "an intent under a policy that is not in force")
        if known is None:
            self._wrong("intent", "an intent for a partition the log has not seen")
        elif not self._places.is_seen(leaf, known):
            self._wrong("intent", "an intent that has the partition otherwise than it was seen")
        elif leaf["retain_until"] != known.until:
            self._wrong("policy", "an intent with a retain-until that is not the policy's")
        if leaf["at"] < leaf["retain_until"] + (OPEN_US if live else 0):
            self._wrong("too-early", "an intent before the partition was open for destruction")
        if not live and not self._places.in_vault(place):
            self._wrong("intent", "an intent for the vault, which holds nothing of the partition")
        if live and self._places.is_gone(place):
            self._wrong("intent", "a partition to be destroyed a second time")

    def _preserved(self, purge: Purge, leaf: Leaf) -> None:
        intent, vault = purge.intent, self._places.vault.get(purge.place, Vault())
        if purge.dropped:
            self._wrong("intent", "preserved for a purge that was over")
        if purge.preserved and any(purge.preserved[name] != leaf[name] for name in _KEPT):
            self._wrong("counts", "a purge preserved twice, and differently")
        self._at_generation(leaf)
        self._keeps(intent, leaf["rows"], leaf["holds"])
        self._keeps_evidence(intent, leaf["holds"], vault)
        if intent["store"] == "vault" and not vault.least <= leaf["rows_before"] <= vault.most:
            self._wrong("counts", "the vault has other rows than were put there")
        if leaf["rows"] > leaf["rows_before"]:
            self._wrong("counts", "more rows preserved than there were")
        purge.preserved, self._underway = leaf, leaf["purge"]

    def _dropped(self, purge: Purge, leaf: Leaf) -> None:
        intent, kept, place = purge.intent, purge.preserved, purge.place
        if purge.dropped:
            self._wrong("intent", "dropped by a purge that had dropped")
        self._at_generation(leaf)
        if intent["generation"] != self._holds.generation:
            self._wrong("generation", "dropped on an intent of another hold generation")
        known = self._places.last_seen(place)
        if known and leaf["at"] < known.until:
            self._wrong("too-early", "dropped though the policy in force keeps it longer")
        purge.dropped = leaf
        self._destroyed[leaf["purge"]] = None
        if leaf["rows"]:
            self._destroyed[leaf["purge"]] = Destroyed(
                intent["class"], intent["earliest"], intent["latest"], leaf["generation"]
            )
        if self._underway == leaf["purge"]:
            self._underway = ""
        if kept is None:
            self._wrong("preserve-first", "dropped before anything was preserved")
            return
        if kept["generation"] != leaf["generation"]:
            self._wrong("generation", "dropped after the holds changed since the preservation")
        if kept["rows_before"] != kept["rows"] + leaf["rows"]:
            self._wrong("counts", "rows before are not those preserved and destroyed")
        if intent["store"] == "live":
            self._places.drop(place, leaf["at"])
        else:
            self._places.overdue(place, leaf["at"])
            self._places.vault[place] = Vault()
        self._put(place, kept["rows"], kept["holds"])

    def _certificate(self, purge: Purge, leaf: Leaf) -> None:
        kept, dropped, final = purge.preserved, purge.dropped, leaf["kind"] == _FINAL
        if dropped is None or kept is None:
            self._wrong("certificate", "a certificate without a destruction")
            return
        stated = [leaf[name] for name in _CERTIFIED]
        real = [kept["rows_before"], kept["rows"], dropped["rows"], dropped["generation"]]
        if stated != real or leaf["policy"] != purge.intent["policy"]:
            self._wrong("certificate", "a certificate that states another purge than was logged")
        if leaf["holds"] != kept["holds"]:
            self._wrong("certificate", "a certificate with other held roots than were preserved")
        if purge.pending and not final:
            self._wrong("certificate", "a second pending certificate of one purge")
        purge.pending = True
        self.certified(leaf, purge.intent, kept)
        if final:
            self._end(leaf["purge"])

    def _failed(self, purge: Purge, leaf: Leaf) -> None:
        if purge.dropped:
            self._wrong("outcome", "a purge that failed after it had destroyed")
        if self._underway == leaf["purge"]:
            self._underway = ""
        self._end(leaf["purge"])

    def _end(self, name: str) -> None:
        del self._open[name]
        self._over.add(name)

    def _swept(self, leaf: Leaf) -> None:
        if self._underway:
            self._wrong("interleaved", "late rows swept while a purge had no outcome")
        self._at_generation(leaf)
        self._keeps(leaf, leaf["preserved"], leaf["holds"])
        if leaf["rows_before"] != leaf["preserved"] + leaf["destroyed"]:
            self._wrong("counts", "late rows before are not those preserved and destroyed")
        if leaf["destroyed"] and not self._places.was_closed(leaf):
            self._wrong("too-early", "late rows destroyed of a partition that was not closed")
        place = (leaf["class"], leaf["partition"])
        self._places.go_again(place, leaf["rows_before"])
        if leaf["preserved"]:
            self._put(place, leaf["preserved"], leaf["holds"])
            self._holds.versions_came(place, leaf["holds"])

    def _keeps(self, span: Leaf, rows: int, held: list[Leaf]) -> None:
        """Check that what is preserved is preserved for holds that are there, in sane numbers."""
        place = (span["class"], span["partition"])
        concerned = self._holds.concerned(place, span["earliest"], span["latest"])
        names = {item["hold"] for item in held}
        if len(names) != len(held) or not names <= concerned.keys():
            self._wrong("holds", "rows preserved for a hold twice, or for one that protects none")
        most = max((item["rows"] for item in held), default=0)
        if not most <= rows <= sum(item["rows"] for item in held):
            self._wrong("counts", "rows preserved are fewer than a hold's, or more than all holds'")

    def _keeps_evidence(self, intent: Leaf, held: list[Leaf], vault: Vault) -> None:
        """Check that a purge preserves at least what each hold's evidence states.

        Late rows can be in the vault before the partition is destroyed; evidence counts them too.
        A hold that came after them can have any of them.
        """
        kept = {item["hold"]: item for item in held}
        place = (intent["class"], intent["partition"])
        concerned = self._holds.concerned(place, intent["earliest"], intent["latest"])
        for name, hold in concerned.items():
            counted = hold.evidence.get(place)
            there = vault.held.get(name, (0, 0))[1] if intent["store"] == "live" else 0
            if intent["store"] == "live" and hold.changed > vault.since:
                there = vault.most
            has = there + (kept[name]["rows"] if name in kept else 0)
            if counted is None:
                continue  # the intent was told so
            if has < counted.rows:
                text = f"hold {name}: {counted.rows} rows held, {has} preserved"
                self._wrong("held-destroyed", text)
            elif has == counted.rows > 0 == there and counted.root not in ("", kept[name]["root"]):
                self._wrong("held-changed", f"hold {name}: other rows preserved than were held")

    def _put(self, place: Place, rows: int, held: list[Leaf]) -> None:
        vault = self._places.vault.setdefault(place, Vault())
        vault.put(rows, held, self._holds.generation)

    def _at_generation(self, leaf: Leaf) -> None:
        if leaf["generation"] != self._holds.generation:
            self._wrong("generation", f"{leaf['kind']} at an old hold generation")


_KEPT: Final = ("rows_before", "rows", "digest", "holds")
_CERTIFIED: Final = ("rows_before", "preserved", "destroyed", "generation")
_FINAL: Final = "purge.certificate-final"

_HANDLERS: Final[dict[str, Callable[[Purges, Purge, Leaf], None]]] = {
    "purge.preserved": Purges._preserved,
    "purge.dropped": Purges._dropped,
    "purge.certificate-pending": Purges._certificate,
    "purge.certificate-final": Purges._certificate,
    "purge.failed": Purges._failed,
}
