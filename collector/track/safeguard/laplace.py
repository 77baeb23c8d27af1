"""Random bytes in, discrete Laplace noise out: exact, and without floating point.

P(X = k) = (1 - a) / (1 + a) * a^|k| with a = exp(-1 / scale), the two-sided geometric distribution
(Ghosh, Roughgarden and Sundararajan 2009, "Universally utility-maximizing privacy mechanisms").
Floats are no option: the gaps between them show what was added to what (Mironov 2012, "On
significance of the least significant bits for differential privacy").

|X| is found by inversion. A draw is the first 128 bits u of a uniform number U; the table holds
floor(2^128 * P(|X| <= m)) for each m until that is 2^128 - 1. Where u is in the table (less than
scale * 2^-120 of draws) or beyond it, more bits of U are drawn and compared at higher precision,
so the distribution is exact and not only close. One more bit is the sign.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Final

from collector.track.safeguard.domain import MAX_SCALE, MIN_SCALE

RandomBytes = Callable[[int], bytes]
"""As `os.urandom`: that many bytes, uniform and independent."""
BITS: Final = 128
DRAW_BYTES: Final = 17
"""Sixteen bytes for the magnitude; the lowest bit of the last one is the sign."""
_GUARD: Final = 96
"""Bits beyond those wanted: 360,000 rounded products (the largest scale) lose 20 of them."""
_MAX_ROUNDS: Final = 8
"""Each further round of 128 bits is needed in less than one of 2^100 cases."""


class DiscreteLaplace:
    """Noise of one scale, MIN_SCALE to MAX_SCALE; raises ValueError outside of that."""

    def __init__(self, scale: Fraction) -> None:
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise ValueError(f"a scale is {float(MIN_SCALE)} to {int(MAX_SCALE)}")
        self.scale = scale
        self._table = _table(scale)
        # One byte lower, so that a draw of 17 bytes is compared as it is.
        self._shifted = [each << 8 for each in self._table]

    def draw(self, random_bytes: RandomBytes) -> int:
        """One value."""
        value = int.from_bytes(random_bytes(DRAW_BYTES), "big")
        m = bisect_right(self._shifted, value)
        if m and value - self._shifted[m - 1] < 256:
            m = self._resolve(value >> 8, random_bytes)
        return -m if value & 1 else m

    def draws(self, count: int, random_bytes: RandomBytes) -> list[int]:
        """`count` independent values from one read of random bytes."""
        data = random_bytes(DRAW_BYTES * count)
        shifted, from_bytes, found = self._shifted, int.from_bytes, []
        for at in range(0, DRAW_BYTES * count, DRAW_BYTES):
            value = from_bytes(data[at : at + DRAW_BYTES], "big")
            m = bisect_right(shifted, value)
            if m and value - shifted[m - 1] < 256:
                m = self._resolve(value >> 8, random_bytes)
            found.append(-m if value & 1 else m)
        return found

    def mass(self, k: int) -> Fraction:
        """P(X = k) to within 2^-127; 0 beyond the table."""
        m, table = abs(k), self._table
        if m >= len(table):
            return Fraction(0)
        both = table[m] - (table[m - 1] if m else 0)
        return Fraction(both, 1 << BITS + (1 if m else 0))

    @property
    def reach(self) -> int:
        """Largest magnitude that 128 bits alone can decide; above it lies less than 2^-127."""
        return len(self._table) - 1

    def _resolve(self, u: int, random_bytes: RandomBytes) -> int:
        """The magnitude where the first 128 bits of U do not tell it.

        1 - U lies in (rest - 1, rest] / 2^bits. The magnitude is the first m with U < P(|X| <= m),
        that is 1 - U > P(|X| > m), each compared with integer bounds of 2^bits * P(|X| > m).
        """
        bits = BITS
        for _ in range(_MAX_ROUNDS):
            u = u << BITS | int.from_bytes(random_bytes(BITS // 8), "big")
            bits += BITS
            rest = (1 << bits) - u
            for m, (low, high) in enumerate(_survivals(self.scale, bits + _GUARD)):
                if (rest - 1) << _GUARD >= high:
                    return m
                if rest << _GUARD > low:
                    break  # not even these bits tell
        raise ValueError("the random bytes are not random")


def _table(scale: Fraction) -> list[int]:
    """floor(2^BITS * P(|X| <= m)) for m = 0, 1, ..., up to the first that is 2^BITS - 1."""
    guard = _GUARD
    while True:
        table = []
        one = 1 << BITS + guard
        for low, high in _survivals(scale, BITS + guard):
            floor = one - high >> guard
            if floor != one - low >> guard:
                break  # the bounds lie on both sides of a whole number
            table.append(floor)
            if floor == (1 << BITS) - 1:
                return table
        guard *= 2


def _survivals(scale: Fraction, bits: int) -> Iterator[tuple[int, int]]:
    """Integers below and above 2^bits * P(|X| > m) for m = 0, 1, ... without end.

    P(|X| > m) = 2 a^(m+1) / (1 + a).
    """
    one = 1 << bits
    a_low, a_high = _exp_bounds(1 / scale, bits)
    low = 2 * a_low * one // (one + a_low)
    high = -(-2 * a_high * one // (one + a_high))
    while True:
        yield low, high
        low = low * a_low >> bits
        high = -(-high * a_high >> bits)


def _exp_bounds(x: Fraction, bits: int) -> tuple[int, int]:
    """Integers below and above 2^bits * exp(-x) for x > 0.

    exp(x / 2^h) with x / 2^h <= 1/2 by its series, whose terms are all positive; then the inverse,
    squared h times. Below is always rounded down and above up.
    """
    halvings = int(x).bit_length() + 1
    over, under = x.numerator, x.denominator << halvings
    one = 1 << bits
    low = high = term_low = term_high = one
    n = 0
    while term_high > 1:
        n += 1
        term_low = term_low * over // (under * n)
        term_high = -(-term_high * over // (under * n))
        low += term_low
        high += term_high
    high += term_high  # each term is less than half of the one before: the rest is less than it
    low, high = one * one // high, -(-one * one // low)
    for _ in range(halvings):
        low, high = low * low >> bits, -(-high * high >> bits)
    return low, high
