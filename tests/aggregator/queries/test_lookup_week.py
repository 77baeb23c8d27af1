"""A simulated week of carrier-grade NAT: many questions, never a wrong CERTAIN.

In CI a smaller network and fewer questions; TALLYHOLD_LOOKUP_QUESTIONS=100000 asks about a week of
10,000 subscribers in each of three networks. `-s` shows the share of each grade.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest

from aggregator.queries.evidence import Lost, Margins
from aggregator.queries.lookup import Grade, look_up
from tests.aggregator.queries.cgnat import S, World

QUESTIONS = int(os.environ.get("TALLYHOLD_LOOKUP_QUESTIONS", "12000"))
SEED = int(os.environ.get("TALLYHOLD_LOOKUP_SEED", "1"))
IS_FULL = QUESTIONS >= 100_000
SIZE, HOURS = (10_000, 168) if IS_FULL else (384, 30)
MARGINS = Margins(clock_us=S, tail_us=300 * S, settle_us=1200 * S)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SEED, SIZE, HOURS)


@pytest.mark.timeout(3600 if IS_FULL else 240)
def test_never_a_wrong_certain(world: World) -> None:
    grades: dict[str, Counter[str]] = {}
    right: Counter[str] = Counter()
    for _ in range(QUESTIONS):
        question, kind, truth = world.ask()
        answer = look_up(question, world, MARGINS)
        grades.setdefault(kind, Counter())[answer.grade] += 1
        names = {each.subscriber for each in answer.candidates}
        right[answer.grade] += truth <= names
        if answer.grade is Grade.CERTAIN:
            assert names == truth, (question, answer.candidates, truth)
        if answer.grade is Grade.NONE:
            # Nothing lost that we know of: somebody is missing only by messages lost in silence.
            assert not answer.candidates
        if kind == "no port":
            assert answer.grade is Grade.AMBIGUOUS
            assert not answer.candidates
    _report(grades, right)
    total = Counter[str]()
    for each in grades.values():
        total += each
    for grade in Grade:
        assert total[grade] > 0, f"the week has no question that is {grade}"
    # Sure where it can be: a look-up that only ever hedges would pass all of the above.
    assert total[Grade.CERTAIN] > QUESTIONS * 0.5


def _report(grades: dict[str, Counter[str]], right: Counter[str]) -> None:
    total = sum(grades.values(), Counter[str]())
    lines = [f"{QUESTIONS:,} questions, seed {SEED}"]
    for kind, each in [*sorted(grades.items()), ("all", total)]:
        shares = ", ".join(f"{g} {each[g] / each.total():.2%}" for g in Grade)
        lines.append(f"{kind:>13} {each.total():>7,}: {shares}")
    among = ", ".join(f"{g} {right[g] / max(total[g], 1):.2%}" for g in Grade)
    lines.append(f"truth among the candidates: {among}")
    sys.stdout.write("\n".join(lines) + "\n")


class Deaf:
    """The same evidence without its losses: what an answer would be that trusted every silence."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mappings, self.sharers = world.mappings, world.sharers
        self.holdings = world.holdings

    def losses(self, from_us: int, to_us: int) -> Sequence[Lost]:
        return []


def test_clocks_believed_to_the_microsecond_would_be_caught(world: World) -> None:
    careless = replace(MARGINS, clock_us=0)
    wrong = 0
    for _ in range(6000):
        question, _, truth = world.ask()
        exact = replace(question, tolerance_us=0)
        answer = look_up(exact, world, careless)
        names = {each.subscriber for each in answer.candidates}
        wrong += answer.grade is Grade.CERTAIN and names != truth
    assert wrong > 0


def test_a_silence_that_is_trusted_would_be_caught(world: World) -> None:
    """Two flows shared a port and one of them was lost in a gap."""
    wrong = asked = 0
    for question, truth in islice(world.shared_ports(), 1500):
        asked += 1
        for evidence, trusts in ((Deaf(world), True), (world, False)):
            answer = look_up(question, evidence, MARGINS)
            names = {each.subscriber for each in answer.candidates}
            is_wrong = answer.grade is Grade.CERTAIN and names != truth
            wrong += is_wrong
            assert trusts or not is_wrong
    assert wrong > 0, asked
