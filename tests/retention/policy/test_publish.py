"""The published texts: complete, and silent about notices."""

from __future__ import annotations

import json

from retention.policy.publish import article30, notice_text
from tests.retention.policy.support import make, notice, noticed, us


def test_neither_text_shows_that_a_notice_is_in_force() -> None:
    quiet, secret = make(), noticed(notice())
    assert secret.period("visit").length == (12, 0)
    assert quiet.digest != secret.digest
    assert notice_text(quiet) == notice_text(secret)
    assert article30(quiet) == article30(secret)
    assert "N-1" not in notice_text(secret)
    assert notice_text(secret.at(us("2030-01-01"))) == notice_text(quiet)


def test_the_notice_says_what_why_and_how_long_for_each_class() -> None:
    policy = make()
    text = notice_text(policy)
    for terms in policy.classes.values():
        assert f"## {terms.title}\n" in text
        for group in terms.data:
            assert f"| {group.what} | " in text
    assert "- Your bill: 90 days, beginning with the day of the communication (PECR" in text
    assert "- A legal duty, where one is laid on us: 12 months, beginning with" in text
    assert "| The name of the host" in text
    assert text.endswith("\n")


def test_a_change_of_the_policy_is_in_the_text() -> None:
    new = make(
        lambda plain: plain["class"]["mapping"]["faults"].update(period="10 days"),
        lambda plain: plain["class"]["mapping"]["data"][0].update(what="Your inner | address"),
        lambda plain: plain["register"].update(controller="Example Net Ltd", contact="a@b.example"),
    )
    text = notice_text(new)
    assert "- Finding and mending faults: 10 days, beginning with the day on which" in text
    assert "| Your inner \\| address | A legal duty" in text
    assert "Example Net Ltd record what is listed here" in text
    assert "Write to: a@b.example" in text


def test_the_register_has_a_line_for_each_purpose_of_each_class() -> None:
    policy = make()
    rows = article30(policy)
    json.dumps(rows)
    assert [row["record_class"] for row in rows].count("session") == 3
    assert len(rows) == sum(len(terms.rules) for terms in policy.classes.values())
    assert all(row["legal_basis"] and row["data"] and row["owner"] for row in rows)
    (billing,) = (
        row for row in rows if row["record_class"] == "session" and row["purpose"] == "Your bill"
    )
    assert billing["period"] == "90 days, beginning with the day of the communication"
    assert not any("Your line" in what for what in billing["data"])  # for faults and the statute
    assert "31 days" in billing["erasure"]


def test_a_longer_period_shows_its_own_basis() -> None:
    basis = "Limitation Act 1980 s.5"
    policy = make(
        lambda plain: plain["class"]["usage"]["billing"].update(
            period="6 years", over_maximum_basis=basis
        )
    )
    assert basis in notice_text(policy)
    assert any(row["legal_basis"].endswith(basis) for row in article30(policy))
