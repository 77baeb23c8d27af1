"""What an outsider concludes from the leaves of the privacy ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retention.audit.canonical import Leaf
from retention.audit.replay import Replay
from retention.model import DAY_US
from retention.register import leaves
from tests.retention.audit.story import SIGNER, START
from tests.retention.ledger import HOUR_US, Row, daily, day, entry, hours, kept

BUDGET = leaves.safeguard_budget(1_000_000, DAY_US)


def rules(rows: list[Row], *before: Leaf, after: tuple[Leaf, ...] = ()) -> set[str]:
    replay = Replay(SIGNER.key.name)
    replay.step({"kind": "genesis", "at": START, "origin": SIGNER.key.name})
    told = [leaves.safeguard_window(row) for row in rows]
    for leaf in (*(before or (BUDGET,)), *told, *after):
        replay.step({"at": START} | leaf)
    return {finding.rule for finding in replay.findings}


def test_whole_days_of_several_routers_are_in_order() -> None:
    rows = [
        each for name in ("edge-1", "edge-2") for n in range(3)
        for each in day(name, START + n * DAY_US)
    ]  # fmt: skip
    assert rules(rows) == set()


def test_a_day_that_falls_silent_costs_what_was_told_before() -> None:
    silent = [
        entry(start_us=START + n * HOUR_US, outcome="silent", rows=0, epsilon_micro=0, restarts=1)
        for n in range(5, 24)
    ]
    assert rules([*hours(5), *silent]) == set()


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([*day(), hours(1)[0]], "safeguard-twice"),
        ([entry(), entry(mechanism=bytes(16), outcome="silent", rows=0, epsilon_micro=0)],
         "safeguard-twice"),
        ([*day(), kept(marginal="more")], "safeguard-overspent"),
        ([entry(epsilon_micro=499_999)], "safeguard-charge"),
        ([entry(epsilon_micro=0)], "safeguard-charge"),
        ([entry(scale_num=0)], "safeguard-charge"),
        ([entry(l0=0, epsilon_micro=0)], "safeguard-charge"),
        ([hours(1)[0], hours(2)[1] | {"mechanism": bytes(16)}], "safeguard-charge"),
        ([entry(rows=0)], "safeguard-charge"),
        ([entry(routers=2)], "safeguard-charge"),
        ([entry(outcome="silent", rows=0)], "safeguard-charge"),
        ([entry(outcome="silent", rows=3, epsilon_micro=0)], "safeguard-charge"),
        ([entry(outcome="other")], "safeguard-window"),
        ([entry(end_us=START)], "safeguard-window"),
        ([entry(end_us=START + 5 * HOUR_US)], "safeguard-window"),
        ([daily(start_us=START + HOUR_US)], "safeguard-window"),
        ([hours(2)[0], entry(start_us=START + HOUR_US // 2)], "safeguard-window"),
        ([hours(2)[0], entry(start_us=START + HOUR_US, end_us=START + 3 * HOUR_US)],
         "safeguard-window"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(rows: list[Row], rule: str) -> None:
    assert rule in rules(rows)


@pytest.mark.parametrize(
    "change", [lambda leaf: leaf | {"delta": 1}, lambda leaf: leaf | {"end": leaf["start"]}]
)
def test_a_delta_is_never_right(change: Callable[[Leaf], Leaf]) -> None:
    leaf = change(leaves.safeguard_window(entry()))
    assert "safeguard-window" in rules([], BUDGET, leaf)


def test_a_budget_stands_before_all_and_binds_the_days_that_have_begun() -> None:
    assert rules([entry()], BUDGET) == set()
    assert rules(day(), leaves.safeguard_budget(999_999, DAY_US)) == {"safeguard-overspent"}
    first, *rest = (leaves.safeguard_window(row) for row in [*day(), kept(marginal="more")])
    raised = leaves.safeguard_budget(2_000_000, DAY_US)
    assert rules([], BUDGET, first, raised, *rest) == {"safeguard-overspent"}
    assert rules([], raised, first, *rest) == set()
    assert rules([], BUDGET, leaves.safeguard_budget(5, HOUR_US)) == {"safeguard-budget"}
    assert rules([], leaves.safeguard_budget(5, 0)) == {"safeguard-budget"}
    replay = Replay(SIGNER.key.name)
    replay.step({"kind": "genesis", "at": START, "origin": SIGNER.key.name})
    replay.step({"at": START} | leaves.safeguard_window(entry()))
    assert [finding.rule for finding in replay.findings] == ["safeguard-budget"]


def test_a_compressed_day_is_noted() -> None:
    def notes(*given: Any) -> list[str]:
        replay = Replay(SIGNER.key.name)
        for leaf in given:
            replay.step({"at": START} | leaf)
        return replay.notes()

    assert notes(BUDGET) == notes() == []
    assert "60 s" in notes(leaves.safeguard_budget(1, 60_000_000))[0]
