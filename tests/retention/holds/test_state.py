from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.audit import leaf
from retention.audit.canonical import Leaf
from retention.audit.replay import Replay
from retention.holds import state
from retention.holds.errors import HoldRefused, ScopeError
from retention.holds.rules import Actor, Ending
from retention.holds.scope import parse
from retention.model import DAY_US, PROTECT_US, RELEASE_US, Hold, State
from retention.register import leaves
from tests.retention.audit.story import SIGNER, START
from tests.retention.holds.made import (
    ANN,
    BOB,
    CARL,
    DORA,
    NOW,
    RITA,
    draft,
    in_force,
    sha,
    submitted,
)

PEOPLE = [ANN, BOB, CARL, DORA, RITA, Actor("ann", "legal-approver"), Actor("ann", "dpo")]


def refused(code: str, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(HoldRefused) as caught:
        call(*args)
    assert caught.value.code == code


def test_a_submission_protects_at_once_and_lapses_after_72_hours() -> None:
    hold = submitted()
    assert hold.protects
    assert hold.state is State.AWAITING_APPROVAL
    assert state.due(hold, NOW + PROTECT_US - 1) is None
    assert state.due(hold, NOW + PROTECT_US) == (Ending.LAPSE, NOW + PROTECT_US)
    assert hold.protects, "until the transition is applied"
    ending, lapsed = state.end(hold, NOW + PROTECT_US)
    assert (ending, lapsed.state, lapsed.protects) == (Ending.LAPSE, State.LAPSED, False)
    refused("overdue", state.approve, hold, BOB, NOW + PROTECT_US)
    refused("wrong-state", state.approve, lapsed, BOB, NOW + PROTECT_US)
    refused("not-due", state.end, hold, NOW + PROTECT_US - 1)


def test_another_person_approves_and_settling_says_what_is_left() -> None:
    hold = submitted()
    refused("same-person", state.approve, hold, Actor("ann", "dpo"), NOW)
    refused("not-allowed", state.approve, hold, RITA, NOW)
    approved = state.approve(hold, BOB, NOW + 5)
    assert approved.state is State.AWAITING_PRESERVATION
    assert state.due(approved, NOW + PROTECT_US) is None
    assert state.settle(approved).state is State.PRESERVED
    gone = state.settle(approved, ("P-1", "P-2", "P-1"))
    assert gone.state is State.PRESERVATION_NOT_AVAILABLE
    assert gone.unavailable == ("P-1", "P-2")
    assert state.settle(gone, ("P-3",)).unavailable == ("P-1", "P-2", "P-3")
    refused("wrong-state", state.approve, gone, CARL, NOW + 6)
    refused("wrong-state", state.reject, gone, CARL, NOW + 6)


def test_what_is_missed_is_told_before_the_approval_too() -> None:
    hold = state.settle(submitted(), ("P-1",))
    assert (hold.state, hold.unavailable) == (State.AWAITING_APPROVAL, ("P-1",))
    approved = state.settle(state.approve(hold, BOB, NOW))
    assert approved.state is State.PRESERVATION_NOT_AVAILABLE
    assert approved.protects


def test_all_sharers_take_the_data_protection_officer() -> None:
    hold = submitted(all_sharers=True)
    refused("not-allowed", state.approve, hold, BOB, NOW)
    assert state.approve(hold, DORA, NOW).approved == state.approval(DORA, NOW)


def test_a_rejection_ends_at_once_and_only_before_the_approval() -> None:
    refused("same-person", state.reject, submitted(), Actor("ann", "legal-approver"), NOW)
    rejected = state.reject(submitted(), BOB, NOW + 1)
    assert (rejected.state, rejected.ended_us) == (State.REJECTED, NOW + 1)
    refused("ended", state.settle, rejected)


def test_an_extension_is_later_and_approved_by_another() -> None:
    hold = in_force()
    old, later = NOW + 90 * DAY_US, NOW + 200 * DAY_US
    for worse in (old, old - 1, NOW):
        refused("not-later", state.request_extension, hold, ANN, worse, NOW + 2)
    refused("not-allowed", state.request_extension, hold, BOB, later, NOW + 2)
    refused("no-end", state.request_extension, hold, ANN, None, NOW + 2)
    asked = state.request_extension(hold, ANN, later, NOW + 2)
    assert asked.expires_us == old
    refused("extension-waiting", state.request_extension, asked, RITA, later + 1, NOW + 2)
    refused("extension-waiting", state.request_release, asked, RITA, "over", NOW + 2)
    refused("same-person", state.approve_extension, asked, Actor("ann", "dpo"), NOW + 3)
    assert state.approve_extension(asked, BOB, NOW + 3).expires_us == later
    assert state.reject_extension(asked, BOB, NOW + 3) == hold
    refused("same-person", state.reject_extension, asked, Actor("ann", "dpo"), NOW + 3)
    refused("not-allowed", state.reject_extension, asked, RITA, NOW + 3)
    assert state.cancel_extension(asked, ANN, NOW + 3) == hold
    refused("other-person", state.cancel_extension, asked, RITA, NOW + 3)
    refused("not-allowed", state.cancel_extension, asked, BOB, NOW + 3)
    refused("nothing-waits", state.cancel_extension, hold, ANN, NOW + 3)
    refused("overdue", state.cancel_extension, asked, ANN, old)
    refused("nothing-waits", state.approve_extension, hold, BOB, NOW + 3)
    refused("overdue", state.approve_extension, asked, BOB, old)


def test_an_extension_may_take_the_expiry_away_where_a_review_is_set() -> None:
    hold = in_force(review_by_us=NOW + 30 * DAY_US)
    free = state.approve_extension(state.request_extension(hold, ANN, None, NOW + 2), BOB, NOW + 3)
    assert free.expires_us is None
    refused("no-change", state.request_extension, free, ANN, NOW + 900 * DAY_US, NOW + 4)


def test_a_release_takes_two_others_and_seven_days() -> None:
    hold = in_force()
    refused("wrong-state", state.request_release, submitted(), RITA, "over", NOW)
    refused("bad-request", state.request_release, hold, RITA, " ", NOW + 2)
    asked = state.request_release(hold, RITA, "case closed", NOW + 2)
    refused("release-waiting", state.request_release, asked, ANN, "again", NOW + 2)
    refused("release-waiting", state.request_extension, asked, ANN, NOW + 900 * DAY_US, NOW + 2)
    refused("same-person", state.approve_release, asked, Actor("rita", "dpo"), NOW + 3)
    refused("same-person", state.approve_release, asked, Actor("ann", "dpo"), NOW + 3)
    one = state.approve_release(asked, BOB, NOW + 3)
    refused("same-person", state.approve_release, one, Actor("bob", "dpo"), NOW + 4)
    assert state.due(one, NOW + 80 * DAY_US) is None, "one approval frees nothing"
    two = state.approve_release(one, CARL, NOW + DAY_US)
    refused("already-approved", state.approve_release, two, DORA, NOW + DAY_US)
    assert state.due(two, NOW + DAY_US + RELEASE_US - 1) is None
    ending, ended = state.end(two, NOW + DAY_US + RELEASE_US)
    assert (ending, ended.state) == (Ending.RELEASE, State.CANCELLED)


def test_one_person_calls_a_release_off_until_it_takes_effect() -> None:
    two = state.request_release(in_force(), RITA, "closed", NOW + 2)
    for who in (BOB, CARL):
        two = state.approve_release(two, who, NOW + 3)
    assert state.cancel_release(two, DORA, NOW + RELEASE_US) == in_force()
    refused("overdue", state.cancel_release, two, DORA, NOW + 3 + RELEASE_US)
    refused("nothing-waits", state.cancel_release, in_force(), DORA, NOW + 3)
    refused("not-allowed", state.cancel_release, two, Actor("otto", "operations"), NOW + 3)


def test_the_earliest_end_is_the_one_that_is_due() -> None:
    brief = submitted(expires_us=NOW + DAY_US)
    assert state.due(brief, NOW + 10 * DAY_US) == (Ending.EXPIRE, NOW + DAY_US)
    two = state.request_release(in_force(expires_us=NOW + 5 * DAY_US), RITA, "closed", NOW + 2)
    for who in (BOB, CARL):
        two = state.approve_release(two, who, NOW + 3)
    assert state.due(two, NOW + 20 * DAY_US) == (Ending.EXPIRE, NOW + 5 * DAY_US)


def test_an_overdue_review_frees_nothing() -> None:
    hold = in_force(expires_us=None, review_by_us=NOW + DAY_US)
    late = NOW + 400 * DAY_US
    assert not state.review_overdue(hold, NOW + DAY_US)
    assert state.review_overdue(hold, late)
    assert state.due(hold, late) is None
    assert hold.protects
    assert "overdue" in state.next_step(hold, late)


def test_one_person_renews_a_review_and_nothing_else_changes() -> None:
    hold = in_force(expires_us=None, review_by_us=NOW + DAY_US)
    late, next_us = NOW + 400 * DAY_US, NOW + 500 * DAY_US
    for who in (ANN, BOB, DORA):
        renewed = state.review(hold, who, next_us, late)
        assert renewed == replace(hold, review_by_us=next_us)
        assert not state.review_overdue(renewed, late)
    assert state.review(submitted(), BOB, next_us, NOW + 1).review_by_us == next_us
    refused("not-allowed", state.review, hold, Actor("otto", "operations"), next_us, late)
    for bad in (late, late - 1, late + 732 * DAY_US):
        refused("bad-review", state.review, hold, BOB, bad, late)
    refused("ended", state.review, state.reject(submitted(), BOB, NOW + 1), BOB, next_us, NOW + 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"matter": " "},
        {"authority": "a\nb"},
        {"reference": "x" * 1001},
        {"basis": "Court Order"},
        {"order_sha256": "abc"},
        {"served_us": NOW + 1},
        {"expires_us": NOW},
        {"expires_us": None},
        {"review_by_us": NOW - 1},
    ],
)
def test_drafts_that_cannot_be(changes: dict[str, Any]) -> None:
    refused("bad-request", state.submit, draft(**changes), "H-1", ANN, NOW)


def test_scopes_that_cannot_be() -> None:
    good = parse("subscriber", "sub-1", START, NOW)
    for items in ((), (replace(good, resolved=True),), (good,) * 65, (replace(good, to_us=0),)):
        with pytest.raises(ScopeError):
            state.submit(replace(draft(), scope=items), "H-1", ANN, NOW)
    line = parse("line", "7", START, NOW)
    assert submitted(line, resolve=False).scope[0].classes == ("session",)
    refused("not-allowed", state.submit, draft(), "H-1", BOB, NOW)


@pytest.mark.parametrize(
    ("hold", "says"),
    [
        (submitted(), "Protects already. Waits for the approval of another person"),
        (submitted(all_sharers=True), "the data protection officer"),
        (in_force(), "Expires on 2026-07-10 00:00 UTC."),
        (in_force(expires_us=None, review_by_us=NOW + DAY_US), "until it is released"),
        (state.request_extension(in_force(), ANN, NOW + 99 * DAY_US, NOW + 2), "An extension to"),
        (state.request_release(in_force(), ANN, "over", NOW + 2), "approval of two people"),
        (state.reject(submitted(), BOB, NOW + 1), "protects nothing any more"),
    ],
)
def test_what_happens_next_is_said_in_words(hold: Hold, says: str) -> None:
    assert says in state.next_step(hold, NOW + 3)


def test_an_end_that_is_due_is_said() -> None:
    assert "It was to end (lapse) on" in state.next_step(submitted(), NOW + 9 * DAY_US)


class Teller:
    """Tells a hold's transitions as leaves to a replay, and keeps what it finds wrong."""

    def __init__(self) -> None:
        self.replay = Replay(SIGNER.key.name)
        genesis = {"kind": "genesis", "origin": SIGNER.key.name, "key": str(SIGNER.key)}
        self.take(genesis, NOW)

    def take(self, told: Leaf, at: int) -> None:
        told = {"v": 1, "at": at} | told
        leaf.check(told)
        self.replay.step(told)

    def tell(self, before: Hold | None, after: Hold, actor: Actor, at: int) -> None:
        """What changed between two versions of a hold, as the desk tells it."""
        by, generation = state.approval(actor, at), self.replay.holds.generation
        if before is None:
            for each in leaves.hold_submitted(after, generation, sha, sha):
                self.take(each, at)
        elif after.approved and not before.approved:
            self.take(leaves.hold_approved(after, generation, sha), at)
            self.take(leaves.hold_preserved(after, generation + 1), at)
        elif after.state is State.REJECTED:
            self.take(leaves.hold_rejected(after, by, "no-basis", generation, sha), at)
        elif before.extension and after.expires_us != before.expires_us:
            self.take(leaves.hold_extended(after, before.extension, by, generation, sha), at)
        elif after.release and not before.release:
            self.take(leaves.hold_release_requested(after, generation, sha), at)
        elif before.release and not after.release:
            self.take(leaves.hold_release_cancelled(after, by, generation, sha), at)
        elif after.release != before.release:
            self.take(leaves.hold_release_approved(after, by, generation, sha), at)
        elif after.state is not before.state:
            ended = {
                State.LAPSED: leaves.hold_lapsed,
                State.EXPIRED: leaves.hold_expired,
                State.CANCELLED: leaves.hold_released,
            }[after.state]
            self.take(ended(after, generation), at)


def approve_what_waits(hold: Hold, actor: Actor, now: int) -> Hold:
    if hold.extension:
        return state.approve_extension(hold, actor, now)
    if hold.release:
        return state.approve_release(hold, actor, now)
    return state.settle(state.approve(hold, actor, now))


ACTIONS: dict[str, Callable[[Hold, Actor, int], Hold]] = {
    "approve": approve_what_waits,
    "approve twice": approve_what_waits,
    "reject": state.reject,
    "extend": lambda hold, actor, now: state.request_extension(hold, actor, now + 40 * DAY_US, now),
    "shorten": lambda hold, actor, now: state.request_extension(hold, actor, now + DAY_US, now),
    "unlimit": lambda hold, actor, now: state.request_extension(hold, actor, None, now),
    "withdraw": state.reject_extension,
    "release": lambda hold, actor, now: state.request_release(hold, actor, "over", now),
    "cancel": state.cancel_release,
    "end": lambda hold, actor, now: state.end(hold, now)[1],
}

steps = st.tuples(
    st.sampled_from(list(ACTIONS)),
    st.sampled_from(PEOPLE),
    st.sampled_from([0, 1, DAY_US, PROTECT_US - 1, PROTECT_US, RELEASE_US - DAY_US, RELEASE_US]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(steps, max_size=25),
    st.booleans(),
    st.sampled_from([None, NOW + 2 * DAY_US, NOW + 20 * DAY_US]),
)
def test_any_walk_of_a_hold_is_told_without_a_finding(
    walk: list[tuple[str, Actor, int]], all_sharers: bool, expires: int | None
) -> None:
    now, teller = NOW, Teller()
    hold = submitted(all_sharers=all_sharers, expires_us=expires, review_by_us=NOW + DAY_US)
    teller.tell(None, hold, ANN, now)
    for action, actor, wait in walk:
        now += wait
        before = hold
        try:
            hold = ACTIONS[action](hold, actor, now)
        except HoldRefused:
            assert hold is before
            continue
        teller.tell(before, hold, actor, now)
        active = teller.replay.holds.active()
        assert (hold.id in active) == hold.protects
        if hold.protects:
            assert active[hold.id].expires == hold.expires_us
            assert set(hold.scope) == set(before.scope)
    assert teller.replay.findings == []


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=25))
def test_time_alone_ends_a_hold_in_one_way_and_once(walk: list[tuple[str, Actor, int]]) -> None:
    now, hold = NOW, submitted()
    for action, actor, wait in walk:
        now += wait
        try:
            hold = ACTIONS[action](hold, actor, now)
        except HoldRefused as error:
            assert error.code
        found = state.due(hold, now)
        if found:
            assert hold.protects
            assert found.at_us <= now
            ended = state.end(hold, now)[1]
            assert not ended.protects
            assert state.due(ended, now + 999 * DAY_US) is None
