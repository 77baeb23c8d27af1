"""Tariffs and statements: arithmetic worked by hand, what is not billed, errors all at once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.queries.rating import Statement, plain, rate_calls
from aggregator.queries.tariff import Tariff, load, parse
from collector.wire.settings import ConfigError

UK = {"name": "UK", "prefix": "+44", "per_minute": "0.02", "setup": "0.05"}
MOBILE = {"name": "UK mobile", "prefix": "+447", "per_minute": "0.123456", "setup": "0"}
SHORT = {"name": "Directory", "prefix": "118", "per_minute": "3.49", "setup": "1"}


def tariff(**others: Any) -> Tariff:
    data = {"currency": "GBP", "rate": [UK, MOBILE, SHORT], **others}
    return parse(data, Path("tariff.toml"))


def call(number: str = "+441632960002", talk_ms: int = 61_250, **others: Any) -> dict[str, Any]:
    return {
        "record_id": others.get("start_us", 1).to_bytes(16, "big"),
        "direction": "out",
        "b_e164": number if number.startswith("+") else "",
        "b_raw": number,
        "start_us": 1,
        "talk_ms": talk_ms,
        "disposition": "ANSWERED",
        "emergency": 0,
        "partial": 0,
        **others,
    }


def test_every_step_is_shown_and_adds_up() -> None:
    rates = tariff(rounding={"seconds": 60, "charge": "0.01"})
    (charge,) = rate_calls([call()], rates).charges
    assert charge.billed_s == 120  # 61.25 s in whole minutes
    assert charge.charge == Decimal("0.09")  # 2 x 0.02 + 0.05
    assert charge.steps(rates) == [
        "talk 61250 ms, in steps of 60 s and at least 0 s: 120 s",
        "120 s x 0.02 / 60 s + setup 0.05 = 0.09",
        "rounded (half-up, 0.01): 0.09",
    ]


@pytest.mark.parametrize(
    ("talk_ms", "seconds", "minimum", "billed"),
    [(0, 1, 0, 0), (1, 1, 0, 1), (1000, 1, 0, 1), (1001, 1, 0, 2), (5000, 6, 30, 30),
     (60_000, 60, 0, 60), (60_001, 60, 0, 120), (0, 60, 10, 10)],
)  # fmt: skip
def test_talk_time_is_rounded_up_in_steps(
    talk_ms: int, seconds: int, minimum: int, billed: int
) -> None:
    rates = tariff(rounding={"seconds": seconds, "minimum_s": minimum})
    assert rate_calls([call(talk_ms=talk_ms)], rates).charges[0].billed_s == billed


@pytest.mark.parametrize(
    ("mode", "charge"),
    [("half-up", "0.13"), ("half-even", "0.12"), ("up", "0.13"), ("down", "0.12")],
)
def test_a_charge_is_rounded_once_by_the_tariffs_mode(mode: str, charge: str) -> None:
    half = {"name": "Half", "prefix": "+44", "setup": "0.125"}
    rates = tariff(rate=[half], rounding={"mode": mode, "charge": "0.01"})
    assert rate_calls([call(talk_ms=0)], rates).charges[0].charge == Decimal(charge)


def test_the_longest_prefix_wins_and_short_numbers_are_as_dialled() -> None:
    found = rate_calls([call("+447700900123"), call("118500"), call("+441632960002")], tariff())
    assert [each.rate.name for each in found.charges] == ["UK mobile", "Directory", "UK"]
    assert tariff().rate_of("+33123456789") is None


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"direction": "in"}, "incoming"),
        ({"emergency": 1}, "emergency"),
        ({"partial": 3}, "goes on"),
        ({"disposition": "ANSWERED_UNCONFIRMED"}, "never confirmed"),
        ({"disposition": "PARTIAL"}, "not answered: PARTIAL"),
        ({"disposition": "BUSY", "talk_ms": 0}, "not answered: BUSY"),
        ({"number": "+33123456789"}, "no rate"),
    ],
)
def test_what_is_not_billed_is_listed_with_the_reason(others: dict[str, Any], reason: str) -> None:
    found = rate_calls([call(**others)], tariff())
    assert found.charges == ()
    assert reason in found.unbilled[0][1]
    assert found.total == 0


def test_unconfirmed_calls_are_billed_where_the_tariff_says_so() -> None:
    unconfirmed = call(disposition="ANSWERED_UNCONFIRMED")
    assert len(rate_calls([unconfirmed], tariff(unconfirmed=True)).charges) == 1


def test_allowances_are_used_up_in_order_of_time() -> None:
    included = {"name": "Minutes", "rates": ["UK", "UK mobile"], "minutes": 2}
    rates = tariff(allowance=[included])
    calls = [call(talk_ms=90_000, start_us=2), call(talk_ms=100_000, start_us=1)]
    found = rate_calls(calls, rates)
    first, second = found.charges
    assert (first.call["start_us"], first.covered, first.rated_s) == (1, (("Minutes", 100),), 0)
    assert (second.covered, second.rated_s) == ((("Minutes", 20),), 70)
    assert first.charge == Decimal("0.05")  # the setup is not included
    assert second.charge == Decimal("0.0733")  # 70 / 60 x 0.02 + 0.05
    assert found.left_s == {"Minutes": 0}
    assert (found.exact, found.total) == (Decimal("0.1233"), Decimal("0.12"))
    free = rate_calls(calls, tariff(allowance=[{**included, "covers_setup": True}]))
    assert [each.setup for each in free.charges] == [Decimal(0), Decimal("0.05")]


def statement_of(talks: list[int], mode: str, seconds: int) -> Statement:
    rates = tariff(
        rounding={"mode": mode, "seconds": seconds},
        allowance=[{"name": "Minutes", "rates": ["UK mobile"], "minutes": 3}],
    )
    calls = [call("+447700900123", ms, start_us=n + 1) for n, ms in enumerate(talks)]
    return rate_calls(calls, rates)


@given(
    talks=st.lists(st.integers(0, 400_000), max_size=12),
    mode=st.sampled_from(["half-up", "half-even", "up", "down"]),
    seconds=st.sampled_from([1, 6, 30, 60]),
)
def test_arithmetic_agrees_with_fractions(talks: list[int], mode: str, seconds: int) -> None:
    """No cent appears or vanishes: each charge is within one step of the exact fraction."""
    found = statement_of(talks, mode, seconds)
    left, exact = 180, Fraction(0)
    for talk, charge in zip(talks, found.charges, strict=True):
        billed = -(-talk // (seconds * 1000)) * seconds
        used = min(left, billed)
        left -= used
        cost = Fraction(billed - used) * Fraction("0.123456") / 60
        assert (charge.billed_s, charge.covered_s) == (billed, used)
        assert abs(Fraction(charge.charge) - cost) < Fraction(1, 10_000)
        exact += Fraction(charge.charge)
    assert Fraction(found.exact) == exact
    assert sum((row["charge"] for row in found.by_rate()), Decimal(0)) == found.exact
    assert found.left_s == {"Minutes": left}


def test_all_errors_of_a_tariff_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tariff(
            currency="pounds",
            rate=[{**UK, "per_minute": 0.02}, {**MOBILE, "setup": "-1"}, {**SHORT, "prefix": "x"}],
            rounding={"mode": "nearest"},
            odd=1,
        )
    text = str(caught.value)
    for part in ("currency", "rate.0.per_minute: write it as a text", "rate.1.setup",
                 "rate.2.prefix", "rounding.mode", "odd: unknown key"):  # fmt: skip
        assert part in text
    with pytest.raises(ConfigError) as caught:
        tariff(
            rate=[UK, {**MOBILE, "name": "UK"}, {**SHORT, "prefix": "+44"}],
            allowance=[{"name": "a", "rates": ["France"], "minutes": 1}],
        )
    for part in ("name 'UK' stands there twice", "'+44' stands there twice", "no rate 'France'"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(("amount", "text"), [("0.100", "0.1"), ("100", "100"), ("1E+2", "100")])
def test_amounts_are_written_plainly(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text
