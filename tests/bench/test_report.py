"""Figures of the benches: what a ratio means, and that what is written is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.report import Figure, in_turns, load, save

COST = Figure("x.cost", 2.0, 10.0, "us", "another", "all", "nothing", wanted=5.0)


def test_ratio_says_how_many_times_as_good() -> None:
    assert COST.ratio == 5 and COST.met
    assert not replace(COST, ours=2.1).met
    assert replace(COST, rate=True).ratio == 0.2
    assert replace(COST, ours=100.0, wanted=None).met


@pytest.mark.parametrize(
    "change", [{"name": "../x"}, {"ours": 0.0}, {"peer": float("nan")}, {"leaves_out": ""}]
)
def test_a_figure_that_says_nothing_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(COST, **change)  # type: ignore[arg-type]


def test_saved_figures_are_read_again(tmp_path: Path) -> None:
    missed = replace(COST, name="x.missed", ours=9.0)
    assert save([COST, missed], tmp_path) == [missed]
    first, second = load(tmp_path)
    for key in ("name", "ours", "peer", "ratio", "unit", "includes", "leaves_out"):
        assert first[key] == getattr(COST, key)
    assert (first["met"], second["met"]) == (True, False)


def test_ways_take_turns() -> None:
    seen: list[str] = []

    def way(name: str) -> int:
        seen.append(name)
        return 1

    found = in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert seen == ["a", "b", "a", "b"] and set(found) == {"a", "b"}
