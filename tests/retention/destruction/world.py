"""One appliance in a folder: log, register, guard, destruction, and the store as a model.

What is in memory can be thrown away at any moment (`reboot`), as a SIGKILL does; the store and the
folder stay. Faults are injected by name: each call of the store, each write of the register and
each append to the log is a point before and a point after.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retention.audit import canonical
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import LOG, Signer
from retention.audit.log import AuditLog
from retention.audit.verify import verify
from retention.destruction.context import Context
from retention.destruction.evidence import Checked, Verifier
from retention.destruction.plan import Plan
from retention.destruction.purge import Purger, Run
from retention.destruction.resume import Settled
from retention.model import (
    DAY_US,
    PROTECT_US,
    RELEASE_US,
    Approval,
    Extension,
    Hold,
    Kind,
    Release,
    ScopeItem,
    State,
)
from retention.policy.model import Policy, Rule, Terms
from retention.policy.model import Register as Processing
from retention.register import leaves as build
from retention.register.clock import MARK, ClockGuard, latest_us
from retention.register.store import Register
from retention.vault.port import Approved, Vault
from tests.retention.model_vault import Crash, ModelVault

START = 1_767_225_600_000_000  # 2026-01-01
HOUR = 3_600_000_000
ORIGIN = "log.example/retention"
SIGNER = Signer(ORIGIN, LOG, Ed25519PrivateKey.from_private_bytes(bytes(32)))
CLOCKS = {"binding": "entity-data", "mapping": "entity-data"}
NAMES = ("usage", "session", "binding", "mapping", "visit", "call")
ANN, BOB, CARL = (Approval(n, "legal-requester", 0) for n in ("ann", "bob", "carl"))


def policy(days: int = 30, months: int = 0, **others: int) -> Policy:
    """A policy with one period for all classes, or other days for some."""
    return Policy(
        START,
        (),
        {name: _terms(name, months, others.get(name, days)) for name in NAMES},
        (),
        {},
        Processing("", "", "", "", "", "", ""),
    )


def _terms(name: str, months: int, days: int) -> Terms:
    clock = CLOCKS.get(name, "communication")
    return Terms(name, {"faults": Rule(months, days, clock, "a basis", "an owner")}, ())


def item(subscriber: str, days: tuple[float, float] = (0, 20000), *classes: str) -> ScopeItem:
    """A subscriber, from and to so many days after START."""
    first, last = (START + int(day * DAY_US) for day in days)
    known = ("usage", "session", "binding", "visit", "call")
    return ScopeItem(Kind.SUBSCRIBER, subscriber, first, last, classes or known)


def person(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Clock:
    """Time as it is (`true_us`), and the clock that shows `off_us` more."""

    def __init__(self, at_us: int) -> None:
        self.true_us, self.off_us = at_us, 0

    def now(self) -> int:
        return (self.true_us + self.off_us) * 1000

    def passed(self) -> int:
        return self.true_us * 1000

    def seconds(self) -> int:
        return self.true_us // 1_000_000


class Faults:
    """Calls `act` at one point of all that are passed, or never. Points are counted from 0."""

    def __init__(self) -> None:
        self.count, self.at = 0, -1
        self.named, self.left = "", 0
        self.act: Callable[[], None] = lambda: None
        self.seen = list[str]()
        self.every: Callable[[str], None] = lambda point: None

    def arm(self, at: int, act: Callable[[], None]) -> None:
        self.count, self.at, self.act = 0, at, act
        self.seen.clear()

    def at_name(self, method: str, when: str, nth: int, act: Callable[[], None]) -> None:
        """Call `act` the nth time that one method's point is passed."""
        self.disarm()
        self.named, self.left, self.act = f"{method} {when}", nth, act

    def disarm(self) -> None:
        self.at, self.named = -1, ""
        self.seen.clear()

    def point(self, name: str, when: str) -> None:
        self.seen.append(f"{name} {when}")
        self.every(f"{name} {when}")
        if f"{name} {when}" == self.named:
            self.left -= 1
            if self.left < 0:
                self.named = ""
                self.act()
        self.count += 1
        if self.at == self.count - 1:
            self.at = -1
            self.act()


def crash() -> None:
    raise Crash


class World:
    """Everything, in a folder. `policy` is in force once `load` has told the log."""

    def __init__(
        self,
        folder: Path,
        rules: Policy | None = None,
        like: World | None = None,
        vault: Vault | None = None,
        store: Any = None,
    ) -> None:
        """A new world at START; or one `like` another that is closed, in a folder of its own.

        vault: a real store in the model's place; then there are no faults of the store. store: one
        that has faults as the model has (`engine_store.py`).
        """
        self.folder = folder
        self.rules: Policy = rules or (like.rules if like else policy())
        self.clock: Clock = Clock(like.clock.true_us if like else START)
        self.faults = Faults()
        self.store: ModelVault = store or ModelVault(self.clock.seconds)
        self.store.fault = self.faults.point
        self.store.destroying = self._destroying
        self.destroyed = list[tuple[str, Approved]]()
        self._leaves = list[Leaf]()
        if like:
            shutil.copytree(like.folder, folder)
            for name in ("live", "vault", "late"):
                there = getattr(like.store, name)
                setattr(self.store, name, {at: list(rows) for at, rows in there.items()})
            self.store.closed = dict(like.store.closed)
        self._vault = vault or self.store
        self.boot()
        if not like:
            self.load(self.rules)

    # The process.

    def boot(self) -> None:
        """Build all objects from what the disk has; settles nothing yet."""
        self.log = AuditLog(self.folder / "log", SIGNER, self.clock.now)
        self.log.open()
        self.register = Register(self.folder / "register", self.log, self.clock.now)
        self.register.open()
        self._wrap(self.register, "write")
        self._wrap(self.log, "extend")
        self._wrap(self.log, "keep_certificate")
        guard = ClockGuard(
            self.register, self.clock.now, synchronised=lambda: None, passed=self.clock.passed
        )
        self.context = Context(self.register, self._vault, guard, lambda: self.rules, person)
        self.purger = Purger(self.context)
        self.verifier = Verifier(self.context)

    def _wrap(self, thing: Any, method: str) -> None:
        inner, name = getattr(thing, method), f"{type(thing).__name__}.{method}"

        def wrapped(*given: Any, **named: Any) -> Any:
            self.faults.point(name, "before")
            found = inner(*given, **named)
            self.faults.point(name, "after")
            return found

        setattr(thing, method, wrapped)

    def close(self) -> None:
        self.register.close()
        self.log.close()

    def reboot(self) -> Settled:
        """SIGKILL and a new start."""
        self.faults.disarm()
        self.close()
        self.boot()
        return self.purger.resumer.start()

    # Time and policy.

    def now_us(self) -> int:
        return self.clock.true_us

    def advance(self, us: int) -> None:
        """Let time pass, with a heartbeat and a look at the clock, as the service has."""
        while us > 0:
            step = min(us, 5 * DAY_US)
            self.clock.true_us += step
            us -= step
            self.register.write(leaves=[build.heartbeat()])
            self.context.guard.check()

    def load(self, rules: Policy) -> None:
        self.rules = rules
        self.register.write(leaves=[build.policy_loaded(rules.leaf())])

    # What the service does by itself.

    def observe(self) -> None:
        self.purger.observe()

    def plan(self) -> Plan:
        return self.purger.plan()

    def run(self, **given: Any) -> Run:
        return self.purger.run(self.purger.plan(), **given)

    def verify(self) -> Checked:
        return self.verifier.run()

    def open_for(self, day: float) -> None:
        """Let time pass until partitions of that day after START, 30 days kept, are open."""
        at = START + int(day * DAY_US) + 30 * DAY_US
        self.advance(max(0, at - self.now_us()))
        self.observe()
        self.advance(DAY_US + HOUR)

    # Holds, written as the desk writes them.

    def submit(self, *scope: ScopeItem, expires_us: int | None = None) -> Hold:
        register = self.register
        with register.exclusive():
            at_us = latest_us(register.now() // 1000, register.note(MARK))
            hold = Hold(
                register.next_id("H"), "m", "court-order", "c", "r", "", at_us,
                replace(ANN, at_us=at_us), scope, State.AWAITING_APPROVAL, expires_us=expires_us,
            )  # fmt: skip
            hold = replace(hold, unavailable=self.purger.unavailable(hold))
            register.write(
                holds=[hold], leaves=build.hold_submitted(hold, register.generation, person, person)
            )
        return hold

    def approve(self, name: str) -> Hold:
        hold, by = self._hold(name), self._by(BOB)
        state = State.PRESERVATION_NOT_AVAILABLE if hold.unavailable else State.PRESERVED
        hold = replace(hold, approved=by, state=state)
        generation = self.register.generation
        owed = [build.hold_approved(hold, generation, person)]
        if hold.unavailable:
            owed += build.hold_unavailable(hold, generation + 1)
        else:
            owed.append(build.hold_preserved(hold, generation + 1))
        self.register.write(holds=[hold], leaves=owed)
        return hold

    def hold(self, *scope: ScopeItem, expires_us: int | None = None) -> Hold:
        """Submitted and approved."""
        return self.approve(self.submit(*scope, expires_us=expires_us).id)

    def grow(self, name: str, *scope: ScopeItem) -> Hold:
        old = self._hold(name)
        missed = self.purger.unavailable(replace(old, scope=scope))
        new = tuple(each for each in missed if each not in old.unavailable)
        hold = replace(old, scope=(*old.scope, *scope), unavailable=(*old.unavailable, *new))
        owed = build.hold_grown(name, scope, self.register.generation, person)
        if new and hold.approved:  # else its approval tells
            hold = replace(hold, state=State.PRESERVATION_NOT_AVAILABLE)
            told = replace(hold, unavailable=new)
            owed += build.hold_unavailable(told, self.register.generation + len(owed))
        self.register.write(holds=[hold], leaves=owed)
        return hold

    def lapse(self, name: str) -> Hold:
        return self._end(name, State.LAPSED, build.hold_lapsed)

    def expire(self, name: str) -> Hold:
        return self._end(name, State.EXPIRED, build.hold_expired)

    def extend(self, name: str, expires_us: int | None) -> Hold:
        hold, by = self._hold(name), self._by(BOB)
        wish = Extension(self._by(ANN), expires_us)
        generation = self.register.generation
        owed = [build.hold_extension_requested(replace(hold, extension=wish), generation, person)]
        hold = replace(hold, expires_us=expires_us)
        owed.append(build.hold_extended(hold, wish, by, generation, person))
        self.register.write(holds=[hold], leaves=owed)
        return hold

    def ask_release(self, name: str) -> Hold:
        hold = replace(self._hold(name), release=Release(self._by(ANN)))
        generation = self.register.generation
        by = (self._by(BOB), self._by(CARL))
        assert hold.release
        hold = replace(hold, release=replace(hold.release, approvals=by))
        owed = [build.hold_release_requested(hold, generation, person)]
        owed += [build.hold_release_approved(hold, each, generation, person) for each in by]
        self.register.write(holds=[hold], leaves=owed)
        return hold

    def release(self, name: str) -> Hold:
        """A release that was asked for seven days ago."""
        return self._end(name, State.CANCELLED, build.hold_released)

    def released(self, name: str) -> None:
        """Ask, wait the seven days, release."""
        self.ask_release(name)
        self.advance(RELEASE_US)
        self.release(name)

    def _end(self, name: str, state: State, leaf: Callable[[Hold, int], Leaf]) -> Hold:
        hold = replace(self._hold(name), state=state, ended_us=self.register.now() // 1000)
        self.register.write(holds=[hold], leaves=[leaf(hold, self.register.generation)])
        return hold

    def _hold(self, name: str) -> Hold:
        hold = self.register.hold(name)
        assert hold is not None
        return hold

    def _by(self, who: Approval) -> Approval:
        role = "legal-requester" if who is ANN else "legal-approver"
        return replace(who, role=role, at_us=self.register.now() // 1000)

    # What an outsider and a test see.

    def leaves(self, *kinds: str) -> list[Leaf]:
        """The log's leaves of these kinds, or all."""
        with self.register.audit() as log:  # no thread appends meanwhile
            for index in range(len(self._leaves), log.size):  # it only grows
                self._leaves.append(canonical.decode(log.entry(index)))
        return [each for each in self._leaves if not kinds or each["kind"] in kinds]

    def kinds(self) -> list[str]:
        return [str(each["kind"]) for each in self.leaves()]

    def findings(self) -> list[str]:
        """What `audit verify` finds in the log's folder."""
        report = verify(self.folder / "log", SIGNER.key)
        return [f"{each.where} {each.rule}: {each.text}" for each in report.findings]

    def there(self) -> set[bytes]:
        """Keys of all rows in all stores."""
        return {each.key for each in self.store.everything()}

    def _destroying(self, what: str, approved: Approved) -> None:
        """Each destructive statement has its intent in the log, at the present generation."""
        assert approved.generation == self.register.generation, "a statement at an old generation"
        self.destroyed.append((what, approved))
        last = {str(each.get("purge")): each for each in self.leaves("purge.preserved")}
        if approved.store == "late":
            assert self.kinds().count("late.swept")
            return
        intent = [e for e in self.leaves("purge.intent") if e["purge"] == approved.purge]
        assert len(intent) == 1
        assert intent[0]["generation"] == approved.generation
        assert intent[0]["store"] == approved.store
        assert approved.purge in last, "nothing was preserved before"


def lapse_at(hold: Hold) -> int:
    return hold.requested.at_us + PROTECT_US


def by_id(items: Iterable[Any]) -> Mapping[str, Any]:
    return {each.id: each for each in items}
