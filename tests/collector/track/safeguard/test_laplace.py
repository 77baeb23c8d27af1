"""The noise: its table to the last bit, its draws against the law and a second oracle."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import opendp.prelude as dp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track.safeguard.audit import chi_square
from collector.track.safeguard.laplace import BITS, DRAW_BYTES, DiscreteLaplace
from tests.collector.track.safeguard.guarding import stream

SCALES = [Fraction(1, 16), Fraction(1, 2), Fraction(1), Fraction(5, 2), Fraction(16), Fraction(333)]
WHOLE = 1 << BITS


def cumulative(scale: Fraction, m: int, bits: int = BITS) -> int:
    """floor(P(|X| <= m) * 2^bits) from 160 digits of another library's arithmetic."""
    with localcontext() as context:
        context.prec = 160
        a = (-Decimal(scale.denominator) / Decimal(scale.numerator)).exp()
        return int((1 - 2 * a ** (m + 1) / (1 + a)) * (1 << bits))


@pytest.mark.parametrize("scale", SCALES)
def test_the_table_is_right_in_every_bit(scale: Fraction) -> None:
    law = DiscreteLaplace(scale)
    table = law._table
    for m in {*range(min(40, len(table))), *range(0, len(table), 97), len(table) - 1}:
        assert table[m] == cumulative(scale, m), m
    assert table[-1] == WHOLE - 1
    assert table[-2] < WHOLE - 1
    assert law.reach == len(table) - 1


@given(st.fractions(Fraction(1, 16), 40, max_denominator=1000))
@settings(max_examples=60, deadline=None)
def test_any_scale_has_a_right_table(scale: Fraction) -> None:
    table = DiscreteLaplace(scale)._table
    assert table == sorted(table)
    for m in (0, len(table) // 2, len(table) - 1):
        assert table[m] == cumulative(scale, m)


@pytest.mark.parametrize("scale", SCALES[1:4])
def test_the_masses_are_those_of_the_law(scale: Fraction) -> None:
    law = DiscreteLaplace(scale)
    total = sum((law.mass(k) for k in range(-law.reach, law.reach + 1)), Fraction(0))
    assert abs(total - 1) < Fraction(1, 2**120)
    assert law.mass(3) == law.mass(-3)
    assert law.mass(law.reach + 1) == 0
    ratio = float(law.mass(4) / law.mass(3))
    assert ratio == pytest.approx(float((-1 / Decimal(float(scale))).exp()), rel=1e-12)


def feed(*pieces: int, sign: int = 0) -> Callable[[int], bytes]:
    """Random bytes that begin as told: the first 128 bits and the sign, then 128 bits each."""
    left = [pieces[0].to_bytes(16, "big") + bytes([sign])]
    left += [piece.to_bytes(16, "big") for piece in pieces[1:]]

    def random_bytes(count: int) -> bytes:
        data = left.pop(0)
        assert len(data) == count
        return data

    return random_bytes


@pytest.mark.parametrize("scale", SCALES[:5])
def test_each_boundary_of_the_table_is_where_the_value_changes(scale: Fraction) -> None:
    law = DiscreteLaplace(scale)
    for m in (0, 1, law.reach // 2, law.reach * 3 // 4):
        bound = law._table[m]
        assert law.draw(feed(bound - 1)) <= m
        assert law.draw(feed(bound + 1)) > m
        assert law.draw(feed(bound + 1, sign=1)) < -m
        # On the boundary the next 128 bits decide, as the exact boundary lies between.
        rest = cumulative(scale, m, 2 * BITS) - (bound << BITS)
        assert law.draw(feed(bound, rest - 1)) == m
        assert law.draw(feed(bound, rest + 1)) == m + 1
        assert law.draws(1, feed(bound, rest + 1, sign=1)) == [-m - 1]


def test_the_tail_has_no_end() -> None:
    """Beyond the table too, more bits give the value that the law has there."""
    law = DiscreteLaplace(Fraction(1))
    for rest in (10**3, 10**9, 10**30):
        u = WHOLE * WHOLE - rest
        found = law.draw(feed(u >> BITS, u % WHOLE))
        assert found > law.reach
        assert cumulative(Fraction(1), found - 1, 2 * BITS) < u
        assert u < cumulative(Fraction(1), found, 2 * BITS)


def test_bytes_that_never_change_are_refused() -> None:
    with pytest.raises(ValueError, match="not random"):
        DiscreteLaplace(Fraction(1)).draw(lambda count: b"\xff" * count)


@pytest.mark.parametrize("scale", [Fraction(1, 17), Fraction(4097), Fraction(0), Fraction(-1)])
def test_a_scale_out_of_range_is_refused(scale: Fraction) -> None:
    with pytest.raises(ValueError, match="a scale is"):
        DiscreteLaplace(scale)


def test_many_draws_are_single_draws_of_the_same_bytes() -> None:
    law = DiscreteLaplace(Fraction(5, 2))
    data = stream(b"bytes")(DRAW_BYTES * 500)
    single = iter(data[at : at + DRAW_BYTES] for at in range(0, len(data), DRAW_BYTES))
    many = law.draws(500, lambda count: data[:count])
    assert many == [law.draw(lambda count: next(single)) for _ in range(500)]
    assert len(set(many)) > 10


def test_a_fixed_stream_gives_these_values() -> None:
    """What is released from the same bytes must not change with the code."""
    assert DiscreteLaplace(Fraction(16)).draws(12, stream(b"fixed")) == FIXED


FIXED = [-12, -8, -30, -17, 20, -1, -11, 9, 2, 10, 5, 28]


@pytest.mark.parametrize("scale", [Fraction(1, 2), *SCALES[2:], Fraction(4000)])
@pytest.mark.parametrize("source", ["fixed", "kernel"])
def test_draws_have_the_distribution(scale: Fraction, source: str) -> None:
    law = DiscreteLaplace(scale)
    random_bytes = stream(b"chi") if source == "fixed" else os.urandom
    noise = law.draws(200_000, random_bytes)
    assert chi_square(noise, law).p_value > 1e-6
    signs = Counter(value > 0 for value in noise if value)
    assert abs(signs[True] - signs[False]) < 5 * sum(signs.values()) ** 0.5


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(5, 2), Fraction(16)])
def test_the_law_is_that_of_opendp(scale: Fraction) -> None:
    """The second oracle: what OpenDP draws passes for ours, and its ε for one household is ours."""
    dp.enable_features("contrib")
    inputs = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    theirs: Any = dp.m.make_laplace(*inputs, scale=float(scale))
    law = DiscreteLaplace(scale)
    assert theirs.map(1) == pytest.approx(float(1 / scale), rel=1e-9)
    noise = theirs([0] * 60_000)
    assert chi_square(noise, law).p_value > 1e-6
    assert chi_square(noise, DiscreteLaplace(scale * 9 / 10)).p_value < 1e-6, "it can fail"
