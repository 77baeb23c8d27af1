"""Outputs of a mechanism in, reasons to reject its claim out.

Two checks, as each is blind to faults that the other sees: chi-square compares the noise with the
exact distribution, and the lower bound on ε asks what one household more changes. A mechanism that
adds no noise to a true zero passes the first on other counts; one that rounds a float passes the
second. Probabilities of error here are floats; the noise itself never is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp, inf, lgamma, log, log1p, sqrt
from typing import Final

from collector.track.safeguard.laplace import DiscreteLaplace

Mechanism = Callable[[int, int], Sequence[int]]
"""(true count, draws) to that many independent noisy counts."""
MIN_EXPECTED: Final = 10.0
"""Cells of the chi-square test hold at least so many: the usual rule is five."""
ALPHA: Final = 1e-6
"""Chance that one check rejects a sound mechanism: prove runs some tens a day."""
COUNTS: Final = (0, 1, 7)
"""True counts that are tried: zero, the least that is not, and one of no meaning."""
DRAWS: Final = 200_000
PROBES: Final = (Fraction(1), Fraction(5, 2), Fraction(16))
"""Scales to try besides those in use. Faults differ in where they show: the wrong mass at zero of a
rounded float is lost above a few units of scale, one value in a hundred without noise below."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to reject. check: chi-square or epsilon. figure: p-value, or lower bound on ε;
    limit: what it must not be under, or over."""

    check: str
    scale: Fraction
    count: int
    figure: float
    limit: float


@dataclass(frozen=True, slots=True)
class Event:
    """Outputs from `low` to `high`, and how many of each neighbour's are among them."""

    low: float
    high: float
    near: int
    far: int

    def turned(self, is_turned: bool) -> tuple[int, int]:
        """Counts in the order in which the first is to be the larger."""
        return (self.far, self.near) if is_turned else (self.near, self.far)


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Statistic, degrees of freedom, and chance that a sound sampler does as badly or worse."""

    statistic: float
    degrees: int
    p_value: float


def audit(
    make: Callable[[Fraction], Mechanism],
    scales: Iterable[Fraction],
    draws: int = DRAWS,
    alpha: float = ALPHA,
) -> list[Finding]:
    """Why the mechanism of each scale is not discrete Laplace of that scale; empty where it is.

    Take PROBES too, not only the scales in use. Raises ValueError where a mechanism gives another
    number of outputs than asked for.
    """
    found = []
    for scale in scales:
        mechanism, law = make(scale), DiscreteLaplace(scale)
        for count in COUNTS:
            near, far = list(mechanism(count, draws)), list(mechanism(count + 1, draws))
            if len(near) != draws or len(far) != draws:
                raise ValueError("a mechanism gives as many outputs as asked for")
            chi = chi_square([each - count for each in near], law)
            if chi.p_value < alpha:
                found.append(Finding("chi-square", scale, count, chi.p_value, alpha))
            bound = epsilon_lower_bound(near, far, alpha)
            claim = float(1 / scale)
            if bound > claim:
                found.append(Finding("epsilon", scale, count, bound, claim))
    return found


def chi_square(noise: Sequence[int], law: DiscreteLaplace) -> ChiSquare:
    """Pearson's test of noise against its law; the tails are one cell each.

    Raises ValueError where there are too few values for two cells.
    """
    seen, total = Counter(noise), len(noise)
    edge = 0
    while edge < law.reach and total * law.mass(edge + 1) >= MIN_EXPECTED:
        edge += 1
    if edge == 0:
        raise ValueError("too few values for a chi-square test")
    cells = [(seen[k], float(total * law.mass(k))) for k in range(-edge, edge + 1)]
    inside = float(sum(law.mass(k) for k in range(-edge, edge + 1)))
    for side in (-1, 1):
        beyond = sum(n for k, n in seen.items() if k * side > edge)
        cells.append((beyond, total * (1 - inside) / 2))
    cells = _merged(cells)
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    return ChiSquare(statistic, len(cells) - 1, upper_gamma((len(cells) - 1) / 2, statistic / 2))


def epsilon_lower_bound(near: Sequence[int], far: Sequence[int], alpha: float = ALPHA) -> float:
    """An ε below which the mechanism cannot be, wrong with a chance of at most `alpha`.

    `near` and `far` are outputs for neighbours. One half of them chooses the event that tells them
    apart best (a value, or all up to or from it), the other half measures it with exact binomial
    bounds (Clopper and Pearson 1934), so that the choice costs nothing. After Ding et al. 2018,
    "Detecting violations of differential privacy". 0 where nothing tells them apart.
    """
    best, choice = 0.0, None
    for event in _events(Counter(near[::2]), Counter(far[::2])):
        for turned in (False, True):
            score = _score(*event.turned(turned))
            if score > best:
                best, choice = score, (event, turned)
    if choice is None:
        return 0.0
    event, turned = choice
    low, high = event.low, event.high
    p, q = (sum(low <= value <= high for value in outputs[1::2]) for outputs in (near, far))
    found, other = Event(low, high, p, q).turned(turned)
    if not found:
        return 0.0
    totals = (len(near) // 2, len(far) // 2)
    total, total_other = reversed(totals) if turned else totals
    low = binomial_bounds(found, total, alpha / 2)[0]
    high = binomial_bounds(other, total_other, alpha / 2)[1]
    return max(log(low / high), 0.0)


def binomial_bounds(found: int, total: int, alpha: float) -> tuple[float, float]:
    """Bounds of a probability, each wrong with a chance of at most `alpha`."""
    low = 0.0 if found == 0 else _beta_quantile(alpha, found, total - found + 1)
    high = 1.0 if found == total else _beta_quantile(1 - alpha, found + 1, total - found)
    return low, high


def upper_gamma(a: float, x: float) -> float:
    """Regularised upper incomplete gamma function Q(a, x) (DLMF 8.2.4), by its series (8.7.1) or
    its continued fraction (8.9.2, Lentz's method)."""
    if x <= 0:
        return 1.0
    front = exp(a * log(x) - x - lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(1 - front * total, 0.0)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 100_000):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b or 1e-300)
        c = b + step / c or 1e-300
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * h


def _merged(cells: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Tails that are expected too rarely go to the outermost cells inside."""
    *inner, left, right = cells
    if left[1] < MIN_EXPECTED:
        inner[0] = (inner[0][0] + left[0], inner[0][1] + left[1])
        inner[-1] = (inner[-1][0] + right[0], inner[-1][1] + right[1])
        return inner
    return cells


def _events(near: Counter[int], far: Counter[int]) -> Iterator[Event]:
    """Each value, all up to it and all from it."""
    below_p = below_q = 0
    all_p, all_q = near.total(), far.total()
    for value in sorted(near.keys() | far.keys()):
        p, q = near[value], far[value]
        yield Event(value, value, p, q)
        yield Event(value, inf, all_p - below_p, all_q - below_q)
        below_p, below_q = below_p + p, below_q + q
        yield Event(-inf, value, below_p, below_q)


def _score(found: int, other: int) -> float:
    """About three standard errors below ln(p / q): good enough to choose by."""
    return log((found + 1) / (other + 1)) - 3 * sqrt(1 / (found + 1) + 1 / (other + 1))


def _beta_quantile(p: float, a: float, b: float) -> float:
    """x with I_x(a, b) = p, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _lower_beta(a, b, middle) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _lower_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b) (DLMF 8.17.22, Lentz's method)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _lower_beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or 1e-300)
    h = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + step * d or 1e-300)
            c = 1 + step / c or 1e-300
            h *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * h
