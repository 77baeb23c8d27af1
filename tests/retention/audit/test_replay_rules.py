"""What an outsider concludes from long stories: periods that change, holds that grow, late rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.audit.replay_places import after, days
from retention.policy import partitions
from tests.retention.audit.story import DAY, START, clock
from tests.retention.audit.teller import FIRST, Teller, of, open_at, purged

MONTH = "202601"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


# Names, spans and holds that meet them.


def test_a_partition_is_the_days_of_its_name(tmp_path: Path) -> None:
    assert days("20260228") == (START + 58 * DAY, START + 59 * DAY)
    assert days("202602") == (START + 31 * DAY, START + 59 * DAY)
    assert [days(odd) for odd in ("2026", "20260230", "2026011", "x")] == [None] * 4
    teller = Teller()
    teller.seen("visit", FIRST)["partition"] = "20260102"
    assert teller.rules(tmp_path) == {"partition"}


def test_a_month_is_kept_until_its_last_days_period_is_over(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("usage", MONTH)
    teller.until(START + 30 * DAY + 91 * DAY)
    teller.purge("p1", "usage", MONTH, 10)
    assert teller.rules(tmp_path) == set()


@pytest.mark.parametrize("day", ["20251231", "20260102"])
def test_holds_meet_all_that_the_rows_cover(tmp_path: Path, day: str) -> None:
    """A call of 23:59 ends the next day; a mapping may have begun the day before it ended."""
    wide = {"earliest": START - DAY, "latest": START + 2 * DAY}
    for number, minded in enumerate((True, False)):
        teller = Teller()
        teller.hold("h1", of("call", day))
        teller.seen("call", FIRST, **wide)
        teller.until(open_at(teller, "call"))
        if minded:
            teller.purge("p1", "call", FIRST, 10, {"h1": 2}, **wide)
        else:
            teller.intent("p1", "call", FIRST, **wide, holds=0)
            teller.preserved("p1", 10, {})
            teller.dropped("p1", 10)
            teller.certify("p1")
        found = teller.rules(tmp_path / str(number))
        assert found == (set() if minded else {"holds", "evidence"})


def test_a_partition_shrunk_before_its_purge_does_not_lose_a_hold(tmp_path: Path) -> None:
    teller = Teller()
    teller.hold("h1", of("call", "20260102"))
    teller.seen("call", FIRST, latest=START + 2 * DAY)
    teller.until(open_at(teller, "call"))
    teller.evidence("h1", "call", FIRST, 2)
    teller.seen("call", FIRST)
    teller.purge("p1", "call", FIRST, 10)
    assert teller.rules(tmp_path) == {"held-destroyed"}


@pytest.mark.parametrize("changes", [{"earliest": START + 1}, {"latest": START + DAY - 1}])
def test_a_partition_covers_its_days(tmp_path: Path, changes: dict[str, int]) -> None:
    teller = Teller()
    teller.seen("visit", FIRST, **changes)
    assert teller.rules(tmp_path) == {"partition"}


# Policies that change.


def closed(months: int) -> Teller:
    """A partition 400 days old that waits to be destroyed, and then another policy."""
    teller = Teller({"visit": (13, 0)})
    teller.seen("visit", FIRST)
    teller.until(START + 390 * DAY)
    teller.load({"visit": (months, 0)})
    return teller


def test_a_shorter_period_gives_31_days_from_its_loading(tmp_path: Path) -> None:
    for number, (wait, found) in enumerate([(1, set()), (30, set()), (32, {"kept-too-long"})]):
        teller = closed(6)
        teller.until(teller.at + wait * DAY)
        assert teller.rules(tmp_path / f"waits-{number}") == found
        teller.seen("visit", FIRST)
        teller.purge("p1", "visit", FIRST, 10)
        assert teller.rules(tmp_path / f"purged-{number}") == found


def test_no_play_with_policies_moves_a_deadline_that_has_come(tmp_path: Path) -> None:
    teller = closed(6)
    for months in (7, 6, 7, 6):
        teller.until(teller.at + 20 * DAY)
        teller.load({"visit": (months, 0)})
    assert "kept-too-long" in teller.rules(tmp_path)


def test_a_longer_period_keeps_what_had_not_gone(tmp_path: Path) -> None:
    teller = closed(24)
    teller.until(teller.at + 60 * DAY)
    assert teller.rules(tmp_path / "waits") == set()
    teller.seen("visit", FIRST)
    teller.purge("p1", "visit", FIRST, 10)
    assert teller.rules(tmp_path / "purged") == {"too-early"}


def test_a_longer_period_does_not_judge_what_had_gone(tmp_path: Path) -> None:
    teller = purged()
    teller.load({"visit": (24, 0)})
    teller.until(teller.at + 90 * DAY)
    assert teller.rules(tmp_path) == set()


def test_an_intent_by_the_period_of_before(tmp_path: Path) -> None:
    teller = closed(24)
    before = after(START, 13, 0)
    teller.until(before + DAY)
    teller.intent("p1", "visit", FIRST, retain_until=before)
    assert "policy" in teller.rules(tmp_path)


def test_a_longer_period_between_intent_and_drop(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.until(open_at(teller))
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 10, {})
    teller.load({"visit": (24, 0)})
    teller.dropped("p1", 10)
    teller.certify("p1")
    assert "too-early" in teller.rules(tmp_path)


def test_a_policy_that_forgets_a_class_with_partitions(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.load({"call": (12, 0)})
    assert teller.rules(tmp_path) == {"policy"}


# The vault.


def test_the_vault_is_rebuilt_when_a_hold_ends(tmp_path: Path) -> None:
    def two_holds(kept: int) -> Teller:
        teller = Teller()
        teller.seen("visit", FIRST)
        teller.hold("h1", of("visit", FIRST))
        teller.hold("h2", of("visit", FIRST))
        teller.until(open_at(teller))
        teller.purge("p1", "visit", FIRST, 100, {"h1": 5, "h2": 4}, rows=7)
        teller.release("h1")
        teller.purge("p2", "visit", FIRST, 7, {"h2": kept}, store="vault")
        return teller

    good = two_holds(4)
    good.until(good.at + 60 * DAY)
    assert good.rules(tmp_path / "good") == set()
    good.evidence("h2", "visit", FIRST, 3)
    assert good.rules(tmp_path / "later") == {"held-destroyed"}
    assert two_holds(3).rules(tmp_path / "bad") == {"held-destroyed"}


def test_rows_of_an_ended_hold_stay_only_where_another_has_them_all(tmp_path: Path) -> None:
    for number, (rows, found) in enumerate([(5, set()), (4, {"kept-too-long"})]):
        teller = purged(of("visit", FIRST), held={"h1": 5})
        teller.hold("h2", of("visit", FIRST))
        teller.evidence("h2", "visit", FIRST, rows)
        teller.release("h1")
        teller.until(teller.at + 40 * DAY)
        assert teller.rules(tmp_path / str(number)) == found


def test_the_grace_is_counted_from_when_the_hold_was_to_end(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    end = open_at(teller) + 10 * DAY
    teller.hold("h1", of("visit", FIRST), expires=end)
    teller.until(open_at(teller))
    teller.purge("p1", "visit", FIRST, 100, {"h1": 5})
    teller.until(end + 40 * DAY)
    teller.change("expired", "h1")  # a service that was down for long, or would not let go
    teller.purge("p2", "visit", FIRST, 5, store="vault")
    assert teller.rules(tmp_path) == {"kept-too-long"}


def test_the_vault_keeps_rows_that_a_longer_period_keeps(tmp_path: Path) -> None:
    teller = purged(of("visit", FIRST), held={"h1": 5})
    teller.load({"visit": (24, 0)})
    teller.seen("visit", FIRST)
    teller.release("h1")
    teller.until(teller.at + 60 * DAY)
    assert teller.rules(tmp_path / "waits") == set()
    teller.purge("p2", "visit", FIRST, 5, store="vault")
    assert teller.rules(tmp_path / "early") == {"too-early"}


# Late rows.


def test_sweeps_of_several_slots(tmp_path: Path) -> None:
    """Rows come late in several slots, before the purge and after, for one hold and then two."""
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", FIRST))
    teller.until(teller.retain_until("visit", FIRST) + DAY // 2)
    teller.evidence("h1", "visit", FIRST, 5)
    teller.swept("visit", FIRST, 9, {"h1": 2})
    teller.swept("visit", FIRST, 4, {"h1": 1})
    teller.hold("h2", of("visit", FIRST))
    teller.until(open_at(teller))
    teller.evidence("h1", "visit", FIRST, 8)
    teller.evidence("h2", "visit", FIRST, 6)  # three of them late rows that h1 brought in
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 100, {"h1": 5, "h2": 3}, rows=5)
    teller.dropped("p1", 95)
    teller.certify("p1")
    teller.swept("visit", FIRST, 2, {"h2": 1})
    teller.evidence("h1", "visit", FIRST, 8)
    teller.evidence("h2", "visit", FIRST, 7)
    assert teller.rules(tmp_path / "good") == set()
    teller.release("h1")
    teller.purge("p2", "visit", FIRST, 9, {"h2": 7}, store="vault")
    assert teller.rules(tmp_path / "rebuilt") == set()


def test_later_versions_may_take_the_place_of_rows(tmp_path: Path) -> None:
    """The same number of rows and another root is a change, unless late rows came between."""
    for number, late in enumerate((True, False)):
        teller = purged(of("visit", FIRST), held={"h1": 5})
        if late:
            teller.swept("visit", FIRST, 1, {"h1": 1})
        teller.evidence("h1", "visit", FIRST, 5)["root"] = "f" * 64
        assert teller.rules(tmp_path / str(number)) == (set() if late else {"held-changed"})


def test_late_rows_destroyed_too_early(tmp_path: Path) -> None:
    early = Teller()
    early.seen("visit", FIRST)
    early.until(START + 100 * DAY)
    early.swept("visit", FIRST, 3, {})
    assert early.rules(tmp_path / "open") == {"too-early"}
    for number, (wait, found) in enumerate([(0, set()), (2 * DAY, {"too-early"})]):
        teller = purged()
        teller.load({"visit": (24, 0)})
        teller.until(teller.at + wait)
        teller.swept("visit", FIRST, 3, {})
        assert teller.rules(tmp_path / str(number)) == found


@pytest.mark.parametrize(
    "between",
    [
        lambda teller: teller.swept("visit", FIRST, 3, {}),
        lambda teller: teller.intent("p2", "visit", "20260102"),
        lambda teller: teller.submit("h2", of("visit", FIRST)),
    ],
)
def test_nothing_comes_between_preservation_and_outcome(
    tmp_path: Path, between: Callable[[Teller], object]
) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.seen("visit", "20260102")
    teller.until(open_at(teller) + DAY)
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 10, {})
    between(teller)
    teller.dropped("p1", 10)
    teller.certify("p1")
    assert "interleaved" in teller.rules(tmp_path)


# Purges that a crash cut off.


def test_resumed_purges(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", FIRST))
    teller.until(open_at(teller))
    teller.evidence("h1", "visit", FIRST, 5)
    teller.intent("p1", "visit", FIRST)
    teller.tell("purge.failed", purge="p1", step="intent", reason="interrupted")
    teller.intent("p2", "visit", FIRST)
    teller.preserved("p2", 100, {"h1": 5})
    teller.tell("purge.failed", purge="p2", step="preserved", reason="generation")
    teller.hold("h2", of("visit", FIRST))
    teller.evidence("h1", "visit", FIRST, 5)
    teller.evidence("h2", "visit", FIRST, 1)
    teller.intent("p3", "visit", FIRST)
    teller.preserved("p3", 100, {"h1": 5, "h2": 1}, rows=6)
    teller.until(teller.at + 2 * DAY)  # the engine was dead; the drop is repeated, and told once
    teller.dropped("p3", 94)
    teller.certify("p3")
    assert teller.rules(tmp_path / "good") == set()
    teller.dropped("p2", 95)
    assert teller.rules(tmp_path / "over") == {"outcome"}


def test_preserved_twice_and_differently(tmp_path: Path) -> None:
    for number, (rows, found) in enumerate([(5, set()), (6, {"counts"})]):
        teller = Teller()
        teller.seen("visit", FIRST)
        teller.hold("h1", of("visit", FIRST))
        teller.until(open_at(teller))
        teller.evidence("h1", "visit", FIRST, 5)
        teller.intent("p1", "visit", FIRST)
        teller.preserved("p1", 100, {"h1": rows})
        teller.preserved("p1", 100, {"h1": 5})
        teller.dropped("p1", 95)
        teller.certify("p1")
        assert teller.rules(tmp_path / str(number)) == found


def test_a_pending_certificate_becomes_final_in_31_days(tmp_path: Path) -> None:
    teller = purged()
    final = teller.leaves.pop()
    final.pop("backups")
    teller.leaves.append(final | {"kind": "purge.certificate-pending", "waiting": ["replica"]})
    teller.until(teller.at + 20 * DAY)
    assert teller.rules(tmp_path / "waits") == set()
    teller.until(teller.at + 20 * DAY)
    assert teller.rules(tmp_path / "too long") == {"certificate"}
    teller.certify("p1")
    assert teller.rules(tmp_path / "at last") == set()


# The clock.


def test_a_clock_that_jumps_destroys_nothing_until_somebody_says_it_is_right(
    tmp_path: Path,
) -> None:
    for name, steps, found in (
        ("silent", [], {"clock-jump"}),
        ("confirmed", [clock()], set()),
        ("by nobody", [clock(actor=None)], {"clock", "clock-jump"}),
        ("recovered", [clock(reason="recovered", actor=None)], {"clock-jump"}),
        ("untrusted", [clock(trusted=False, actor=None)], {"clock-destroys", "clock-jump"}),
        ("both", [clock(trusted=False, actor=None), clock()], set()),
    ):
        teller = Teller()
        teller.seen("visit", FIRST)
        teller.at = open_at(teller)
        for step in steps:
            teller.tell(**step)
        teller.purge("p1", "visit", FIRST, 10)
        assert teller.rules(tmp_path / name) == found, name


# The same days and periods as the policy has, counted by code of its own.


@given(st.integers(0, 40_000), st.integers(0, 120), st.integers(0, 4_000))
def test_the_replay_counts_as_the_policy_does(day: int, months: int, more: int) -> None:
    assert after(day * DAY, months, more) == partitions.after(day * DAY, months, more)


@given(st.integers(0, 40_000), st.sampled_from(["visit", "usage"]))
def test_the_replay_names_days_as_the_policy_does(day: int, record_class: str) -> None:
    place = partitions.place_of(record_class, day * DAY)
    assert days(place.name) == partitions.span(place)
    period = partitions.Period(12, 3, "", "", "")
    told = after(partitions.span(place)[1] - DAY, 12, 3)
    assert told == partitions.retain_until(place, period)


@pytest.mark.parametrize("days_off", [90, -400])
def test_a_clock_that_came_back_needs_nobody(tmp_path: Path, days_off: int) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.until(open_at(teller) - 50 * DAY)
    teller.at += days_off * DAY
    teller.tell(**clock(trusted=False, actor=None, backward=days_off < 0, reason="odd"))
    teller.until(teller.at + 51 * DAY)  # so long nobody looks
    teller.at -= days_off * DAY
    teller.tell(**clock(actor=None, backward=days_off > 0, reason="recovered"))
    teller.purge("p1", "visit", FIRST, 10)
    assert teller.rules(tmp_path / "came back") == set()
    teller.seen("visit", "20270301")
    teller.at = open_at(teller, "visit", "20270301")
    teller.purge("p2", "visit", "20270301", 10)
    assert teller.rules(tmp_path / "jumped again") == {"clock-jump"}


@pytest.mark.parametrize(
    ("purge", "swept", "rules"),
    [
        (True, 9, set()),
        (True, 8, {"restored"}),
        (True, None, {"restored"}),
        (False, 9, {"restored"}),
    ],
)
def test_what_a_restore_brings_back_goes_again(
    tmp_path: Path, purge: bool, swept: int | None, rules: set[str]
) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.until(open_at(teller))
    if purge:
        teller.purge("p1", "visit", FIRST, 100)
    teller.tell("restore.found", **{"class": "visit"}, partition=FIRST, purge="p1", rows=9)
    if swept is not None:
        teller.swept("visit", FIRST, swept, {})
    assert teller.rules(tmp_path) == rules
