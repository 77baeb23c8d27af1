"""The desk over the real register and log; the store is a model, and every log is verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from collector.wire.addr import pack
from retention.audit.commit import CommitmentStore
from retention.holds import resolve
from retention.holds.columns import HISTORY_COLUMNS
from retention.holds.desk import RESOLVE_US, Actor, Desk, HoldRefused, NotFound
from retention.holds.instants import Covered
from retention.holds.matcher import keys
from retention.holds.rules import Ending
from retention.holds.scope import parse
from retention.holds.state import Draft
from retention.model import DAY_US, NEVER, PROTECT_US, RELEASE_US, Hold, ScopeItem, State
from retention.register.store import Busy, LogPending
from retention.vault.port import Columns
from tests.retention.destruction.world import START, World
from tests.retention.holds import reference
from tests.retention.holds.made import ANN, BOB, CARL, DORA, MINUTE, RITA
from tests.retention.model_vault import row

HOUR = 60 * MINUTE


class Office:
    """A world with a desk in it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.world = World(folder / "world")
        self.world.store.history = self._history  # type: ignore[method-assign]
        self.people = CommitmentStore(folder / "commitments", folder / "key")
        self.trusted = True
        self.options = options
        self.asked: list[Sequence[ScopeItem]] = []
        self.desk = self._desk()

    def _desk(self) -> Desk:
        return Desk(
            self.world.register,
            self.people,
            self.world.store,
            trusted=lambda: self.trusted,
            **self.options,
        )

    def restart(self) -> None:
        self.world.reboot()
        self.desk = self._desk()

    def _history(self, items: Sequence[ScopeItem]) -> Mapping[str, Columns]:
        """Rows that the narrowing admits, as an engine finds them."""
        self.asked.append(items)
        with self.world.store._call("history"):
            found: dict[str, Columns] = {}
            for name, columns in HISTORY_COLUMNS.items():
                asked = [replace(item, classes=(name,)) for item in items]
                narrowing = keys(name, asked)
                rows = [
                    each.values
                    for each in self.world.store.everything()
                    if each.record_class == name and reference.admits(narrowing, dict(each.values))
                ]
                found[name] = {column: [each[column] for each in rows] for column in columns}
            return found

    @property
    def now(self) -> int:
        return self.world.now_us()

    def draft(self, *items: ScopeItem, **changes: Any) -> Draft:
        usual: dict[str, Any] = {
            "matter": "matter 1",
            "basis": "court-order",
            "authority": "a court",
            "reference": "ref 1",
            "served_us": START,
            "scope": items or (parse("subscriber", "sub-1", START, START + 10 * DAY_US),),
            "expires_us": START + 300 * DAY_US,
        }
        return Draft(**(usual | changes))

    def place(self, *items: ScopeItem, **changes: Any) -> Hold:
        return self.desk.place(ANN, self.draft(*items, **changes))

    def in_force(self, *items: ScopeItem, **changes: Any) -> Hold:
        return self.desk.approve(DORA, self.place(*items, **changes).id)

    def bind(self, who: str, address: str, start: int, end: int, number: int = 1) -> None:
        """A binding row that arrives now."""
        session = number.to_bytes(16, "big")
        values: dict[str, Any] = {"valid_to_us": end, "prefix_len": 128, "session_id": session}
        values |= {"address": pack(address), "subscriber": who}
        self.world.store.ingest(row("binding", number, start, **values))

    def kinds(self) -> list[str]:
        """Kinds of the leaves on holds and people."""
        return [kind for kind in self.world.kinds() if kind.split(".")[0] in ("hold", "refusal")]

    def check(self) -> None:
        """The log is good, and tells of the holds that the register has."""
        assert self.world.findings() == []


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.check()
    made.world.close()


def refused(code: str, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(HoldRefused) as caught:
        call(*args)
    assert caught.value.code == code


def values(hold: Hold) -> set[str]:
    return {item.value for item in hold.scope if item.resolved}


def test_a_hold_from_its_order_to_its_release(office: Office) -> None:
    desk = office.desk
    hold = desk.place(ANN, office.draft())
    assert hold.id == "H-2026-0001"
    assert hold.state is State.AWAITING_APPROVAL
    assert desk.hold(hold.id) == hold
    assert desk.approve(BOB, hold.id).state is State.PRESERVED
    later = START + 400 * DAY_US
    for decide in (desk.cancel_extension, desk.reject):
        assert desk.extend(ANN, hold.id, later).extension
        assert decide(ANN if decide == desk.cancel_extension else BOB, hold.id).extension is None
    assert desk.extend(ANN, hold.id, later).extension
    assert desk.approve(BOB, hold.id).expires_us == later
    assert desk.review(ANN, hold.id, START + 90 * DAY_US).review_by_us == START + 90 * DAY_US
    desk.release(RITA, hold.id, "case closed")
    desk.approve(BOB, hold.id)
    assert desk.cancel_release(ANN, hold.id).release is None
    desk.release(RITA, hold.id, "case closed after all")
    desk.approve(BOB, hold.id)
    office.world.advance(DAY_US)
    desk.approve(CARL, hold.id)
    office.world.advance(RELEASE_US - HOUR)
    assert desk.tick().ended == {}
    office.world.advance(HOUR)
    assert desk.tick().ended == {hold.id: Ending.RELEASE}
    assert desk.hold(hold.id).state is State.CANCELLED
    assert desk.tick().ended == {}
    assert office.kinds() == [
        "hold.submitted",
        "hold.approved",
        "hold.preserved",
        "hold.extension-requested",
        "hold.extension-cancelled",
        "hold.extension-requested",
        "hold.extension-rejected",
        "hold.extension-requested",
        "hold.extended",
        "hold.reviewed",
        "hold.release-requested",
        "hold.release-approved",
        "hold.release-cancelled",
        "hold.release-requested",
        "hold.release-approved",
        "hold.release-approved",
        "hold.released",
    ]


def test_a_hold_that_nobody_approves_lapses_and_one_with_a_date_expires(office: Office) -> None:
    lapsing = office.place()
    expiring = office.in_force(expires_us=START + 2 * DAY_US)
    office.world.advance(2 * DAY_US)
    assert office.desk.tick().ended == {expiring.id: Ending.EXPIRE}
    office.world.advance(DAY_US)
    # Whoever comes first after the time is told so, whether or not a tick was there before.
    refused("wrong-state", office.desk.approve, BOB, lapsing.id)
    assert office.desk.hold(lapsing.id).state is State.LAPSED
    assert office.desk.tick().ended == {}


def test_every_refusal_is_a_leaf_and_changes_nothing(office: Office) -> None:
    hold = office.place()
    refused("same-person", office.desk.approve, Actor("ann", "dpo"), hold.id)
    refused("not-allowed", office.desk.reject, RITA, hold.id)
    refused("nothing-waits", office.desk.cancel_release, BOB, hold.id)
    refused("bad-request", office.desk.reject, BOB, hold.id, "Because I say so")
    refused("bad-scope", office.desk.place, ANN, replace(office.draft(), scope=()))
    with pytest.raises(NotFound):
        office.desk.approve(BOB, "H-2026-9999")
    with pytest.raises(NotFound):
        office.desk.hold("x" * 1000)
    assert office.desk.hold(hold.id) == hold
    assert [each["reason"] for each in office.world.leaves("refusal")] == [
        "same-person",
        "not-allowed",
        "nothing-waits",
        "bad-request",
        "bad-scope",
        "not-found",
    ]
    assert {each["action"] for each in office.world.leaves("refusal")} == {
        "hold.approve",
        "hold.reject",
        "hold.cancel-release",
        "hold.place",
    }
    assert office.desk.reject(BOB, hold.id, "no-basis").state is State.REJECTED


def test_an_api_can_tell_refusals_itself(tmp_path: Path) -> None:
    office = Office(tmp_path, tells_refusals=False)
    refused("not-allowed", office.desk.place, BOB, office.draft())
    assert office.kinds() == []


def test_a_rejected_extension_leaves_the_hold_and_is_told(office: Office) -> None:
    hold = office.in_force()
    office.desk.extend(ANN, hold.id, START + 400 * DAY_US)
    assert office.desk.reject(BOB, hold.id, "too-long") == hold
    (told,) = office.world.leaves("hold.extension-rejected")
    assert (told["hold"], told["reason"]) == (hold.id, "too-long")
    assert told["approver"] == office.people.person("bob")
    (asked,) = office.world.leaves("hold.extension-requested")
    assert asked["requester"] == office.people.person("ann")


def test_a_repeated_request_is_the_same_hold(office: Office) -> None:
    asked = office.draft()
    hold = office.desk.place(ANN, asked, "request 1")
    assert office.desk.place(ANN, asked, "request 1") == hold
    assert office.desk.place(ANN, replace(asked, served_us=START + 1), "request 1") == hold
    office.restart()
    assert office.desk.place(ANN, asked, "request 1") == hold
    refused("request-id-used", office.desk.place, ANN, replace(asked, matter="two"), "request 1")
    assert office.desk.place(RITA, asked, "request 1").id != hold.id, "another person's request"
    assert office.desk.place(ANN, asked).id == "H-2026-0003"
    refused("bad-request", office.desk.place, ANN, asked, "x" * 101)
    assert office.desk.place(ANN, asked, "request 1").id == hold.id


def test_a_retry_after_a_log_that_took_nothing_is_the_same_hold(office: Office) -> None:
    def fail(point: str) -> None:
        if point == "AuditLog.extend before":
            raise OSError(28, "no space left")

    office.world.faults.every = fail
    with pytest.raises(LogPending) as caught:
        office.desk.place(ANN, office.draft(), "request 1")
    assert caught.value.committed
    office.world.faults.every = lambda point: None
    assert office.desk.place(ANN, office.draft(), "request 1").id == "H-2026-0001"
    office.world.advance(HOUR)  # whatever is written next brings the log what it lacks
    assert office.kinds() == ["hold.submitted"]


def test_placing_resolves_at_once_through_the_store(office: Office) -> None:
    office.bind("sub-7", "192.0.2.7", START + HOUR, START + 2 * HOUR)
    office.bind("sub-8", "192.0.2.7", START + 2 * HOUR, START + 3 * HOUR, 2)
    hold = office.place(parse("address", "192.0.2.7", START, START + 2 * HOUR))
    assert values(hold) == {"sub-7"}
    assert office.kinds() == ["hold.submitted", "hold.grown"]
    assert office.place(hold.scope[0], resolve=False).scope == (resolve_nothing(hold.scope[0]),)


def resolve_nothing(item: ScopeItem) -> ScopeItem:
    """As a literal hold has it."""
    return replace(item, classes=("usage", "binding", "mapping", "visit", "call"))


def test_late_bindings_make_a_hold_grow_once(office: Office) -> None:
    hold = office.in_force(parse("subscriber", "sub-1", START, NEVER))
    assert hold.state is State.PRESERVED
    assert office.desk.tick().grown == {}
    office.bind("sub-1", "192.0.2.7", START, START + HOUR)
    assert office.desk.tick().grown == {}, "looked a moment ago"
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().grown == {hold.id: 1}
    office.bind("sub-1", "192.0.2.7", START + HOUR, START + 2 * HOUR, 2)
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().grown == {hold.id: 1}
    (item,) = (each for each in office.desk.hold(hold.id).scope if each.resolved)
    assert (item.from_us, item.to_us) == (START, START + 2 * HOUR), "merged with what it touches"
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().grown == {}
    assert office.kinds().count("hold.grown") == 2
    office.restart()
    assert office.desk.tick().grown == {}


def test_without_the_store_a_hold_protects_first_and_is_resolved_later(office: Office) -> None:
    office.bind("sub-1", "192.0.2.7", START, START + HOUR)
    office.world.store.dead = True
    hold = office.in_force(parse("subscriber", "sub-1", START, NEVER))
    assert hold.state is State.AWAITING_PRESERVATION
    assert office.desk.tick().problems == {hold.id: "store"}
    office.world.store.dead = False
    assert office.desk.tick().grown == {hold.id: 1}
    assert office.desk.hold(hold.id).state is State.PRESERVED
    assert values(office.desk.hold(hold.id)) == {"192.0.2.7/32"}


def test_a_shared_address_needs_a_port_or_all_sharers(tmp_path: Path) -> None:
    office = Office(tmp_path, shared=["198.51.100.0/24"])
    pool = parse("address", "198.51.100.7", START, NEVER)
    with pytest.raises(HoldRefused, match="identifier 2 is an address that several") as caught:
        office.place(parse("subscriber", "sub-1", START, NEVER), pool)
    assert "198.51" not in str(caught.value)
    office.world.store.ingest(
        row(
            "mapping",
            1,
            START,
            inside_address=pack("100.64.0.7"),
            port_last=2047,
            public_address=pack("192.0.2.1"),
            port_first=1024,
            end_us=START + HOUR,
        )  # fmt: skip
    )
    seen = parse("address", "192.0.2.1", START, NEVER)
    refused("bad-scope", office.place, seen)
    assert values(office.place(replace(seen, ports=(1024, 1024)))) == {"100.64.0.7/32"}
    hold = office.place(seen, pool, all_sharers=True)
    refused("not-allowed", office.desk.approve, BOB, hold.id)
    assert office.desk.approve(DORA, hold.id).state is State.PRESERVED
    office.world.store.dead = True
    refused("bad-scope", office.place, pool)
    assert office.place(seen).protects, "whether it is shared cannot be seen now"
    office.check()


def test_too_wide_a_scope_is_refused_and_later_growth_an_alarm(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "MAX_RESOLVED", 2)
    for n in range(2):
        office.bind("sub-1", f"192.0.2.{n}", START, START + HOUR, n + 1)
    item = parse("subscriber", "sub-1", START, NEVER)
    hold = office.in_force(item)
    office.bind("sub-1", "192.0.2.9", START, START + HOUR, 9)
    refused("too-wide", office.place, item)
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().problems == {hold.id: "too-wide"}
    assert office.desk.hold(hold.id) == hold, "nothing is added by halves"


def visits(subscriber: str, count: int, first: int = 0) -> list[Any]:
    return [row("visit", first + n, START + n, subscriber=subscriber) for n in range(count)]


def test_what_was_destroyed_before_is_told_at_once(office: Office) -> None:
    office.world.store.ingest(*visits("sub-1", 3))
    office.world.open_for(0)
    assert [each.state for each in office.world.run().outcomes] == ["destroyed"]
    office.world.purger.certificates.issue()
    hold = office.place()
    assert hold.state is State.AWAITING_APPROVAL
    assert hold.unavailable == ("P-2026-000001",)
    assert office.desk.approve(BOB, hold.id).state is State.PRESERVATION_NOT_AVAILABLE
    assert "hold.preserved" not in office.kinds()
    (gone,) = office.desk.coverage(hold.id).unavailable
    assert gone.destroyed == 3
    elsewhere = office.in_force(parse("subscriber", "sub-1", START + DAY_US, NEVER))
    assert (elsewhere.state, elsewhere.unavailable) == (State.PRESERVED, ())


def test_growth_after_a_purge_tells_what_it_came_too_late_for(office: Office) -> None:
    address = pack("192.0.2.7")
    office.world.store.ingest(row("visit", 1, START, address=address, prefix_len=128))
    hold = office.in_force(parse("subscriber", "sub-1", START, START + DAY_US, ["usage", "visit"]))
    office.world.open_for(0)
    office.world.run()
    office.world.purger.certificates.issue()
    # The partition met the hold already, but nothing led to this row of nobody: it is gone.
    office.bind("sub-1", "192.0.2.7", START, START + HOUR)
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().grown == {hold.id: 1}
    found = office.desk.hold(hold.id)
    assert found.state is State.PRESERVATION_NOT_AVAILABLE
    assert found.unavailable == ("P-2026-000001",)
    assert found.protects


def test_a_purge_that_the_hold_was_there_for_is_nothing_missed(office: Office) -> None:
    office.world.store.ingest(*visits("sub-1", 3), *visits("sub-2", 2, 10))
    hold = office.in_force(parse("subscriber", "sub-1", START, START + 20 * DAY_US))
    office.world.open_for(0)
    office.world.run()
    office.world.purger.certificates.issue()
    day = START + 2 * DAY_US
    office.bind("sub-1", "192.0.2.7", day, day + HOUR)
    office.world.advance(RESOLVE_US)
    assert office.desk.tick().grown == {hold.id: 1}
    found = office.desk.hold(hold.id)
    assert (found.state, found.unavailable) == (State.PRESERVED, ())
    assert len(office.world.store.vault) == 1


def test_coverage_counts_both_stores_and_a_row_in_both_once(office: Office) -> None:
    mine, others = visits("sub-1", 3), visits("sub-2", 4, 10)
    office.world.store.ingest(*mine, *others, row("visit", 50, START + DAY_US, subscriber="sub-1"))
    hold = office.in_force()
    office.world.open_for(0)
    office.world.run()
    office.world.purger.certificates.issue()
    found = office.desk.coverage(hold.id)
    assert [(each.partition.place.number, each.live, each.vault) for each in found.places] == [
        (20260101, 0, 3),
        (20260102, 1, 0),
    ]
    assert found.by_class()["visit"][:2] == (2, 4)
    assert found.by_class()["visit"][2] == START
    first = found.places[0].partition.place
    office.world.store.live[first] = [mine[0]]
    both = office.desk.coverage(hold.id).places[0]
    assert (both.live, both.vault, both.rows) == (1, 3, 3)
    del office.world.store.live[first]
    with pytest.raises(NotFound):
        office.desk.coverage("H-2026-0009")


def test_an_untrusted_clock_ends_no_hold_and_approves_no_release(office: Office) -> None:
    hold = office.place()
    other = office.in_force()
    office.desk.release(RITA, other.id, "over")
    office.trusted = False
    refused("clock-untrusted", office.desk.approve, BOB, other.id)
    office.world.advance(PROTECT_US)
    assert office.desk.tick().ended == {}
    assert office.desk.hold(hold.id).protects
    assert office.place().protects
    office.trusted = True
    assert office.desk.tick().ended == {hold.id: Ending.LAPSE}


def test_an_overdue_review_is_listed_every_time(office: Office) -> None:
    hold = office.in_force(expires_us=None, review_by_us=START + DAY_US)
    office.world.advance(2 * DAY_US)
    assert office.desk.tick().overdue_reviews == [hold.id]
    assert office.desk.tick().overdue_reviews == [hold.id]
    assert office.desk.hold(hold.id).protects


def test_nothing_is_done_while_another_has_the_lock(office: Office) -> None:
    """A purge has it from its intent to its outcome."""
    held, release = threading.Event(), threading.Event()

    def purge() -> None:
        with office.world.register.exclusive():
            held.set()
            release.wait(10)

    thread = threading.Thread(target=purge)
    thread.start()
    held.wait(10)
    with pytest.raises(Busy), office.world.register.exclusive(0.01):
        pass
    placed: list[Hold] = []
    other = threading.Thread(target=lambda: placed.append(office.place()))
    other.start()
    other.join(0.2)
    assert not placed
    release.set()
    for each in (thread, other):
        each.join(10)
    assert placed[0].protects


def test_no_identifier_or_name_is_in_the_log_or_a_message(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sub-of-mr-smith"
    office.world.store.dead = True
    hold = office.in_force(parse("subscriber", secret, START, NEVER), matter="smith")
    office.desk.tick()
    office.world.store.dead = False
    refused("same-person", office.desk.approve, Actor("ann", "dpo"), office.place().id)
    text = caplog.text + "".join(map(str, office.world.leaves()))
    assert hold.id in text
    for word in (secret, "smith", "ann"):
        assert word not in text.replace("annual", "")


PEOPLE = st.sampled_from([ANN, BOB, CARL, DORA, RITA, Actor("ann", "dpo")])


class Machine(RuleBasedStateMachine):
    """People, time, crashes and bindings in any order: the log never has a finding, and a hold
    that protects never covers less than before."""

    folder: Path
    count = 0

    @initialize()
    def begin(self) -> None:
        Machine.count += 1
        self.office = Office(self.folder / str(Machine.count))
        self.covered: dict[str, tuple[ScopeItem, ...]] = {}

    def _try(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except HoldRefused as error:
            assert error.code != "not-found"

    @rule(who=PEOPLE, sub=st.sampled_from(["sub-1", "sub-2"]), days=st.integers(3, 40))
    def place(self, who: Actor, sub: str, days: int) -> None:
        draft = self.office.draft(
            parse("subscriber", sub, START, START + days * DAY_US),
            expires_us=self.office.now + days * DAY_US,
        )
        self._try(self.office.desk.place, who, draft)

    @rule(who=PEOPLE, at=st.integers(0, 5), what=st.sampled_from(["approve", "reject", "cancel"]))
    def decide(self, who: Actor, at: int, what: str) -> None:
        holds = self.office.world.register.holds()
        if holds:
            desk = self.office.desk
            call = {"approve": desk.approve, "reject": desk.reject, "cancel": desk.cancel_release}
            self._try(call[what], who, holds[at % len(holds)].id)

    @rule(who=PEOPLE, at=st.integers(0, 5), days=st.integers(1, 60))
    def extend(self, who: Actor, at: int, days: int) -> None:
        holds = self.office.world.register.holds()
        if holds:
            until = self.office.now + days * DAY_US
            self._try(self.office.desk.extend, who, holds[at % len(holds)].id, until)

    @rule(who=PEOPLE, at=st.integers(0, 5))
    def release(self, who: Actor, at: int) -> None:
        holds = self.office.world.register.holds()
        if holds:
            self._try(self.office.desk.release, who, holds[at % len(holds)].id, "over")

    @rule(number=st.integers(1, 6), sub=st.sampled_from(["sub-1", "sub-2"]))
    def bind(self, number: int, sub: str) -> None:
        start = START + number * HOUR
        self.office.bind(sub, f"192.0.2.{number % 2}", start, start + HOUR, number)

    @rule(hours=st.sampled_from([1, 11, 24, 24 * 3, 24 * 7]))
    def wait(self, hours: int) -> None:
        self.office.world.advance(hours * HOUR)
        self.office.desk.tick()

    @rule()
    def restart(self) -> None:
        self.office.restart()

    @invariant()
    def holds_only_grow(self) -> None:
        if not hasattr(self, "office"):
            return
        for hold in self.office.world.register.holds():
            before = self.covered.get(hold.id, ())
            assert not Covered(hold.scope).missing(before)
            self.covered[hold.id] = hold.scope

    def teardown(self) -> None:
        if hasattr(self, "office"):
            self.office.check()
            self.office.world.close()


def test_any_order_of_people_and_time_gives_a_good_log(tmp_path: Path) -> None:
    Machine.folder = tmp_path
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
