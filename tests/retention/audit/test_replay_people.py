"""What an outsider concludes about holds: who did what, when, and what a hold was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.retention.audit.story import ANN, BOB, CARL, DAY, DORA, ROOT, START, scope
from tests.retention.audit.teller import FIRST, NO_ROWS, Teller, of, open_at, purged


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_a_hold_that_grows_is_counted_again(tmp_path: Path) -> None:
    for number, again in enumerate((True, False)):
        teller = Teller()
        teller.seen("visit", FIRST)
        teller.hold("h1", of("visit", FIRST))
        teller.until(open_at(teller))
        teller.evidence("h1", "visit", FIRST, 3)
        teller.change("grown", "h1", scope=[of("visit", FIRST, resolved=True)])
        if again:
            teller.purge("p1", "visit", FIRST, 100, {"h1": 5})
        else:
            teller.intent("p1", "visit", FIRST)
            teller.preserved("p1", 100, {"h1": 3})
            teller.dropped("p1", 97)
            teller.certify("p1")
        assert teller.rules(tmp_path / str(number)) == (set() if again else {"evidence"})


def test_growth_raises_the_generation(tmp_path: Path) -> None:
    teller = purged(of("visit", FIRST), held={"h1": 5})
    teller.change("grown", "h1", scope=[of("visit", "20260105")])["generation"] -= 1
    teller.generation -= 1
    assert teller.rules(tmp_path) == {"generation"}


def test_growth_between_preservation_and_drop(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", "20260105"))
    teller.until(open_at(teller))
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 10, {})
    teller.change("grown", "h1", scope=[of("visit", FIRST)])
    teller.dropped("p1", 10)
    teller.certify("p1")
    assert {"interleaved", "generation"} <= teller.rules(tmp_path)


def test_evidence_of_an_open_partition_is_not_enough(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", FIRST))
    teller.evidence("h1", "visit", FIRST, 5)
    teller.until(open_at(teller))
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 100, {"h1": 5})
    teller.dropped("p1", 95)
    teller.certify("p1")
    assert teller.rules(tmp_path) == {"evidence"}


def test_evidence_of_no_rows(tmp_path: Path) -> None:
    """A hold that meets a partition and has none of its rows is counted all the same."""
    teller = purged(of("visit", FIRST), held={"h1": 0})
    assert teller.rules(tmp_path / "good") == set()
    bare = purged(of("visit", FIRST), held={"h1": 0})
    next(leaf for leaf in bare.leaves if leaf["kind"] == "hold.evidence")["root"] = ROOT
    assert bare.rules(tmp_path / "root") == {"evidence"}
    later = purged(of("visit", FIRST), held={"h1": 0})
    later.evidence("h1", "visit", FIRST, 1)  # late rows, or rows found: more is never wrong
    assert later.rules(tmp_path / "more") == set()
    assert NO_ROWS == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_overdue_review_protects_on(tmp_path: Path) -> None:
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", FIRST), review_by=START + 90 * DAY)
    teller.until(open_at(teller))
    teller.purge("p1", "visit", FIRST, 100, {"h1": 5})
    report = teller.judged(tmp_path / "minded")
    assert report.good
    assert report.notes == ["hold h1 protects, and its review is overdue"]
    assert "note: hold h1" in "\n".join(report.lines())
    teller = Teller()
    teller.seen("visit", FIRST)
    teller.hold("h1", of("visit", FIRST), review_by=START + 90 * DAY)
    teller.until(open_at(teller))
    teller.evidence("h1", "visit", FIRST, 5)
    teller.intent("p1", "visit", FIRST)
    teller.preserved("p1", 100, {})
    teller.dropped("p1", 100)
    teller.certify("p1")
    assert teller.rules(tmp_path / "ignored") == {"held-destroyed"}


def test_extensions(tmp_path: Path) -> None:
    def extended(**changes: object) -> Teller:
        teller = Teller()
        teller.hold("h1", of("visit", FIRST), expires=START + 30 * DAY)
        usual: dict[str, Any] = {"approver": CARL, "expires": START + 90 * DAY} | changes
        teller.extension("h1", usual["expires"])
        teller.change("extended", "h1", requester=ANN, **usual)
        teller.until(START + 80 * DAY)
        return teller

    assert extended().rules(tmp_path / "good") == set()
    assert extended(approver=ANN).rules(tmp_path / "own") == {"self-approval"}
    assert extended(expires=START + 31 * DAY).rules(tmp_path / "over") == {"expiry"}
    assert "extension" in extended(expires=START + 29 * DAY).rules(tmp_path / "shorter")
    early = Teller()
    early.submit("h1", of("visit", FIRST), expires=START + 30 * DAY)
    early.extension("h1", None)
    early.change("extended", "h1", requester=ANN, approver=CARL, expires=None)
    assert early.rules(tmp_path / "unapproved") == {"hold-state"}


def test_an_extension_is_approved_as_it_was_requested_or_not_at_all(tmp_path: Path) -> None:
    def asked(*decisions: dict[str, object], again: bool = False) -> set[str]:
        teller = Teller()
        teller.hold("h1", of("visit", FIRST), expires=START + 30 * DAY)
        for _ in range(1 + again):
            teller.extension("h1", START + 90 * DAY, ANN)
        for decision in decisions:
            teller.same(str(decision.pop("what")), "h1", **decision)
        return teller.rules(tmp_path / str(len(list(tmp_path.iterdir()))))

    def extended(**changes: object) -> set[str]:
        teller = Teller()
        teller.hold("h1", of("visit", FIRST), expires=START + 30 * DAY)
        teller.extension("h1", START + 90 * DAY, ANN)
        usual = {"requester": ANN, "approver": CARL, "expires": START + 90 * DAY}
        teller.change("extended", "h1", **usual | changes)
        return teller.rules(tmp_path / str(len(list(tmp_path.iterdir()))))

    def rejected(who: str) -> dict[str, object]:
        role = "legal-approver"
        return {"what": "extension-rejected", "approver": who, "role": role, "reason": "x"}

    def cancelled(who: str) -> dict[str, object]:
        return {"what": "extension-cancelled", "actor": who, "role": "legal-requester"}

    assert asked() == asked(rejected(CARL)) == asked(cancelled(ANN)) == extended() == set()
    assert asked(again=True) == {"hold-state"}
    assert asked(rejected(ANN)) == {"self-approval"}
    assert asked(cancelled(DORA)) == {"hold-state"}
    assert asked(cancelled(ANN), cancelled(ANN)) == {"hold-state"}
    assert asked(rejected(CARL), rejected(CARL)) == {"hold-state"}
    assert asked({**cancelled(ANN), "role": "operations"}) == {"role"}
    assert extended(expires=START + 91 * DAY) == {"hold-state"}
    assert extended(requester=DORA) == {"hold-state"}


def test_a_review_renews_its_day_and_nothing_else(tmp_path: Path) -> None:
    def reviewed(review_by: int, role: str = "dpo") -> Teller:
        teller = Teller()
        teller.hold("h1", of("visit", FIRST), review_by=START + 9 * DAY)
        teller.same("reviewed", "h1", actor=CARL, role=role, review_by=review_by)
        teller.until(START + 20 * DAY)
        return teller

    late = reviewed(START + 15 * DAY).judged(tmp_path / "late")
    assert late.notes == ["hold h1 protects, and its review is overdue"]
    good = reviewed(START + 50 * DAY).judged(tmp_path / "good")
    assert (good.good, good.notes) == (True, [])
    assert reviewed(START).rules(tmp_path / "past") == {"review"}
    assert reviewed(START + 50 * DAY, "operations").rules(tmp_path / "role") == {"role"}


@pytest.mark.parametrize(
    ("approvers", "by", "rule"),
    [
        ((BOB, CARL), DORA, None),
        ((BOB, CARL), ANN, None),  # the hold's requester may ask for the release
        ((BOB, ANN), DORA, "self-approval"),  # but approves it in no case
        ((BOB, DORA), DORA, "self-approval"),
        ((BOB, BOB), DORA, "two-people"),
        ((BOB,), DORA, "two-people"),
    ],
)
def test_who_releases(
    tmp_path: Path, approvers: tuple[str, ...], by: str, rule: str | None
) -> None:
    teller = Teller()
    teller.hold("h1", of("visit", FIRST))
    teller.release("h1", *approvers, by=by)
    found = teller.rules(tmp_path)
    assert rule in found if rule else not found


def test_the_seven_days_are_counted_from_the_second_approval(tmp_path: Path) -> None:
    teller = Teller()
    teller.hold("h1", of("visit", FIRST))
    teller.release("h1")
    teller.leaves[-1]["at"] -= 3
    teller.leaves[-2]["at"] -= 3
    assert teller.rules(tmp_path) == {"release-delay"}


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("hold.submitted", "legal-approver"),
        ("hold.approved", "legal-requester"),
        ("hold.release-requested", "dpo"),
        ("hold.release-approved", "auditor"),
    ],
)
def test_roles(tmp_path: Path, kind: str, role: str) -> None:
    teller = Teller()
    teller.hold("h1", of("visit", FIRST))
    teller.release("h1")
    next(leaf for leaf in teller.leaves if leaf["kind"] == kind)["role"] = role
    assert teller.rules(tmp_path) == {"role"}


def test_all_sharers_take_the_dpo(tmp_path: Path) -> None:
    for role, found in (("dpo", set()), ("legal-approver", {"role"})):
        teller = Teller()
        teller.submit("h1", of("mapping", FIRST), all_sharers=True)
        teller.change("approved", "h1", approver=BOB, role=role)
        assert teller.rules(tmp_path / role) == found


def test_a_hold_that_should_have_ended(tmp_path: Path) -> None:
    lapsing = Teller()
    lapsing.submit("h1", of("visit", FIRST))
    lapsing.until(START + 5 * DAY)
    assert lapsing.rules(tmp_path / "lapse") == {"lapse"}
    lapsing.change("lapsed", "h1")
    assert lapsing.rules(tmp_path / "lapsed") == set()
    expiring = Teller()
    expiring.hold("h1", of("visit", FIRST), expires=START + 30 * DAY)
    expiring.until(START + 32 * DAY)
    assert expiring.rules(tmp_path / "expiry") == {"expiry"}


def test_called_preserved_though_a_purge_came_first(tmp_path: Path) -> None:
    for number, (what, found) in enumerate(
        [("unavailable", set()), ("preserved", {"unavailable"})]
    ):
        teller = purged()
        teller.hold("h1", of("visit", FIRST))
        fields = {"purges": ["p1"]} if what == "unavailable" else {}
        teller.change(what, "h1", **fields)
        assert teller.rules(tmp_path / str(number)) == found
    untouched = purged()
    untouched.hold("h1", of("visit", "20260301"))
    untouched.change("preserved", "h1")
    assert untouched.rules(tmp_path / "untouched") == set()
    growing = Teller()
    growing.seen("visit", FIRST)
    growing.hold("h1", of("visit", "20260301"))
    growing.until(open_at(growing))
    growing.purge("p1", "visit", FIRST, 10)
    growing.change("grown", "h1", scope=[scope()])  # this item came after the purge
    growing.change("preserved", "h1")
    assert growing.rules(tmp_path / "growing") == {"unavailable"}
