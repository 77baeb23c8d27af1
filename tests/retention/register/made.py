"""Holds, purges and registers to test with, and a comparison of a register with its log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from retention.audit.canonical import Leaf, decode
from retention.audit.log import AuditLog
from retention.audit.replay import Replay
from retention.audit.verify import verify
from retention.model import (
    DAY_US,
    NEVER,
    Approval,
    Hold,
    Kind,
    Partition,
    Place,
    Purge,
    ScopeItem,
    State,
    Step,
)
from retention.register import leaves
from retention.register.outbox import Stamped, stamp
from retention.register.store import Register
from tests.retention.audit.story import SIGNER, START

POLICY = hashlib.sha256(b"policy").hexdigest()
ROOT = hashlib.sha256(b"rows").hexdigest()
SUBSCRIBER = "subscriber-4711"
PLACE = Place("visit", 20260101)
SPAN = Partition(PLACE, START, START + DAY_US, START, START + DAY_US, 100)


def sha(text: str) -> str:
    """Stands in for both kinds of commitment."""
    return hashlib.sha256(text.encode()).hexdigest()


class Clock:
    """Nanoseconds that advance by a millisecond each time they are asked for."""

    def __init__(self, at_us: int = START + DAY_US) -> None:
        self.at_us = at_us

    def __call__(self) -> int:
        self.at_us += 1000
        return self.at_us * 1000


def item(n: int = 0, **changes: Any) -> ScopeItem:
    usual = ScopeItem(Kind.SUBSCRIBER, f"{SUBSCRIBER}-{n}", START, NEVER, ("visit", "call"))
    return replace(usual, **changes)


def hold(id: str = "H-2026-0001", **changes: Any) -> Hold:
    usual = Hold(
        id=id,
        matter="matter",
        basis="court-order",
        authority="a court",
        reference="ref 1",
        order_sha256=ROOT,
        served_us=START,
        requested=Approval("ann", "legal-requester", START + DAY_US),
        scope=(item(),),
        state=State.AWAITING_APPROVAL,
    )
    return replace(usual, **changes)


def purge(id: str = "P-2026-000001", **changes: Any) -> Purge:
    usual = Purge(
        id=id,
        partition=SPAN,
        store="live",
        retain_until_us=START + 10 * DAY_US,
        policy=POLICY,
        generation=0,
        step=Step.INTENT,
        operator="scheduler",
        intent_us=START + 12 * DAY_US,
        reason="test",
    )
    return replace(usual, **changes)


def submitted(of: Hold, generation: int) -> list[Leaf]:
    return leaves.hold_submitted(of, generation, sha, sha)


@contextmanager
def opened(folder: Path, now: Any = None) -> Iterator[Register]:
    """The register and log of a folder, open."""
    now = now or Clock()
    with AuditLog(folder / "audit", SIGNER, now) as log, Register(folder, log, now) as register:
        yield register


def log_leaves(register: Register) -> list[Leaf]:
    """Every leaf of the log but the genesis."""
    with register.audit() as log:
        return [decode(log.entry(index)) for index in range(1, log.size)]


def check_agrees(folder: Path, register: Register) -> list[Leaf]:
    """The log is good and tells of the very holds that the register has; give its leaves."""
    report = verify(folder / "audit")
    assert report.good, report.findings
    told = log_leaves(register)
    replay = Replay(SIGNER.key.name)
    with register.audit() as log:
        for index in range(log.size):
            replay.step(decode(log.entry(index)))
    assert register.is_settled
    assert replay.holds.generation == register.generation
    assert set(replay.holds.active()) == {each.id for each in register.protecting()}
    assert set(replay.holds.all) == {each.id for each in register.holds()}
    for each in register.holds():
        assert len(replay.holds.all[each.id].scope) == len(each.scope)
    return told


def stamped(*fields: Leaf, generation: int = 0, last_us: int = 0, now_us: int = START) -> Stamped:
    return stamp(fields, generation, last_us, now_us, 0)
