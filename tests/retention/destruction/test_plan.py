"""Decisions, one rule at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from retention.destruction.book import Book, Closure, closed_text, parse_closed, widened
from retention.destruction.plan import (
    SETTLE_US,
    Action,
    Decision,
    Knowledge,
    Plan,
    approve,
    approve_again,
    approve_slot,
    closures,
    iso,
    late_reason,
    plan,
    unavailable,
)
from retention.model import (
    DAY_US,
    GRACE_US,
    NEVER,
    OPEN_US,
    Approval,
    Hold,
    Partition,
    Place,
    Purge,
    ScopeItem,
    State,
    Step,
)
from retention.policy.partitions import span
from retention.vault.port import LateSlot
from tests.retention.destruction.world import START, item, policy

RULES = policy(30)
DAY = Place("visit", 20260101)
UNTIL = START + 30 * DAY_US
ANN = Approval("ann", "legal-requester", START)


def part(place: Place = DAY, rows: int = 3, **changed: Any) -> Partition:
    start, end = span(place)
    return replace(Partition(place, start, end, start, end, rows), **changed)


def hold(name: str, *scope: ScopeItem, state: State = State.PRESERVED, **changed: Any) -> Hold:
    made = Hold(name, "m", "court-order", "c", "r", "", START, ANN, scope or (item("a"),), state)
    return replace(made, **changed)


def purge(name: str, step: Step, place: Place = DAY, **changed: Any) -> Purge:
    made = Purge(name, part(place), "live", UNTIL, RULES.digest, 1, step, "ann", UNTIL + DAY_US)
    return replace(made, **changed)


def decided(now_us: int, **given: Any) -> Decision:
    usual: dict[str, Any] = {
        "partitions": [part()],
        "vaulted": [],
        "policy": RULES,
        "holds": [],
        "purges": [],
        "now_us": now_us,
        "trusted": True,
    }
    (found,) = plan(**(usual | given)).decisions
    return found


def test_kept_to_the_instant_then_closed_for_a_day_then_dropped() -> None:
    before = decided(UNTIL - 1)
    assert (before.action, before.reason) == (Action.KEEP, "its period ends 2026-01-31T00:00:00Z")
    assert before.retain_until_us == UNTIL
    assert before.opens_us == UNTIL + OPEN_US
    assert before.due_us == UNTIL + GRACE_US
    for now_us in (UNTIL, UNTIL + OPEN_US - 1):
        closed = decided(now_us)
        assert closed.action is Action.KEEP
        assert closed.reason.startswith("closed for writing; open for destruction from 2026-02-01")
    due = decided(UNTIL + OPEN_US)
    assert due.action is Action.DROP
    assert due.reason == "its period ended 2026-01-31T00:00:00Z; no hold meets it"


def test_a_hold_that_meets_it_makes_it_preserve() -> None:
    held = decided(UNTIL + OPEN_US, holds=[hold("H1"), hold("H2")])
    assert held.action is Action.PRESERVE
    assert held.holds == ("H1", "H2")
    assert "2 holds" in held.reason


@pytest.mark.parametrize(
    "other",
    [
        hold("H1", item("a", (1, 5))),
        hold("H1", item("a", (0, 5), "usage")),
        hold("H1", state=State.EXPIRED, ended_us=START),
        hold("H1", state=State.REJECTED),
        hold("H1", state=State.LAPSED),
    ],
)
def test_holds_of_other_times_and_classes_and_ended_ones_do_not_meet_it(other: Hold) -> None:
    assert decided(UNTIL + OPEN_US, holds=[other]).action is Action.DROP


@pytest.mark.parametrize(
    "state",
    [State.AWAITING_APPROVAL, State.AWAITING_PRESERVATION, State.PRESERVATION_NOT_AVAILABLE],
)
def test_holds_protect_from_submission_on(state: State) -> None:
    assert decided(UNTIL + OPEN_US, holds=[hold("H1", state=state)]).action is Action.PRESERVE


def test_a_hold_meets_what_rows_cover_not_only_the_day() -> None:
    wide = part(earliest_us=START - DAY_US, latest_us=START + 3 * DAY_US)
    later, earlier = hold("H1", item("a", (2, 3))), hold("H2", item("a", (-1, 0)))
    assert decided(UNTIL + OPEN_US, partitions=[wide], holds=[later, earlier]).holds == ("H1", "H2")


def test_an_untrusted_clock_keeps_everything() -> None:
    known = Knowledge(distrust="far-ahead")
    kept = decided(UNTIL + OPEN_US, trusted=False, known=known)
    assert kept.action is Action.KEEP
    assert kept.reason == "the clock is not trusted: far-ahead"


@pytest.mark.parametrize("step", [Step.INTENT, Step.PRESERVED])
def test_nothing_is_begun_before_what_was_begun_has_ended(step: Step) -> None:
    other = purge("P1", step, Place("usage", 202512))
    kept = decided(UNTIL + OPEN_US, purges=[other])
    assert kept.action is Action.KEEP
    assert "P1" in kept.reason


@pytest.mark.parametrize("step", [Step.DROPPED, Step.PENDING, Step.FINAL])
def test_a_place_is_not_destroyed_twice(step: Step) -> None:
    kept = decided(UNTIL + OPEN_US, purges=[purge("P1", step)])
    assert kept.action is Action.KEEP
    assert "destroyed by P1" in kept.reason


def test_a_failed_purge_is_tried_again() -> None:
    assert decided(UNTIL + OPEN_US, purges=[purge("P1", Step.FAILED)]).action is Action.DROP


def test_a_class_without_a_period_is_kept() -> None:
    odd = part(Place("visit", 20260101))
    rules = policy(30)
    without = replace(rules, classes={"usage": rules.classes["usage"]})
    assert decided(UNTIL + OPEN_US, partitions=[odd], policy=without).action is Action.KEEP


def test_ingest_has_to_know_for_a_while_that_a_place_is_closed() -> None:
    late = UNTIL + 20 * DAY_US
    untold = decided(late, known=Knowledge(closed={}))
    assert untold.action is Action.KEEP
    assert untold.opens_us == late + SETTLE_US
    assert untold.reason.startswith("to be closed for writing; open")
    told = Knowledge(closed={"visit": Closure(20260102, 0, late)})
    waiting = decided(late + SETTLE_US - 1, known=told)
    assert waiting.action is Action.KEEP and waiting.reason.startswith("closed for writing; open")
    assert decided(late + SETTLE_US, known=told).action is Action.DROP
    long_ago = Knowledge(closed={"visit": Closure(20260120, 20260102, late)})
    assert decided(late, known=long_ago).action is Action.DROP


def test_oldest_first_and_a_cap_keeps_the_others() -> None:
    places = [Place("visit", 20260103), Place("visit", 20260101), Place("usage", 202512)]
    whole = plan([part(each) for each in places], [], RULES, [], [], UNTIL + 9 * DAY_US, True)
    assert [each.place.number for each in whole.due] == [202512, 20260101, 20260103]
    capped = whole.cap(2)
    assert isinstance(capped, Plan)
    assert [each.place.number for each in capped.due] == [202512, 20260101]
    assert capped.decisions[2].reason == "beyond the cap of 2 places"
    assert len(whole.cap(0).due) == 0
    assert whole.cap(3) == whole


class TestVault:
    """Vault places are kept while holds keep them, and rebuilt when one has ended."""

    NOW = UNTIL + 40 * DAY_US

    def decided(self, held: dict[str, int], *holds: Hold, **given: Any) -> Decision:
        books = {DAY: Book(5, 5, held, START, START + DAY_US)}
        usual: dict[str, Any] = {"partitions": [], "known": Knowledge(books)}
        return decided(self.NOW, vaulted=[part()], holds=holds, **(usual | given))

    def test_kept_while_its_holds_protect(self) -> None:
        kept = self.decided({"H1": 5}, hold("H1"))
        assert kept.action is Action.KEEP
        assert kept.due_us == NEVER

    def test_rebuilt_when_one_of_its_holds_has_ended(self) -> None:
        ended = hold("H2", state=State.CANCELLED, ended_us=UNTIL + 39 * DAY_US)
        found = self.decided({"H1": 3, "H2": 4}, hold("H1"), ended)
        assert found.action is Action.REBUILD
        assert found.reason.startswith("H2 ended")
        assert found.due_us == UNTIL + 39 * DAY_US + GRACE_US

    def test_an_ended_hold_that_kept_nothing_there_changes_nothing(self) -> None:
        ended = hold("H2", state=State.CANCELLED, ended_us=UNTIL)
        assert self.decided({"H1": 5, "H2": 0}, hold("H1"), ended).action is Action.KEEP

    def test_live_rows_go_first(self) -> None:
        ended = hold("H2", state=State.EXPIRED, ended_us=UNTIL)
        books = {DAY: Book(5, 5, {"H2": 5}, START, START + DAY_US)}
        known = Knowledge(books)
        both = plan([part()], [part()], RULES, [ended], [], self.NOW, True, known)
        actions = {each.store: each.action for each in both.decisions}
        assert actions == {"live": Action.DROP, "vault": Action.KEEP}

    def test_a_copy_that_no_book_tells_of_is_left_to_the_next_purge(self) -> None:
        found = self.decided({"H1": 5}, hold("H1"), known=Knowledge())
        assert found.action is Action.KEEP
        assert "did not finish" in found.reason

    def test_not_before_the_period_is_over(self) -> None:
        ended = hold("H2", state=State.EXPIRED, ended_us=UNTIL)
        assert self.decided({"H2": 5}, ended, policy=policy(365)).action is Action.KEEP


def test_only_what_destroys_can_be_approved_and_only_where_it_is() -> None:
    drop = decided(UNTIL + OPEN_US)
    assert approve(drop, "P1", 7).generation == 7
    assert approve(drop, "P1", 7).store == "live"
    with pytest.raises(ValueError, match="kept"):
        approve(decided(UNTIL), "P1", 7)
    with pytest.raises(ValueError, match="rebuilt"):
        approve(replace(drop, store="vault"), "P1", 7)
    with pytest.raises(ValueError, match="rebuilt"):
        approve(replace(drop, action=Action.REBUILD), "P1", 7)
    assert approve_again(purge("P1", Step.PRESERVED)).purge == "P1"
    for step in set(Step) - {Step.PRESERVED}:
        with pytest.raises(ValueError, match="preserved"):
            approve_again(purge("P1", step))


def test_a_slot_is_approved_when_each_of_its_places_was_swept() -> None:
    other = Place("visit", 20260102)
    slot = LateSlot("visit", 77, (part(), part(other)))
    found = approve_slot(slot, "late-visit-77", [other, DAY], 3)
    assert (found.place, found.store, found.generation) == (Place("visit", 77), "late", 3)
    for swept in ([DAY], [DAY, other, Place("visit", 20260103)], []):
        with pytest.raises(ValueError, match="not swept"):
            approve_slot(slot, "late-visit-77", swept, 3)


def test_late_rows_wait_for_the_period_that_is_in_force() -> None:
    slot = LateSlot("visit", 77, (part(),))
    assert late_reason(slot, RULES, UNTIL, True) == ""
    assert "ends" in late_reason(slot, RULES, UNTIL - 1, True)
    assert "ends" in late_reason(slot, policy(90), UNTIL, True)
    assert "clock" in late_reason(slot, RULES, UNTIL, False)
    only = replace(RULES, classes={"usage": RULES.classes["usage"]})
    assert "no period" in late_reason(slot, only, UNTIL, True)


def test_what_is_closed_never_opens_again_where_rows_were_destroyed() -> None:
    now_us = UNTIL + 5 * DAY_US
    told = closures(RULES, [], {}, now_us)
    assert told["visit"] == Closure(20260107, 0, now_us)
    # A longer policy has a lower border: what was told stays, and surely what was destroyed.
    assert closures(policy(300), [], told, now_us + 1)["visit"] == told["visit"]
    gone = [purge("P1", Step.FINAL, Place("visit", 20260105))]
    assert closures(policy(300), gone, {}, now_us)["visit"].first_open == 20260106
    assert parse_closed(closed_text(told)) == told
    assert parse_closed(None) == {}


def test_a_closure_knows_since_when() -> None:
    first = Closure().moved(20260102, 1_000, SETTLE_US)
    assert (first.since(DAY), first.since(Place("visit", 20260102))) == (1_000, None)
    soon = first.moved(20260103, 2_000, SETTLE_US)
    assert soon.since(DAY) == 2_000, "not known to be settled, so the later of the two"
    later = first.moved(20260103, 1_000 + SETTLE_US, SETTLE_US)
    assert later.since(DAY) == 0
    assert later.moved(20260101, NEVER, SETTLE_US) == later


def test_unavailable_names_the_purges_that_destroyed_rows_of_the_scope() -> None:
    old = purge("P2", Step.FINAL, destroyed=3, dropped_us=20)
    new = purge("P1", Step.DROPPED, destroyed=1, dropped_us=30)
    nothing = purge("P3", Step.FINAL, destroyed=0, dropped_us=10)
    failed = purge("P4", Step.FAILED)
    elsewhere = purge("P5", Step.FINAL, Place("visit", 20260105), destroyed=3, dropped_us=5)
    purges = [new, old, nothing, failed, elsewhere]
    assert unavailable(hold("H", item("a", (0, 1))), purges) == ("P2", "P1")
    assert unavailable(hold("H", item("a", (0, 9))), purges) == ("P5", "P2", "P1")
    assert unavailable(hold("H", item("a", (0, 9), "usage")), purges) == ()


def test_spans_only_grow() -> None:
    inner = part(earliest_us=START + 5, latest_us=START + 9)
    assert (widened(inner).earliest_us, widened(inner).latest_us) == (START, START + DAY_US)
    book = Book(1, 1, {}, START - 7, START + 9)
    seen = {"earliest": START - 3, "latest": START + 2 * DAY_US}
    wide = widened(inner, seen, book, None)
    assert (wide.earliest_us, wide.latest_us) == (START - 7, START + 2 * DAY_US)
    assert Book.parse(book.text()) == book
    assert Book.parse(None) is None


def test_instants_are_shown_to_the_microsecond_where_they_have_any() -> None:
    assert iso(START) == "2026-01-01T00:00:00Z"
    assert iso(START + 1) == "2026-01-01T00:00:00.000001Z"
