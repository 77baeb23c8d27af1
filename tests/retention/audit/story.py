"""A log that tells a whole story rightly, leaf by leaf, to copy and to spoil in one place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retention.audit import sealed
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import LOG, WITNESS, Signer
from retention.audit.log import AuditLog

DAY = 86_400_000_000
START = 1_767_225_600_000_000  # 2026-01-01
YEAR_ON = START + 365 * DAY
POLICY = hashlib.sha256(b"policy").hexdigest()
ROOT = hashlib.sha256(b"held rows").hexdigest()
ANN, BOB, CARL, DORA = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b", b"c", b"d"))

SIGNER = Signer("log.example/audit", LOG, Ed25519PrivateKey.from_private_bytes(bytes(32)))
WITNESS_SIGNER = Signer("w.example/1", WITNESS, Ed25519PrivateKey.from_private_bytes(b"w" * 32))


def fill(folder: Path, leaves: list[Leaf], signer: Signer = SIGNER) -> None:
    """Write a log of these leaves, which name their own times; its genesis is at the first's."""
    first = leaves[0]["at"] * 1000 if leaves else START * 1000
    leaves = certify(folder, leaves, signer)
    with AuditLog(folder, signer, lambda: first) as log:
        for at in range(0, len(leaves), 100):
            log.extend(leaves[at : at + 100])


def certify(folder: Path, leaves: list[Leaf], signer: Signer = SIGNER) -> list[Leaf]:
    """Write the file of each certificate leaf; give the leaves with the files' digests."""
    intents = {leaf["purge"]: leaf for leaf in leaves if leaf["kind"] == "purge.intent"}
    told = []
    for leaf in leaves:
        if leaf["kind"].startswith("purge.certificate") and leaf["digest"] == ROOT:
            of = intents.get(leaf["purge"], span() | {"store": "live"})
            data = sealed.seal(document(leaf, of), signer)
            path = folder / sealed.path_of(leaf["purge"], leaf["kind"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            leaf = leaf | {"digest": hashlib.sha256(data).hexdigest()}
        told.append(leaf)
    return told


def document(leaf: Leaf, intent: Leaf) -> Leaf:
    """What the certificate of a leaf says."""
    names = ("class", "partition", "start", "end", "store")
    left_out = ("v", "kind", "at", "digest")
    own = {name: value for name, value in leaf.items() if name not in left_out}
    return {name: intent[name] for name in names} | own | {"statements": ["DROP PARTITION"]}


def heartbeats(count: int) -> list[Leaf]:
    return [
        {"kind": "heartbeat", "at": START + n * 3_600_000_000, "generation": 0, "holds": 0}
        for n in range(count)
    ]


def scope(**changes: Any) -> Leaf:
    usual = {
        "kind": "subscriber",
        "value": ROOT,
        "from": START,
        "to": START + 10 * DAY,
        "classes": ["visit"],
        "resolved": False,
    }
    return usual | changes


def span() -> Leaf:
    return {
        "class": "visit",
        "partition": "20260101",
        "start": START,
        "end": START + DAY,
        "earliest": START,
        "latest": START + DAY,
    }


def clock(**changes: Any) -> Leaf:
    usual = {"delta": 1, "backward": False, "trusted": True, "reason": "confirmed", "actor": CARL}
    return {"kind": "clock.step", **usual, **changes}


def held(rows: int = 5) -> list[Leaf]:
    return [{"hold": "h1", "rows": rows, "root": ROOT}]


def certificate(**changes: Any) -> Leaf:
    usual: Leaf = {
        "purge": "p1",
        "digest": ROOT,
        "policy": POLICY,
        "generation": 2,
        "rows_before": 100,
        "preserved": 5,
        "destroyed": 95,
        "holds": held(),
    }
    return usual | changes


def story() -> dict[str, Leaf]:
    """A hold placed, a partition destroyed but for it, the hold released, the rest destroyed."""
    purge_at = YEAR_ON + 2 * DAY
    free_at = purge_at + 10 * DAY
    hold = {"hold": "h1"}
    steps: list[tuple[str, int, Leaf]] = [
        ("policy", START, {"kind": "policy.loaded", "digest": POLICY, "periods": [_period()]}),
        ("seen", START + DAY, {"kind": "partition.seen", "policy": POLICY, **_until()}),
        ("submitted", START + 2 * DAY, _submitted()),
        ("approved", START + 3 * DAY, _by("hold.approved", BOB, generation=2)),
        ("beat", START + 5 * DAY, {"kind": "heartbeat", "generation": 2, "holds": 1}),
        ("clock", purge_at - 2, clock(trusted=True)),
        (
            "evidence",
            purge_at - 1,
            {"kind": "hold.evidence", **hold, "generation": 2, **_place(), "rows": 5, "root": ROOT},
        ),
        ("intent", purge_at, _intent("p1", "live", generation=2, holds=1)),
        ("preserved", purge_at + 1, _preserved("p1", 100, 5, held(), 2)),
        ("dropped", purge_at + 2, {"kind": "purge.dropped", "purge": "p1", **_rows(95, 2)}),
        (
            "pending",
            purge_at + 3,
            {"kind": "purge.certificate-pending", **certificate(), "waiting": ["replica"]},
        ),
        (
            "final",
            purge_at + 4,
            {"kind": "purge.certificate-final", **certificate(), "backups": 0},
        ),
        (
            "requested",
            purge_at + DAY,
            {
                "kind": "hold.release-requested",
                **hold,
                "generation": 2,
                "requester": ANN,
                "role": "legal-requester",
            },
        ),
        ("first", purge_at + 2 * DAY, _by("hold.release-approved", BOB, generation=2)),
        ("second", purge_at + 3 * DAY, _by("hold.release-approved", CARL, generation=2)),
        ("released", free_at, {"kind": "hold.released", **hold, "generation": 3}),
        ("vault-intent", free_at + 1, _intent("p2", "vault", generation=3, holds=0)),
        ("vault-preserved", free_at + 2, _preserved("p2", 5, 0, [], 3)),
        ("vault-dropped", free_at + 3, {"kind": "purge.dropped", "purge": "p2", **_rows(5, 3)}),
        (
            "vault-final",
            free_at + 4,
            {
                "kind": "purge.certificate-final",
                **certificate(
                    purge="p2", generation=3, rows_before=5, preserved=0, destroyed=5, holds=[]
                ),
                "backups": 0,
            },
        ),
        ("last", free_at + 60 * DAY, {"kind": "heartbeat", "generation": 3, "holds": 0}),
    ]
    return {name: {"at": at, **leaf} for name, at, leaf in steps}


def _place() -> Leaf:
    return {"class": "visit", "partition": "20260101"}


def _period() -> Leaf:
    return {"class": "visit", "months": 12, "days": 0}


def _until() -> Leaf:
    return {**span(), "retain_until": YEAR_ON}


def _rows(rows: int, generation: int) -> Leaf:
    return {"rows": rows, "generation": generation}


def _submitted() -> Leaf:
    return {
        "kind": "hold.submitted",
        "hold": "h1",
        "generation": 1,
        "requester": ANN,
        "role": "legal-requester",
        "basis": "court-order",
        "order": ROOT,
        "scope": [scope()],
        "all_sharers": False,
        "expires": None,
        "review_by": START + 100 * DAY,
    }


def _by(kind: str, who: str, generation: int) -> Leaf:
    return {
        "kind": kind,
        "hold": "h1",
        "generation": generation,
        "approver": who,
        "role": "legal-approver",
    }


def _intent(purge: str, store: str, generation: int, holds: int) -> Leaf:
    return {
        "kind": "purge.intent",
        **_until(),
        "purge": purge,
        "store": store,
        "generation": generation,
        "policy": POLICY,
        "holds": holds,
    }


def _preserved(purge: str, before: int, rows: int, kept: list[Leaf], generation: int) -> Leaf:
    return {
        "kind": "purge.preserved",
        "purge": purge,
        "generation": generation,
        "rows_before": before,
        "rows": rows,
        "digest": ROOT,
        "holds": kept,
    }
