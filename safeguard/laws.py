"""Scales of noise in, error bars and the threshold of what is shown out.

A figure is the sum of what some releases counted, so its error is a sum of independent discrete
Laplace variables. Its distribution is found from the characteristic function: on N points the
inversion gives P(X = k mod N) with no error but that of floats, and N is such that what lies
beyond is less than 1e-15.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil, cos, exp, isqrt, log, pi, sin, sqrt
from typing import Final

LEAST: Final = 10
"""No count below is ever shown, whatever the noise: a usual rule of statistical offices."""
_TAILS: Final = 45
"""Scales beyond which less than exp(-45) of one variable lies."""
_DEVIATIONS: Final = 12


def half_width(scales: Sequence[Fraction], alpha: float) -> int:
    """Least m such that the sum of noise of these scales is beyond ±m with a chance of at most
    `alpha`: the true sum is within m of what is shown, so often."""
    return _half_width(tuple(sorted(scales)), alpha)


def threshold(scales: Sequence[Fraction], alpha: float) -> int:
    """Least count that is shown: noise on a zero reaches it with a chance of about `alpha`.

    Of one release that is scale · ln(1 / 2α); of several, one more than noise exceeds so rarely.
    """
    if len(scales) == 1:
        return max(LEAST, ceil(float(scales[0]) * log(1 / (2 * alpha))))
    return max(LEAST, half_width(scales, 2 * alpha) + 1)


def within(scales: Sequence[Fraction], m: int) -> float:
    """P(|X| <= m) of the sum X of noise of these scales."""
    return _Sum(tuple(sorted(scales))).within(m)


@lru_cache(maxsize=1024)
def _half_width(scales: tuple[Fraction, ...], alpha: float) -> int:
    law = _Sum(scales)
    low, high = 0, law.reach
    while low < high:
        middle = (low + high) // 2
        if law.within(middle) >= 1 - alpha:
            high = middle
        else:
            low = middle + 1
    return low


class _Sum:
    """The characteristic function of a sum of noise, at N points of a circle."""

    def __init__(self, scales: tuple[Fraction, ...]) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError("there is no noise without a scale")
        deviation = sqrt(2 * sum(float(scale) ** 2 for scale in scales))
        self.reach = ceil(_TAILS * float(max(scales)) + _DEVIATIONS * deviation) + isqrt(
            len(scales)
        )
        self._points = 2 * self.reach + 2
        counted = {scale: scales.count(scale) for scale in set(scales)}
        self._values = [1.0] * (self.reach + 1)
        for scale, times in counted.items():
            a = exp(-1 / float(scale))
            top, low = (1 - a) ** 2, 1 + a * a
            for j in range(1, self.reach + 1):
                value = top / (low - 2 * a * cos(2 * pi * j / self._points))
                self._values[j] *= value**times
        a = 1.0
        for scale in scales:  # at the point opposite, t = π
            ratio = exp(-1 / float(scale))
            a *= ((1 - ratio) / (1 + ratio)) ** 2
        self._opposite = a

    def within(self, m: int) -> float:
        """P(|X| <= m), by the Dirichlet kernel sin((m + ½)t) / sin(t / 2)."""
        if m >= self.reach:
            return 1.0
        step = pi / self._points
        total = 2 * m + 1.0
        for j in range(1, self.reach + 1):
            total += 2 * self._values[j] * sin((2 * m + 1) * j * step) / sin(j * step)
        total += -self._opposite if m % 2 else self._opposite
        return total / self._points
