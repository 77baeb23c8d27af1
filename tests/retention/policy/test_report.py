"""What is due, late or early, and what a change of the policy would do to partitions there are."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from retention.model import DAY_US, GRACE_US, OPEN_US, Partition, Place
from retention.policy.partitions import first_open, place_of, retain_until
from retention.policy.report import ClassReport, Report, diff, early_us, report, stage
from tests.retention.policy.support import (
    NOW,
    make,
    notice,
    noticed,
    partition,
    purge,
    us,
)


def of(found: Report, name: str) -> ClassReport:
    (row,) = (row for row in found["classes"] if row["record_class"] == name)
    return row


def codes(found: Report) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = {}
    for alarm in found["alarms"]:
        seen.setdefault(alarm["record_class"], set()).add(alarm["code"])
    return seen


def test_nothing_stored_is_nothing_to_report() -> None:
    found = report(make(), [], NOW)
    assert found["alarms"] == []
    row = of(found, "visit")
    assert (row["oldest_day"], row["oldest_retain_until"], row["rows"]) == (None, None, 0)
    assert row["lateness_days"] == row["earliness_days"] == 0
    assert found["at"] == "2026-11-22T12:00:00+00:00"
    json.dumps(found)


def test_each_partition_is_in_one_stage() -> None:
    # Kept for 14 days: 2026-11-08 is kept until 2026-11-22, the day on which it is asked.
    days = [20261007, 20261006, 20261107, 20261108, 20261109, 20261122]
    found = report(make(), [partition("mapping", day, 7) for day in days], NOW)
    row = of(found, "mapping")
    assert (row["open"], row["closed"], row["due"], row["overdue"]) == (2, 1, 1, 2)
    assert row["rows"] == 42
    assert (row["period"], row["purpose"], row["clock"]) == ("14 days", "faults", "entity-data")
    assert (row["oldest_day"], row["oldest_retain_until"]) == ("2026-10-06", "2026-10-20")
    assert row["lateness_days"] == 32
    assert codes(found) == {"mapping": {"kept-too-long"}}


def test_overdue_begins_after_the_grace() -> None:
    until = us("2026-11-22")
    assert stage(until, until - 1) == "open"
    assert stage(until, until) == stage(until, until + OPEN_US - 1) == "closed"
    assert stage(until, until + OPEN_US) == stage(until, until + GRACE_US) == "due"
    assert stage(until, until + GRACE_US + 1) == "overdue"


def test_alarms_for_what_is_late() -> None:
    late = [partition("mapping", 20261101)]
    assert codes(report(make(), late, NOW)) == {"mapping": {"late"}}
    assert report(make(), late, us("2026-11-21"))["alarms"] == []
    kept = [partition("mapping", 20261007), partition("visit", 20261122)]
    found = report(make(), kept, NOW)
    assert codes(found) == {"mapping": {"kept-too-long"}}
    assert of(found, "mapping")["overdue"] == 1


def test_a_shortened_period_gives_its_grace_from_then() -> None:
    found = [partition("mapping", 20260901), partition("mapping", 20261122)]
    recent = report(make(), found, NOW, shortened_us={"mapping": NOW - 2 * DAY_US})
    assert (of(recent, "mapping")["due"], of(recent, "mapping")["lateness_days"]) == (1, 2)
    assert recent["alarms"] == []
    old = report(make(), found, NOW, shortened_us={"mapping": NOW - 32 * DAY_US})
    assert codes(old) == {"mapping": {"kept-too-long"}}


def test_alarms_for_what_cannot_be() -> None:
    stray = Partition(Place("mail", 20261122), NOW, NOW + DAY_US, NOW, NOW + DAY_US, 3)
    found = report(make(), [stray, partition("visit", 20261130)], NOW)
    assert codes(found) == {"mail": {"unwired"}, "visit": {"future"}}


def test_the_oldest_row_of_a_month_is_known_to_the_day() -> None:
    whole = partition("usage", 202609)
    part = Partition(
        whole.place, whole.start_us, whole.end_us, us("2026-09-17T10:00:00"), whole.end_us, 5
    )
    row = of(report(make(), [part], NOW), "usage")
    assert (row["oldest_day"], row["oldest_retain_until"]) == ("2026-09-17", "2026-12-29")
    call = partition("call", 20260917)
    early = Partition(call.place, call.start_us, call.end_us, call.start_us - 1, call.end_us, 5)
    assert of(report(make(), [early], NOW), "call")["oldest_day"] == "2026-09-17"


def test_a_purge_that_came_too_early_is_an_alarm() -> None:
    policy, found = make(), partition("visit", 20261101)
    until = retain_until(found.place, policy.period("visit"))
    right = purge(policy, found, until + OPEN_US, until)
    assert early_us(right, policy) == 0
    assert of(report(policy, [], NOW, [right]), "visit")["earliness_days"] == 0
    early = purge(policy, found, until + OPEN_US - 1, until)
    result = report(policy, [], NOW, [right, early])
    assert of(result, "visit")["earliness_days"] == 1
    assert codes(result) == {"visit": {"destroyed-early"}}
    # What the purge says of its own retain-until is not believed under the policy in force.
    lying = purge(policy, found, until, until - 9 * DAY_US)
    assert of(report(policy, [], NOW, [lying]), "visit")["earliness_days"] == 1
    # Under another policy there is no more than that.
    other = purge(policy, found, until, until - 9 * DAY_US, "0" * 64)
    assert of(report(policy, [], NOW, [other]), "visit")["earliness_days"] == 0


def test_a_purge_that_destroyed_nothing_was_not_early() -> None:
    policy, found = make(), partition("visit", 20261122)
    until = retain_until(found.place, policy.period("visit"))
    assert report(policy, [], NOW, [purge(policy, found, 0, until)])["alarms"] == []


def test_the_end_of_a_notice_is_announced() -> None:
    policy = noticed(notice(["visit", "call"], "2026-01-01", "2026-12-10"))
    found = report(policy, [], NOW)
    assert codes(found) == {"visit": {"notice-ending"}, "call": {"notice-ending"}}
    assert "2026-12-10" in found["alarms"][0]["text"]
    assert report(policy, [], us("2026-11-01"))["alarms"] == []
    followed = noticed(
        notice(["visit"], "2026-01-01", "2026-12-10"), notice(["visit"], "2026-12-10", None, "N-2")
    )
    assert report(followed, [], NOW)["alarms"] == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 1500))
def test_stages_add_up_and_agree_with_first_open(ages: list[int], day: int) -> None:
    policy = noticed(notice(first="2020-01-01"))
    now = us("2023-11-01T06:00:00") + day * DAY_US
    numbers = {place_of("visit", now - age * DAY_US).number for age in ages}
    row = of(report(policy, [partition("visit", n) for n in numbers], now), "visit")
    border = first_open("visit", policy.period("visit"), now)
    assert row["open"] == sum(number >= border for number in numbers)
    assert row["open"] + row["closed"] + row["due"] + row["overdue"] == len(numbers)


def set_period(record_class: str, purpose: str, period: str) -> Any:
    return lambda plain: plain["class"][record_class][purpose].update(period=period)


def test_a_diff_says_what_becomes_due() -> None:
    new = make(set_period("mapping", "faults", "7 days"))
    days = [20261105, 20261110, 20261113, 20261114, 20261115, 20261122]
    found = diff(make(), new, [partition("mapping", day) for day in days])
    changes = {row["record_class"]: row for row in found["classes"]}
    assert {name: row["change"] for name, row in changes.items()} == {
        "binding": "same",
        "call": "same",
        "mapping": "shorter",
        "session": "same",
        "usage": "same",
        "visit": "same",
    }
    row = changes["mapping"]
    assert (row["old"], row["new"]) == ("14 days", "7 days")
    # 5 November was due before; 15 November is closed, and not yet open for destruction.
    assert [each["partition"] for each in row["due"]] == ["20261110", "20261113", "20261114"]
    assert row["due"][0] == {
        "partition": "20261110",
        "rows": 10,
        "old_retain_until": "2026-11-24",
        "new_retain_until": "2026-11-17",
    }
    assert row["reopened"] == []
    assert found["terms"] == ["classes.mapping.purposes.faults.period: 14 days -> 7 days"]


def test_a_diff_says_what_a_longer_period_opens_again() -> None:
    new = make(set_period("mapping", "faults", "1 month"))
    days = [20261010, 20261101, 20261108, 20261109]
    found = diff(make(), new, [partition("mapping", day) for day in days])
    (row,) = (row for row in found["classes"] if row["change"] != "same")
    assert (row["record_class"], row["change"], row["due"]) == ("mapping", "longer", [])
    assert [each["partition"] for each in row["reopened"]] == ["20261101", "20261108"]


def test_a_diff_of_a_policy_with_itself_across_a_notices_end() -> None:
    policy = noticed(notice(["visit"], "2026-01-01", "2026-12-01"))
    found = diff(policy, policy.at(us("2026-12-01")), [partition("visit", 20261101)])
    (row,) = (row for row in found["classes"] if row["change"] != "same")
    assert (row["record_class"], row["old"], row["new"]) == ("visit", "12 months", "1 day")
    assert [each["partition"] for each in row["due"]] == ["20261101"]


def test_a_diff_names_changed_words() -> None:
    new = make(
        lambda plain: plain["class"]["call"]["billing"].update(owner="Head of accounts"),
        lambda plain: plain["class"]["call"]["data"][0].update(what="Your contract"),
        lambda plain: plain["exempt"].update(extra="none of anybody's"),
        lambda plain: plain.update(notice=[notice(["call"], "2028-01-01")]),
    )
    found = diff(make(), new)
    assert found["old"] != found["new"]
    assert all(row["change"] == "same" for row in found["classes"])
    assert [line.split(": ")[0] for line in found["terms"]] == [
        "classes.call.data.subscriber.what",
        "classes.call.purposes.billing.owner",
        "exempt.extra",
        "notices",
        "notices.N-1.classes",
        "notices.N-1.from",
        "notices.N-1.id",
        "notices.N-1.in_force",
        "notices.N-1.to",
    ]
    assert "exempt.extra: (nothing) -> none of anybody's" in found["terms"]
    same = diff(make(), make())
    assert same["terms"] == []
    assert same["old"] == same["new"]
