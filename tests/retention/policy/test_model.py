"""Periods in force with and without notices, and what the audit log and others get to see."""

from __future__ import annotations

from itertools import pairwise

import pytest

from aggregator.store.schema import RECORD_TABLES, TABLES
from retention.audit import leaf
from retention.policy.load import PACKAGED, load
from retention.policy.model import CLOCKS, length_text
from tests.retention.policy.support import NOW, make, notice, noticed, us


def test_the_packaged_policy_needs_no_notice() -> None:
    policy = load(PACKAGED, NOW, live=TABLES)
    assert policy.notices == ()
    assert {name: period.length for name, period in policy.periods().items()} == {
        "binding": (0, 90),
        "call": (0, 90),
        "mapping": (0, 14),
        "session": (0, 90),
        "usage": (0, 90),
        "visit": (0, 1),
    }
    assert {policy.period(name).clock for name in ("binding", "mapping")} == {"entity-data"}
    assert all(policy.period(name).basis for name in CLOCKS)


def test_every_class_with_persons_rows_has_a_clock() -> None:
    assert {name for name, table in RECORD_TABLES.items() if table.personal} == CLOCKS.keys()


def test_a_notice_counts_from_its_first_day_to_the_day_before_its_end() -> None:
    policy = noticed(notice(["visit"], "2026-12-01", "2027-12-01"))
    lengths = [
        policy.at(us(day)).period("visit").length
        for day in (
            "2026-11-30T23:59:59",
            "2026-12-01",
            "2027-11-30T23:59:59",
            "2027-12-01",
        )
    ]
    assert lengths == [(0, 1), (12, 0), (12, 0), (0, 1)]
    assert policy.at(us("2027-01-01")).period("visit").purpose == "statutory"
    assert policy.at(us("2027-01-01")).period("mapping").length == (0, 14)


def test_the_next_change_is_the_next_edge_of_a_notice() -> None:
    policy = noticed(
        notice(["visit"], "2026-12-01", "2027-12-01"), notice(["call"], "2027-03-01", name="N-2")
    )
    seen = []
    while (edge := policy.next_change_us()) is not None:
        seen.append(edge)
        policy = policy.at(edge)
    assert seen == [us("2026-12-01"), us("2027-03-01"), us("2027-12-01")]
    assert make().next_change_us() is None


def test_the_longest_purpose_is_the_period() -> None:
    policy = make(
        lambda plain: plain["class"]["call"]["faults"].update(period="4 months"),
        lambda plain: plain.update(notice=[notice(["session"])]),
    )
    assert policy.period("call").length == (4, 0)
    assert policy.period("call").purpose == "faults"
    assert policy.period("session").purpose == "statutory"
    assert policy.period("usage").purpose == "billing"  # of equals the first
    with pytest.raises(KeyError):
        policy.period("link")


def test_the_leaf_is_as_the_log_wants_it() -> None:
    policy = make()
    fields = policy.leaf()
    leaf.check({"v": 1, "kind": "policy.loaded", "at": NOW, **fields})
    assert fields["digest"] == policy.digest
    assert {each["class"] for each in fields["periods"]} == CLOCKS.keys()


def test_the_digest_changes_with_words_and_with_what_is_in_force_alone() -> None:
    policy = noticed(notice(["visit"], "2026-12-01", "2027-12-01"))
    again = noticed(notice(["visit"], "2026-12-01", "2027-12-01"), now_us=NOW + 1)
    assert policy.digest == again.digest
    days = ("2026-11-30", "2026-12-01", "2027-12-01")
    digests = [policy.at(us(day)).digest for day in days]
    assert all(one != other for one, other in pairwise(digests))
    assert policy.at(us("2027-06-01")).digest == digests[1]
    edited = make(lambda plain: plain["class"]["visit"]["faults"].update(owner="Somebody else"))
    assert edited.digest != make().digest


def test_order_of_keys_in_the_file_makes_no_difference() -> None:
    def reverse(plain: dict[str, object]) -> None:
        for key in reversed(list(plain)):
            plain[key] = plain.pop(key)

    assert make(reverse).digest == make().digest


def test_tables_nobody_has_thought_of_are_named() -> None:
    policy = make()
    assert policy.unwired(TABLES) == []
    assert policy.unwired([*TABLES, "schema_migrations"]) == []
    assert policy.unwired(["visit", "late_visit", "late_link", "copy_of_visit"]) == [
        "copy_of_visit",
        "late_link",
    ]


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ((12, 0), "12 months"),
        ((72, 0), "6 years"),
        ((18, 0), "18 months"),
        ((0, 1), "1 day"),
        ((1, 5), "1 month and 5 days"),
    ],
)
def test_lengths_in_words(length: tuple[int, int], text: str) -> None:
    assert length_text(length) == text
