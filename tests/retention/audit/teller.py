"""Tells logs of many purges, holds and policies: keeps time and generation, so that they are right.

What `story.py` has leaf by leaf for one purge, this makes for any; a test spoils what it wants to.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from retention.audit.canonical import Leaf, encode
from retention.audit.log import AuditLog
from retention.audit.merkle import EMPTY_ROOT
from retention.audit.replay_places import after, days
from retention.audit.report import Report
from retention.audit.verify import verify
from tests.retention.audit.story import (
    ANN,
    BOB,
    CARL,
    DAY,
    DORA,
    ROOT,
    SIGNER,
    START,
    certify,
    scope,
)

YEAR = {"visit": (12, 0), "call": (12, 0), "usage": (0, 90)}
NO_ROWS = EMPTY_ROOT.hex()
FIRST = "20260101"


class Teller:
    """A log in the making. `day` moves on; every leaf is a microsecond after the one before."""

    def __init__(self, periods: dict[str, tuple[int, int]] | None = None) -> None:
        self.leaves: list[Leaf] = []
        self.at, self.generation, self.policy = START, 0, ""
        self.active: dict[str, list[Leaf]] = {}
        self.periods: dict[str, tuple[int, int]] = {}
        self.load(periods or YEAR)

    def tell(self, kind: str, **fields: Any) -> Leaf:
        self.at += 1
        leaf = {"kind": kind, "at": self.at, **fields}
        self.leaves.append(leaf)
        return leaf

    def until(self, at: int) -> None:
        """Let time pass, with a heartbeat each week as a service that lives gives them."""
        while self.at < at:
            self.at = min(at, self.at + 7 * DAY)
            self.tell("heartbeat", generation=self.generation, holds=len(self.active))

    def load(self, periods: dict[str, tuple[int, int]]) -> None:
        self.periods = periods
        self.policy = hashlib.sha256(repr(periods).encode()).hexdigest()
        told = [{"class": name, "months": m, "days": d} for name, (m, d) in periods.items()]
        self.tell("policy.loaded", digest=self.policy, periods=told)

    def span(self, record_class: str, partition: str, **changes: Any) -> Leaf:
        start, end = days(partition) or (0, 0)
        usual = {"start": start, "end": end, "earliest": start, "latest": end}
        return {"class": record_class, "partition": partition, **usual, **changes}

    def retain_until(self, record_class: str, partition: str) -> int:
        _, end = days(partition) or (0, DAY)
        return after(end - DAY, *self.periods[record_class])

    def seen(self, record_class: str, partition: str, **changes: Any) -> Leaf:
        until = self.retain_until(record_class, partition)
        span = self.span(record_class, partition, **changes)
        return self.tell("partition.seen", policy=self.policy, retain_until=until, **span)

    def submit(self, hold: str, *items: Leaf, **changes: Any) -> Leaf:
        self.generation += 1
        self.active[hold] = list(items)
        usual = {
            "requester": ANN,
            "role": "legal-requester",
            "basis": "court-order",
            "order": None,
            "scope": list(items),
            "all_sharers": False,
            "expires": None,
            "review_by": None,
        }
        return self.tell("hold.submitted", hold=hold, generation=self.generation, **usual | changes)

    def hold(self, hold: str, *items: Leaf, **changes: Any) -> None:
        """Submitted by Ann and approved by Bob."""
        self.submit(hold, *items, **changes)
        self.change("approved", hold, approver=BOB, role="legal-approver")

    def change(self, what: str, hold: str, **fields: Any) -> Leaf:
        """A hold leaf that raises the generation."""
        self.generation += 1
        if what == "grown":
            self.active[hold] += fields["scope"]
        if what in ("released", "expired", "lapsed", "rejected"):
            del self.active[hold]
        return self.tell(f"hold.{what}", hold=hold, generation=self.generation, **fields)

    def same(self, what: str, hold: str, **fields: Any) -> Leaf:
        """A hold leaf that changes nothing of what is held."""
        return self.tell(f"hold.{what}", hold=hold, generation=self.generation, **fields)

    def extension(self, hold: str, expires: int | None, by: str = ANN) -> Leaf:
        """A later end is asked for."""
        role = "legal-requester"
        return self.same("extension-requested", hold, requester=by, role=role, expires=expires)

    def release(self, hold: str, *approvers: str, by: str = DORA) -> None:
        """Requested, approved by these, and released a week later."""
        same = {"hold": hold, "generation": self.generation}
        self.tell("hold.release-requested", **same, requester=by, role="legal-requester")
        for who in approvers or (BOB, CARL):
            self.tell("hold.release-approved", **same, approver=who, role="legal-approver")
        self.until(self.at + 7 * DAY)
        self.change("released", hold)

    def evidence(self, hold: str, record_class: str, partition: str, rows: int) -> Leaf:
        return self.tell(
            "hold.evidence",
            hold=hold,
            generation=self.generation,
            **{"class": record_class, "partition": partition},
            rows=rows,
            root=ROOT if rows else NO_ROWS,
        )

    def intent(self, purge: str, record_class: str, partition: str, **changes: Any) -> Leaf:
        span = self.span(record_class, partition)
        span |= {name: changes.pop(name) for name in ("earliest", "latest") if name in changes}
        usual = {
            "purge": purge,
            "store": "live",
            "retain_until": self.retain_until(record_class, partition),
            "generation": self.generation,
            "policy": self.policy,
            "holds": len(self.meeting(record_class, span["earliest"], span["latest"])),
        }
        return self.tell("purge.intent", **span, **usual | changes)

    def meeting(self, record_class: str, earliest: int, latest: int) -> list[str]:
        return [
            name
            for name, items in self.active.items()
            if any(
                record_class in each["classes"] and each["from"] < latest and earliest < each["to"]
                for each in items
            )
        ]

    def preserved(self, purge: str, before: int, held: dict[str, int], rows: int = -1) -> Leaf:
        return self.tell(
            "purge.preserved",
            purge=purge,
            generation=self.generation,
            rows_before=before,
            rows=sum(held.values()) if rows < 0 else rows,
            digest=ROOT,
            holds=[{"hold": h, "rows": n, "root": ROOT} for h, n in held.items() if n],
        )

    def dropped(self, purge: str, rows: int) -> Leaf:
        return self.tell("purge.dropped", purge=purge, generation=self.generation, rows=rows)

    def certify(self, purge: str) -> None:
        """The final certificate of a purge that was told."""
        of = {leaf["kind"]: leaf for leaf in self.leaves if leaf.get("purge") == purge}
        kept, gone = of["purge.preserved"], of["purge.dropped"]
        self.tell(
            "purge.certificate-final",
            purge=purge,
            digest=ROOT,
            policy=of["purge.intent"]["policy"],
            generation=gone["generation"],
            rows_before=kept["rows_before"],
            preserved=kept["rows"],
            destroyed=gone["rows"],
            holds=kept["holds"],
            backups=0,
        )

    def purge(
        self,
        purge: str,
        record_class: str,
        partition: str,
        before: int,
        held: dict[str, int] | None = None,
        rows: int = -1,
        **changes: Any,
    ) -> None:
        """A whole purge; what it holds was counted as it is preserved, for `held` live rows."""
        held = held or {}
        for name in self.meeting(record_class, *self._bounds(record_class, partition, changes)):
            self.evidence(name, record_class, partition, held.get(name, 0))
        self.intent(purge, record_class, partition, **changes)
        kept = self.preserved(purge, before, held, rows)
        self.dropped(purge, before - kept["rows"])
        self.certify(purge)

    def swept(self, record_class: str, partition: str, before: int, held: dict[str, int]) -> Leaf:
        rows = sum(held.values())
        return self.tell(
            "late.swept",
            **self.span(record_class, partition),
            generation=self.generation,
            rows_before=before,
            preserved=rows,
            destroyed=before - rows,
            holds=[{"hold": h, "rows": n, "root": ROOT} for h, n in held.items() if n],
        )

    def _bounds(self, record_class: str, partition: str, changes: Leaf) -> tuple[int, int]:
        span = self.span(record_class, partition) | changes
        return span["earliest"], span["latest"]

    def judged(self, folder: Path) -> Report:
        """What a verification says, whatever the log's own writer would have refused."""
        leaves = certify(folder, self.leaves)
        with AuditLog(folder, SIGNER, lambda: START * 1000) as log:
            for at in range(0, len(leaves), 256):
                log._commit([encode({"v": 1} | leaf) for leaf in leaves[at : at + 256]])
        return verify(folder)

    def rules(self, folder: Path) -> set[str]:
        return {finding.rule for finding in self.judged(folder).findings}


def of(record_class: str, first: str, last: str = "", **changes: Any) -> Leaf:
    """A scope item over the days of these partitions."""
    start, end = days(first) or (0, 0)
    return scope(
        **{"from": start, "to": (days(last) or (0, end))[1] if last else end},
        classes=[record_class],
        **changes,
    )


def open_at(teller: Teller, record_class: str = "visit", partition: str = FIRST) -> int:
    """When a partition is open for destruction."""
    return teller.retain_until(record_class, partition) + DAY


def purged(*items: dict[str, object], held: dict[str, int] | None = None) -> Teller:
    """A partition of a hundred rows purged on its day, under hold h1 if there are items."""
    teller = Teller()
    teller.seen("visit", FIRST)
    if items:
        teller.hold("h1", *items)
    teller.until(open_at(teller))
    teller.purge("p1", "visit", FIRST, 100, held)
    return teller
