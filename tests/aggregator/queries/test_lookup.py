"""Grades by hand-made evidence: one rule a test. The simulated week is in test_lookup_week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from aggregator.queries.evidence import FOREVER, Holding, Lost, Mapping, Margins, Question
from aggregator.queries.lookup import Answer, Grade, look_up
from collector.wire.addr import pack

S = 1_000_000
M = 60 * S
T = 1_800_000_000 * S
PUBLIC, INSIDE = pack("192.0.2.1"), pack("10.0.0.1")
MARGINS = Margins(clock_us=S, tail_us=5 * M, settle_us=20 * M)

HOLDING = Holding(("b1",), "edge-1", "sub-1", "s1", INSIDE, 128, T - 60 * M, T + 60 * M, T + 60 * M)
BLOCK = Mapping("m1", "block", "edge-1", INSIDE, 0, 0, 4000, 4999, T - 30 * M, T + 30 * M)
FLOW = Mapping("m2", "flow", "edge-1", INSIDE, 5000, 6, 4321, 4321, T - M, T + M)


@dataclass
class Known:
    """Evidence as a test lists it."""

    mapped: list[Mapping] = field(default_factory=list)
    held: list[Holding] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    shared: int | None = None

    def mappings(self, question: Question, from_us: int, to_us: int) -> Sequence[Mapping]:
        return self.mapped

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        return self.shared

    def holdings(self, address: bytes, from_us: int, to_us: int) -> Sequence[Holding]:
        return [each for each in self.held if each.prefix == address]

    def losses(self, from_us: int, to_us: int) -> Sequence[Lost]:
        return [each for each in self.lost if each.start_us < to_us and from_us < each.end_us]


def ask(known: Known, port: int | None = 4321, at: int = T, address: bytes = PUBLIC) -> Answer:
    return look_up(Question(address, at, 2 * S, port, 6 if port else None), known, MARGINS)


def lost(what: str, start: int, end: int, collector: str = "edge-1") -> Lost:
    return Lost(what, collector, start, end, "capture:kernel-drop")


@pytest.mark.parametrize("mapping", [BLOCK, FLOW])
def test_proven_over_the_tolerance_is_certain(mapping: Mapping) -> None:
    answer = ask(Known([mapping], [HOLDING]))
    assert (answer.grade, answer.count) == (Grade.CERTAIN, 1)
    (one,) = answer.candidates
    assert (one.subscriber, one.mapping, one.holding) == ("sub-1", mapping, HOLDING)


def test_a_direct_binding_needs_no_mapping_and_no_port() -> None:
    for port in (None, 4321):
        assert ask(Known([], [HOLDING]), port, address=INSIDE).grade is Grade.CERTAIN


def test_the_tail_after_the_last_evidence_is_bounded() -> None:
    open_session = replace(HOLDING, proof_us=T - 10 * M, latest_us=FOREVER)
    assert ask(Known([], [open_session]), None, address=INSIDE).grade is Grade.BOUNDED
    assert ask(Known([FLOW], [HOLDING]), at=T + 2 * M).grade is Grade.BOUNDED
    released_unheard = replace(BLOCK, end_us=BLOCK.start_us, is_open=True)
    assert ask(Known([released_unheard], [HOLDING])).grade is Grade.BOUNDED


def test_the_tail_ends_where_the_port_or_address_is_given_to_another() -> None:
    other = replace(HOLDING, subscriber="sub-2", session="s2", start_us=T - 5 * M)
    before = replace(HOLDING, proof_us=T - 10 * M, latest_us=FOREVER)
    answer = ask(Known([], [before, other]), None, address=INSIDE)
    assert (answer.grade, answer.candidates[0].subscriber) == (Grade.CERTAIN, "sub-2")
    open_block = replace(BLOCK, end_us=BLOCK.start_us, is_open=True)
    second = pack("10.0.0.2")
    next_block = replace(BLOCK, record="m9", inside=second, start_us=T - 10 * M)
    held = [HOLDING, replace(HOLDING, subscriber="sub-2", session="s2", prefix=second)]
    answer = ask(Known([open_block, next_block], held))
    assert (answer.grade, answer.candidates[0].subscriber) == (Grade.CERTAIN, "sub-2")


def test_a_change_of_hands_within_the_tolerance_is_ambiguous() -> None:
    first = replace(HOLDING, proof_us=T - S, latest_us=T - S)
    second = replace(HOLDING, subscriber="sub-2", session="s2", start_us=T + S)
    answer = ask(Known([], [first, second]), None, address=INSIDE)
    assert (answer.grade, answer.count) == (Grade.AMBIGUOUS, 2)
    assert {each.subscriber for each in answer.candidates} == {"sub-1", "sub-2"}


def test_the_clock_error_widens_every_edge() -> None:
    """Inside the tolerance by the evidence's own times, outside of what they are good for."""
    just = replace(HOLDING, start_us=T - 2 * S)
    assert ask(Known([], [just]), None, address=INSIDE).grade is Grade.BOUNDED
    enough = replace(HOLDING, start_us=T - 3 * S)
    assert ask(Known([], [enough]), None, address=INSIDE).grade is Grade.CERTAIN


def test_a_shared_address_without_a_port_is_counted_and_never_picked() -> None:
    for count in (0, 1, 40):
        answer = ask(Known([BLOCK], [HOLDING], shared=count), None)
        assert (answer.grade, answer.count) == (Grade.AMBIGUOUS, count)
        assert answer.candidates == ()


def test_a_port_that_nobody_had_is_not_given_to_who_has_the_address() -> None:
    direct = replace(HOLDING, prefix=PUBLIC)
    assert ask(Known([], [direct], shared=3)).grade is Grade.NONE


def test_two_flows_on_one_port_are_ambiguous() -> None:
    second = pack("10.0.0.2")
    other = replace(FLOW, record="m3", inside=second)
    held = [HOLDING, replace(HOLDING, subscriber="sub-2", session="s2", prefix=second)]
    assert ask(Known([FLOW, other], held)).grade is Grade.AMBIGUOUS


@pytest.mark.parametrize(
    ("mapping", "loss", "is_gap"),
    [
        (FLOW, lost("mapping", T + 2 * M, T + 3 * M), True),  # where its end would have been told
        (FLOW, lost("mapping", T - 3 * M, T - 2 * M), False),
        (FLOW, lost("mapping", T, T + M, "edge-2"), False),
        (BLOCK, lost("mapping", T - 10 * M, T - 9 * M), True),  # since it was given
        (BLOCK, lost("mapping", T - 40 * M, T - 35 * M), False),
        (BLOCK, lost("mapping", T + M, T + 2 * M), False),
        (BLOCK, lost("binding", T - 10 * M, T - 9 * M), True),  # not made good yet
        (BLOCK, lost("binding", T - 40 * M, T - 35 * M), False),
        (BLOCK, lost("binding", 0, T - 2 * M, ""), True),  # destroyed: of every collector
    ],
)
def test_what_was_lost_makes_a_gap_while_it_may_matter(
    mapping: Mapping, loss: Lost, is_gap: bool
) -> None:
    answer = ask(Known([mapping], [HOLDING], [loss]))
    assert answer.grade is (Grade.GAP if is_gap else Grade.CERTAIN)
    assert answer.losses == ((loss,) if is_gap else ())


def test_a_configured_mapping_does_not_depend_on_what_is_exported() -> None:
    fixed = replace(BLOCK, kind="deterministic", end_us=FOREVER)
    loss = lost("mapping", T - 10 * M, T + 10 * M)
    assert ask(Known([fixed], [HOLDING], [loss])).grade is Grade.CERTAIN


def test_nobody_is_none_unless_something_is_missing() -> None:
    assert ask(Known()).grade is Grade.NONE
    answer = ask(Known(lost=[lost("binding", T - M, T, "edge-7")]))
    assert (answer.grade, answer.candidates) == (Grade.GAP, ())
    assert "edge-7" in {each.collector for each in answer.losses}


def test_an_inside_address_of_nobody_known_is_no_name() -> None:
    answer = ask(Known([BLOCK]))
    assert answer.grade is Grade.BOUNDED
    assert answer.candidates[0].subscriber == ""


def test_the_binding_of_another_site_is_not_certain() -> None:
    """Inside addresses are private ones, and two sites may use the same."""
    elsewhere = replace(HOLDING, collector="edge-2")
    assert ask(Known([BLOCK], [elsewhere])).grade is Grade.BOUNDED
    own = replace(HOLDING, subscriber="sub-2")
    answer = ask(Known([BLOCK], [elsewhere, own]))
    assert (answer.grade, answer.candidates[0].subscriber) == (Grade.CERTAIN, "sub-2")


def test_two_sessions_of_one_subscriber_are_one_candidate() -> None:
    first = replace(HOLDING, proof_us=T + 10 * M, latest_us=T + 10 * M)
    second = replace(HOLDING, session="s2", start_us=T - 10 * M)
    answer = ask(Known([], [first, second]), None, address=INSIDE)
    assert (answer.grade, answer.count) == (Grade.CERTAIN, 1)


def test_a_derived_begin_is_bounded() -> None:
    derived = replace(HOLDING, is_proven=False)
    assert ask(Known([], [derived]), None, address=INSIDE).grade is Grade.BOUNDED
