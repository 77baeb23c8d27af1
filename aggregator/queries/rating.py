"""Calls and a tariff in, a statement that shows every step of its arithmetic out. Pure.

A call is billed for what is proven: from the answer to `end_min`. Until here nothing was rounded;
here talk time is rounded up to the tariff's step, each charge and the total to their own, all in
decimal numbers. What is not billed is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from aggregator.queries.reading import Row
from aggregator.queries.tariff import Allowance, Rate, Tariff

ANSWERED: Final = "ANSWERED"
UNCONFIRMED: Final = "ANSWERED_UNCONFIRMED"
_MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Charge:
    """One billed call. billed_s: after rounding; covered: (allowance, seconds) used, in order.

    exact: what it costs before its one rounding; charge: after it.
    """

    call: Row
    rate: Rate
    billed_s: int
    covered: tuple[tuple[str, int], ...]
    setup: Decimal
    exact: Decimal
    charge: Decimal

    @property
    def covered_s(self) -> int:
        return sum(seconds for _, seconds in self.covered)

    @property
    def rated_s(self) -> int:
        """Seconds that cost something."""
        return self.billed_s - self.covered_s

    def steps(self, tariff: Tariff) -> list[str]:
        """The arithmetic, one line a step."""
        rounding = tariff.rounding
        lines = [
            f"talk {self.call['talk_ms']} ms, in steps of {rounding.seconds} s"
            f" and at least {rounding.minimum_s} s: {self.billed_s} s"
        ]
        lines += [f"{name}: {seconds} s are included" for name, seconds in self.covered]
        lines.append(f"{self.rated_s} s x {self.rate.per_minute} / 60 s + setup {self.setup}"
                     f" = {plain(self.exact)}")  # fmt: skip
        lines.append(f"rounded ({rounding.mode}, {rounding.charge}): {self.charge}")
        return lines


@dataclass(frozen=True, slots=True)
class Statement:
    """All calls of a period: billed ones with their charges, others with the reason why not."""

    tariff: Tariff
    charges: tuple[Charge, ...]
    unbilled: tuple[tuple[Row, str], ...]
    left_s: dict[str, int]
    exact: Decimal
    total: Decimal

    def by_rate(self) -> list[dict[str, Any]]:
        """Calls, seconds and charges of each rate that was used, in the tariff's order."""
        found = []
        for rate in self.tariff.rate:
            mine = [each for each in self.charges if each.rate is rate]
            if mine:
                found.append(
                    {
                        "rate": rate.name,
                        "calls": len(mine),
                        "billed_s": sum(each.billed_s for each in mine),
                        "covered_s": sum(each.covered_s for each in mine),
                        "charge": sum((each.charge for each in mine), Decimal(0)),
                    }
                )
        return found


def rate_calls(calls: Iterable[Row], tariff: Tariff) -> Statement:
    """The statement of a period's calls, in order of start, which is how allowances are used up."""
    left = {each.name: each.minutes * _MINUTE_S for each in tariff.allowance}
    charges: list[Charge] = []
    unbilled: list[tuple[Row, str]] = []
    for call in sorted(calls, key=lambda row: (row["start_us"], row["record_id"])):
        reason = _not_billed(call, tariff)
        rate = None if reason else tariff.rate_of(destination(call))
        if rate is None:
            unbilled.append((call, reason or "no rate of the tariff fits the number"))
        else:
            charges.append(_charge(call, rate, tariff, left))
    exact = sum((each.charge for each in charges), Decimal(0))
    total = tariff.rounding.to(exact, tariff.rounding.total)
    return Statement(tariff, tuple(charges), tuple(unbilled), left, exact, total)


def destination(call: Row) -> str:
    """The number that a rate is found by: E.164 where it is one, else as it was dialled."""
    return str(call["b_e164"] or call["b_raw"])


def plain(amount: Decimal) -> str:
    """A decimal without an exponent and without zeros that say nothing."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _not_billed(call: Row, tariff: Tariff) -> str:
    """Why a call is not billed; empty where it is."""
    if call["direction"] != "out":
        return "incoming"
    if call["emergency"]:
        return "emergency calls are free"
    if call.get("partial"):
        return "it goes on: its hours are billed when it has ended"
    if call["disposition"] == UNCONFIRMED and not tariff.unconfirmed:
        return "answered, but never confirmed by the caller"
    if call["disposition"] not in (ANSWERED, UNCONFIRMED):
        return f"not answered: {call['disposition']}"
    return ""


def _charge(call: Row, rate: Rate, tariff: Tariff, left: dict[str, int]) -> Charge:
    rounding = tariff.rounding
    steps = -(-call["talk_ms"] // (rounding.seconds * 1000))
    billed = max(steps * rounding.seconds, rounding.minimum_s)
    covered = []
    rest = billed
    free: list[Allowance] = []
    for each in tariff.allowance:
        used = min(rest, left[each.name]) if rate.name in each.rates else 0
        if used:
            left[each.name] -= used
            rest -= used
            covered.append((each.name, used))
            free.append(each)
    is_free = rest == 0 and bool(free) and all(each.covers_setup for each in free)
    setup = Decimal(0) if is_free else rate.setup
    exact = Decimal(rest) * rate.per_minute / _MINUTE_S + setup
    charge = rounding.to(exact, rounding.charge)
    return Charge(call, rate, billed, tuple(covered), setup, exact, charge)
