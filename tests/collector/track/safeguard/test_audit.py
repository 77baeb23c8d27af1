"""The audit: sound mechanisms pass, each of five broken ones does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import pytest

from collector.track.safeguard.audit import (
    COUNTS,
    PROBES,
    Mechanism,
    audit,
    binomial_bounds,
    chi_square,
    epsilon_lower_bound,
    upper_gamma,
)
from collector.track.safeguard.laplace import DiscreteLaplace
from tests.collector.track.safeguard.guarding import stream

DRAWS = 60_000
Make = Callable[[Fraction], Mechanism]
law = cache(DiscreteLaplace)


def sound(scale: Fraction) -> Mechanism:
    source = stream(str(scale).encode())
    return lambda count, draws: [count + x for x in law(scale).draws(draws, source)]


def half_the_scale(scale: Fraction) -> Mechanism:
    return sound(scale / 2)


def four_fifths_of_the_scale(scale: Fraction) -> Mechanism:
    return sound(scale * 4 / 5)


def rounded_float(scale: Fraction) -> Mechanism:
    source, rate = random.Random(7), float(1 / scale)
    draw = source.expovariate
    return lambda count, draws: [round(count + draw(rate) - draw(rate)) for _ in range(draws)]


def one_in_a_hundred_without(scale: Fraction) -> Mechanism:
    source, noisy = random.Random(7), sound(scale)

    def mechanism(count: int, draws: int) -> list[int]:
        return [count if source.random() < 0.01 else each for each in noisy(count, draws)]

    return mechanism


def none_on_zero(scale: Fraction) -> Mechanism:
    noisy = sound(scale)
    return lambda count, draws: noisy(count, draws) if count else [0] * draws


BROKEN = [
    half_the_scale,
    four_fifths_of_the_scale,
    rounded_float,
    one_in_a_hundred_without,
    none_on_zero,
]


def test_the_noise_of_the_product_passes() -> None:
    assert audit(sound, PROBES, draws=DRAWS) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda make: str(make.__name__))
def test_a_broken_mechanism_is_rejected(broken: Make) -> None:
    assert audit(broken, PROBES, draws=DRAWS)


def test_each_check_alone_is_blind_to_something() -> None:
    """Why there are two: at a true count of 7 chi-square sees nothing of an unnoised zero, and the
    bound on ε nothing of a rounded float."""
    zero, scale = none_on_zero(Fraction(1)), Fraction(1)
    seven = [each - 7 for each in zero(7, 100_000)]
    assert chi_square(seven, law(scale)).p_value > 1e-6
    assert epsilon_lower_bound(zero(0, 100_000), zero(1, 100_000)) > 1
    found = audit(rounded_float, [scale], draws=100_000)
    assert {each.check for each in found} == {"chi-square"}
    assert len(found) == len(COUNTS)


def test_the_bound_comes_near_the_truth_from_below() -> None:
    for scale in PROBES:
        mechanism = sound(scale)
        bound = epsilon_lower_bound(mechanism(0, 200_000), mechanism(1, 200_000))
        assert 0.3 * float(1 / scale) < bound <= float(1 / scale)
    assert epsilon_lower_bound([1] * 1000, [1] * 1000) == 0


def test_special_functions_have_the_values_of_the_tables() -> None:
    assert upper_gamma(0.5, 3.841_458_820_694_124 / 2) == pytest.approx(0.05, rel=1e-9)
    assert upper_gamma(5, 18.307_038_053_275_146 / 2) == pytest.approx(0.05, rel=1e-9)
    assert upper_gamma(50, 124.342_113_404_004_07 / 2) == pytest.approx(0.05, rel=1e-9)
    assert upper_gamma(5, 1.0) == pytest.approx(0.996_340_153_172_656_3, rel=1e-12)
    low, high = binomial_bounds(10, 100, 0.025)
    assert (low, high) == pytest.approx((0.049_004_7, 0.176_222_6), abs=1e-6)
    assert binomial_bounds(0, 100, 0.05) == pytest.approx((0.0, 1 - 0.05**0.01))
    assert binomial_bounds(100, 100, 0.05)[1] == 1.0


def test_a_mechanism_that_gives_less_is_no_mechanism() -> None:
    with pytest.raises(ValueError, match="as many"):
        audit(lambda scale: lambda count, draws: [count], [Fraction(1)], draws=100)
    with pytest.raises(ValueError, match="too few"):
        chi_square([0, 1], law(Fraction(1)))
