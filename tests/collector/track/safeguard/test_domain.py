"""The public domain: cells, scales and charges, known before the first packet."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.track.safeguard.domain import (
    DEFAULT_EPSILON_MICRO,
    DEFAULT_L0,
    Blocked,
    SafeguardConfig,
    marginals,
    pool_size,
)
from collector.wire.addr import pack
from collector.wire.releases import (
    CATEGORY_HOUR,
    KEPT_DAY,
    MARGINALS,
    MICRO,
    REGION_CATEGORY_DAY,
    mechanism_id,
)
from tests.collector.track.safeguard.guarding import CATEGORIES, caps, config


def test_the_defaults_spend_a_budget_of_one() -> None:
    made = SafeguardConfig("edge", "north", ("north",), tuple(f"c{n}" for n in range(50)))
    found = marginals(made, pool=65_536)
    assert [each.name for each in found] == list(MARGINALS)
    assert [each.scale for each in found] == [16, 7.5, 10]
    assert sum(each.epsilon_micro for each in found) == MICRO == sum(DEFAULT_EPSILON_MICRO.values())
    assert [each.cap for each in found] == [DEFAULT_L0[name] for name in MARGINALS]


def test_cells_are_the_public_domain_in_its_order() -> None:
    hourly, daily, kept = marginals(config(), 1)
    assert hourly.cells == tuple(("", each) for each in CATEGORIES)
    assert daily.cells == tuple(("north", each) for each in CATEGORIES)
    assert kept.cells == (("", "whole"), ("", "clipped"))


@given(
    epsilon=st.integers(1, MICRO),
    cap=st.integers(1, 64),
    routers=st.integers(1, 5),
    is_full=st.booleans(),
)
def test_the_charge_is_at_most_what_was_given_and_exactly_what_the_scale_says(
    epsilon: int, cap: int, routers: int, is_full: bool
) -> None:
    split = {CATEGORY_HOUR: epsilon, REGION_CATEGORY_DAY: MICRO, KEPT_DAY: MICRO}
    made = config(
        l0=caps(cap, 1), epsilon_micro=split, budget_micro=3 * MICRO, routers=routers,
        max_households=10,
    )  # fmt: skip
    try:
        hourly = marginals(made, pool=11 if is_full else 10)[0]
    except ValueError:
        assert Fraction(cap * routers * 2 * MICRO, epsilon) > 4096
        return
    assert hourly.l0 == cap * (1 + is_full)
    assert hourly.epsilon_micro <= epsilon
    exact = Fraction(hourly.l0 * routers) / hourly.scale
    assert 0 <= hourly.epsilon_micro - exact * MICRO < 1
    assert hourly.scale.numerator < 2**32
    assert hourly.scale.denominator <= 1000


def test_a_full_table_doubles_the_charge() -> None:
    """A newcomer keeps the last one out, so two households' cells change."""
    assert marginals(config(max_households=256), 256)[0].l0 == 3
    assert marginals(config(max_households=256), 257)[0].l0 == 6
    assert marginals(config(max_households=256), 257)[2].l0 == 2


def test_a_cap_is_no_larger_than_its_domain() -> None:
    found = marginals(config(categories=("a",), l0=caps(64, 64)), 1)
    assert [each.cap for each in found] == [24, 1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": ("b", "a", "c")},
        {"region": "south"},
        {"l0": caps(4, 2)},
        {"routers": 2},
        {"epsilon_micro": {CATEGORY_HOUR: 400_000, REGION_CATEGORY_DAY: 400_000, KEPT_DAY: 5_000}},
    ],
)  # fmt: skip
def test_the_mechanism_names_every_parameter(changes: dict[str, Any]) -> None:
    before, after = marginals(config(), 1), marginals(config(**changes), 1)
    assert any(a.mechanism != b.mechanism for a, b in zip(before, after, strict=True))
    assert len({each.mechanism for each in before}) == 3
    assert marginals(config(collector="other"), 1) == before, "routers share a mechanism"


def test_a_mechanism_can_be_named_by_whoever_has_a_release() -> None:
    """Whatever order its rows are read in, and without knowing regions that it has no cells of."""
    for each in marginals(config(), 1):
        cells = reversed(each.cells)
        assert each.mechanism == mechanism_id(each.name, each.l0, each.routers, each.scale, cells)
    assert marginals(config(regions=("north",)), 1) == marginals(config(), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"region": "west"},
        {"categories": ()},
        {"categories": ("a", "a")},
        {"categories": ("a\n",)},
        {"categories": tuple(f"c{n}" for n in range(65))},
        {"regions": ("north", "")},
        {"l0": {CATEGORY_HOUR: 1}},
        {"l0": caps(0, 1)},
        {"l0": caps(65, 1)},
        {"l0": {CATEGORY_HOUR: 1, REGION_CATEGORY_DAY: 1, KEPT_DAY: 2}},
        {"epsilon_micro": {CATEGORY_HOUR: 500_001, REGION_CATEGORY_DAY: 400_000, KEPT_DAY: 99_999}
         | {KEPT_DAY: 100_000}},
        {"epsilon_micro": {CATEGORY_HOUR: 0, REGION_CATEGORY_DAY: 1, KEPT_DAY: 1}},
        {"routers": 0},
        {"max_households": 0},
    ],
)  # fmt: skip
def test_a_configuration_without_a_mechanism_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must|more|one of|names|name has|at least"):
        config(**changes)


def test_noise_beyond_the_sampler_is_refused() -> None:
    split = {CATEGORY_HOUR: 100, REGION_CATEGORY_DAY: 1000, KEPT_DAY: 1000}
    with pytest.raises(ValueError, match="category-hour"):
        marginals(config(epsilon_micro=split), 1)


def test_the_pool_counts_households_and_not_addresses() -> None:
    access = ((pack("10.0.0.0"), 96 + 16), (pack("2001:db8::"), 40), (pack("2001:db9::1"), 128))
    assert pool_size(access, 56) == 65_536 + 65_536 + 1
    inside = [(base, length + 4) for base, length in access[:2]]
    assert pool_size([*inside, *access, *access], 56) == pool_size(access, 56)


def test_an_event_does_not_show_who_it_was() -> None:
    shown = repr(Blocked(7, pack("10.0.0.1"), 2))
    assert shown == "Blocked(ts_ns=7)"
