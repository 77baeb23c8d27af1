"""Error bars and thresholds against sums that are worked out term by term."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, log

import pytest

from collector.track.safeguard.laplace import DiscreteLaplace
from safeguard.laws import half_width, threshold, within


def masses(scales: Sequence[Fraction]) -> dict[int, float]:
    """The distribution of a sum, by convolution of the sampler's own masses."""
    found = {0: 1.0}
    for scale in scales:
        law = DiscreteLaplace(scale)
        one = {k: float(law.mass(k)) for k in range(-law.reach, law.reach + 1)}
        one = {k: mass for k, mass in one.items() if mass > 1e-18}
        new: dict[int, float] = {}
        for k, mass in found.items():
            for n, other in one.items():
                new[k + n] = new.get(k + n, 0.0) + mass * other
        found = new
    return found


@pytest.mark.parametrize(
    "scales",
    [
        [Fraction(1, 16)],
        [Fraction(1)],
        [Fraction(16)],
        [Fraction(5, 2)] * 3,
        [Fraction(2), Fraction(7, 3)],
        [Fraction(10)] * 2,
    ],
    ids=lambda scales: "+".join(map(str, scales)),
)
def test_intervals_are_those_of_the_sum(scales: list[Fraction]) -> None:
    exact = masses(scales)
    for m in (0, 1, 2, 5, 20, 60):
        inside = sum(mass for k, mass in exact.items() if abs(k) <= m)
        assert within(scales, m) == pytest.approx(inside, abs=1e-12)
    for alpha in (0.5, 0.05, 0.01, 1e-6):
        m = half_width(scales, alpha)
        assert sum(mass for k, mass in exact.items() if abs(k) > m) <= alpha * (1 + 1e-9)
        if m:
            assert sum(mass for k, mass in exact.items() if abs(k) >= m) > alpha * (1 - 1e-9)


def test_many_routers_are_soon_told() -> None:
    wide = half_width([Fraction(10)] * 400, 0.05)
    assert wide == pytest.approx(1.96 * 10 * (2 * 400) ** 0.5, rel=0.02)  # nearly normal by then


def test_a_threshold_is_what_noise_on_a_zero_rarely_reaches() -> None:
    assert threshold([Fraction(16)], 0.01) == ceil(16 * log(50)) == 63
    assert threshold([Fraction(1)], 0.01) == 10
    two = [Fraction(16)] * 2
    exact = masses(two)
    t = threshold(two, 0.01)
    assert sum(mass for k, mass in exact.items() if k >= t) <= 0.01
    assert sum(mass for k, mass in exact.items() if k >= t - 1) > 0.01


def test_no_noise_is_no_law() -> None:
    for none in ([], [Fraction(0)]):
        with pytest.raises(ValueError, match="scale"):
            half_width(none, 0.05)
