"""Neighbouring streams: what one household more can change is what the ledger charges for.

The same day is lived twice, with and without one household that does whatever it likes, with
restarts and clocks that are set at any time. With noise taken out, released counts differ in at
most `l0` cells of a marginal and day, by one each; the rows themselves are the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.track.safeguard.tracker import SafeGuard
from tests.collector.track.safeguard.guarding import (
    DAY,
    HOUR,
    MIDNIGHT,
    SECOND,
    block,
    caps,
    cells,
    guard,
    rows,
)

EXTRA = 99
BLOCKS = st.tuples(st.just("block"), st.sampled_from([0, 1, 2, 3, EXTRA, EXTRA]), st.integers(0, 2))
CLOCK = st.tuples(
    st.sampled_from(["wait", "wait", "wait", "step"]), st.integers(-7200, 40_000), st.just(0)
)
RESTART = st.tuples(st.sampled_from(["restart", "take", "crash"]), st.just(0), st.just(0))
STREAM = st.lists(st.one_of(BLOCKS, BLOCKS, BLOCKS, CLOCK, RESTART), min_size=20, max_size=120)
Op = tuple[str, int, int]


class Life:
    """One router's days: rows that were committed, with the state of the same commit."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.made: SafeGuard = guard(noise=False, **options)
        self.now = MIDNIGHT - 60 * SECOND
        self.saved: str = json.dumps(self.made.snapshot())
        self.cells: dict[tuple[str, int, str, str], int] = {}
        self.ledger: list[dict[str, Any]] = []
        self.made.advance(self.now)

    def live(self, op: Op, without: int | None) -> None:
        kind, first, second = op
        if kind == "block":
            if first != without:
                block(self.made, first, second)
        elif kind == "wait":
            for _ in range(0, abs(first), 240):
                self.now += 240 * SECOND
                self.made.advance(self.now)
        elif kind == "step":
            self.now += first * SECOND
            self.made.advance(self.now)
        else:
            if kind != "crash":
                self.commit()
            if kind != "take":
                self.made = guard(noise=False, **self.options)
                self.made.restore(json.loads(self.saved), self.now)
                self.made.advance(self.now)

    def commit(self) -> None:
        taken = self.made.take(0, 1, self.now)
        found = cells(taken)
        assert not found.keys() & self.cells.keys(), "a cell was released twice"
        self.cells |= found
        self.ledger += rows(taken, "safeguard_ledger")
        self.saved = json.dumps(self.made.snapshot())

    def finish(self) -> None:
        self.live(("wait", 90_000, 0), None)
        self.commit()


def differences(one: Life, other: Life) -> dict[tuple[str, int], int]:
    """Cells that differ by marginal and day; each by one at most."""
    assert list(one.cells) == list(other.cells), "which rows exist must not depend on anyone"
    assert one.ledger == other.ledger
    found: dict[tuple[str, int], int] = defaultdict(int)
    for key, count in one.cells.items():
        change = abs(count - other.cells[key])
        assert change <= 1
        found[key[0], key[1] // DAY] += change
    return found


def charges(life: Life) -> dict[tuple[str, int], Fraction]:
    """ε of each marginal and day by the ledger, in units of 1 / scale: cells that may change."""
    found: dict[tuple[str, int], Fraction] = defaultdict(Fraction)
    for entry in life.ledger:
        scale = Fraction(entry["scale_num"], entry["scale_den"])
        day = entry["start_ns"] // DAY
        found[entry["marginal"], day] += Fraction(entry["epsilon_micro"], 1_000_000) * scale
    return found


def check(ops: list[Op], **options: Any) -> None:
    lives = []
    for without in (None, EXTRA):
        life = Life(**options)
        for op in [("wait", 120, 0), *ops]:
            life.live(op, without)
        life.finish()
        lives.append(life)
    charged = charges(lives[0])
    bound = {each.name: each.l0 for each in lives[0].made.marginals}
    for place, cells_changed in differences(*lives).items():
        assert cells_changed <= bound[place[0]]
        # Where a crash lost the batch with the day's charge, the day is silent after it.
        assert cells_changed <= charged[place]


FAST = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(STREAM)
@FAST
def test_a_household_changes_no_more_than_it_is_charged_for(ops: list[Op]) -> None:
    check(ops, l0=caps(3, 2))


@given(STREAM)
@FAST
def test_nor_with_the_smallest_caps(ops: list[Op]) -> None:
    check(ops, l0=caps(1, 1))


@given(STREAM)
@FAST
def test_nor_where_the_table_is_full(ops: list[Op]) -> None:
    """The newcomer keeps another out; the charge for a table that can be full is twice as much."""
    check(ops, l0=caps(2, 1), max_households=2)


@given(STREAM, st.lists(st.booleans(), min_size=120, max_size=120))
@FAST
def test_nor_on_two_routers(ops: list[Op], places: list[bool]) -> None:
    """It moves between them as it likes; the charge is that of R = 2."""
    totals: dict[tuple[str, int], int] = defaultdict(int)
    charged: dict[tuple[str, int], Fraction] = {}
    for router in (False, True):
        placed = zip(ops, places, strict=False)
        own = [op for op, place in placed if op[0] != "block" or place == router]
        lives = []
        for without in (None, EXTRA):
            life = Life(collector=f"edge-{int(router)}", routers=2, l0=caps(2, 2))
            for op in [("wait", 120, 0), *own]:
                life.live(op, without)
            life.finish()
            lives.append(life)
        charged |= {place: max(cost, charged.get(place, cost))
                    for place, cost in charges(lives[0]).items()}  # fmt: skip
        for place, changed in differences(*lives).items():
            totals[place] += changed
    for place, changed in totals.items():
        assert changed <= charged[place]


def test_the_bound_is_reached_so_the_test_can_fail() -> None:
    ops: list[Op] = []
    for _ in range(6):
        ops += [("block", EXTRA, category) for category in range(3)]
        ops.append(("wait", HOUR // SECOND, 0))
    lives = []
    for without in (None, EXTRA):
        life = Life(l0=caps(3, 2))
        for op in [("wait", 120, 0), *ops]:
            life.live(op, without)
        life.finish()
        lives.append(life)
    found = differences(*lives)
    assert {name: n for (name, _), n in found.items() if n} == {
        "category-hour": 3, "region-category-day": 2, "kept-day": 1,
    }  # fmt: skip
