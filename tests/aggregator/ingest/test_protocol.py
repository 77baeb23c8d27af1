"""The table of verdicts, row by row, and a walk through it by any history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ingest.protocol import (
    Accept,
    Duplicate,
    Gap,
    LedgerState,
    Reject,
    Retry,
    decide,
)
from collector.wire.batch import MAX_CLOCK_SKEW_NS, Header
from collector.wire.codec import peek
from collector.wire.records import SCHEMA_VERSION
from tests.aggregator.support import NOON, S, Spool

NOW = NOON + 400 * S


def header(sequence: int = 1) -> Header:
    return peek(Spool(epoch="epoch").batch({}, sequence=sequence))


def test_the_first_batch_is_accepted() -> None:
    got = decide(header(), LedgerState(), now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert got == Accept()


def test_another_collectors_certificate_is_refused_before_anything_else() -> None:
    strange = replace(header(), schema_version=99)
    got = decide(strange, LedgerState(), now_ns=NOW, sent_ns=0, identity="edge-2")
    assert isinstance(got, Reject)
    assert got.reason == "identity"


def test_an_older_schema_is_taken() -> None:
    older = replace(header(), schema_version=1)
    got = decide(older, LedgerState(), now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert got == Accept()


def test_an_unknown_schema_says_what_to_upgrade() -> None:
    strange = replace(header(), schema_version=SCHEMA_VERSION + 1)
    got = decide(strange, LedgerState(), now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert isinstance(got, Reject)
    assert got.reason == "schema-version"
    assert got.message.endswith("upgrade the aggregator")


@pytest.mark.parametrize(("ahead_s", "side"), [(301, "ahead of"), (-301, "behind")])
def test_clocks_apart_wait_and_say_whose_and_how_far(ahead_s: int, side: str) -> None:
    sent = NOW + ahead_s * S
    got = decide(header(), LedgerState(), now_ns=NOW, sent_ns=sent, identity="edge-1")
    assert isinstance(got, Retry)
    assert got.reason == "clock-skew"
    for words in (side, "by 301 s", "tolerance 300 s", "NTP"):
        assert words in got.message


def test_the_tolerance_itself_is_within() -> None:
    for sent in (NOW - MAX_CLOCK_SKEW_NS, NOW + MAX_CLOCK_SKEW_NS):
        got = decide(header(), LedgerState(), now_ns=NOW, sent_ns=sent, identity="edge-1")
        assert got == Accept()


def test_an_old_batch_is_no_clock_skew() -> None:
    """A spool that waited for weeks is what the spool is for."""
    later = NOW + 30 * 86_400 * S
    got = decide(header(), LedgerState(), now_ns=later, sent_ns=later, identity="edge-1")
    assert got == Accept()


def test_the_same_batch_again_is_a_duplicate() -> None:
    state = LedgerState(5, NOON, header(3).batch)
    got = decide(header(3), state, now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert got == Duplicate()


def test_other_contents_under_a_taken_number_conflict() -> None:
    state = LedgerState(5, NOON, "0" * 32)
    got = decide(header(3), state, now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert isinstance(got, Reject)
    assert got.reason == "conflict"


def test_a_batch_from_an_earlier_gap_is_taken_late() -> None:
    got = decide(header(3), LedgerState(5, NOON), now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert got == Accept("late", "fills an earlier gap")


def test_a_gap_is_taken_and_says_what_is_missing() -> None:
    state = LedgerState(5, NOON - 1500 * S)
    got = decide(header(9), state, now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert isinstance(got, Gap)
    loss = got.loss
    assert (loss.stage, loss.reason) == ("uplink", "missing-batches")
    assert (loss.amount, loss.unit) == (3, "batches")
    assert (loss.start_ns, loss.end_ns) == (NOON - 1500 * S, NOON)
    assert {"usage", "visit", "call", "session"} <= set(loss.classes)


def test_a_first_batch_far_on_is_a_gap_of_unknown_start() -> None:
    got = decide(header(4), LedgerState(), now_ns=NOW, sent_ns=NOW, identity="edge-1")
    assert isinstance(got, Gap)
    assert got.loss.amount == 3
    assert got.loss.start_ns == NOON
    assert got.loss.end_ns > got.loss.start_ns


@given(st.lists(st.integers(1, 8), max_size=30))
def test_any_order_of_arrival_takes_each_batch_once(order: list[int]) -> None:
    taken: dict[int, str] = {}
    for number in order:
        mine = header(number)
        state = LedgerState(max(taken, default=0), NOON, taken.get(number, ""))
        got = decide(mine, state, now_ns=NOW, sent_ns=NOW, identity="edge-1")
        if isinstance(got, Duplicate):
            assert number in taken
            continue
        assert isinstance(got, Accept | Gap)
        assert number not in taken
        taken[number] = mine.batch
    assert set(taken) == set(order)
