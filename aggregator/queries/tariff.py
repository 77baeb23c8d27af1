"""A tariff file in, a checked `Tariff` out, or every error at once with the path of its key.

    currency = "GBP"

    [rounding]
    seconds = 60                # talk time of a call is rated in steps of so many seconds, upwards
    minimum_s = 0
    charge = "0.0001"           # each charge is rounded to this, and the total to `total`
    total = "0.01"
    mode = "half-up"            # half-up, half-even, up or down

    [[rate]]
    name = "United Kingdom"
    prefix = "+44"              # the longest prefix of the number wins; "" is any other number
    per_minute = "0.02"
    setup = "0.05"

    [[allowance]]
    name = "UK minutes"
    rates = ["United Kingdom"]
    minutes = 500
    covers_setup = false        # whether a call wholly within it costs no setup either

Prices are texts, because a TOML float is not the number that was written.
"""

from __future__ import annotations

import decimal
from collections import Counter
from collections.abc import Iterable
from dataclasses import field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from collector.wire import settings
from collector.wire.settings import STRICT, ConfigError

MODES: Final = {
    "half-up": decimal.ROUND_HALF_UP,
    "half-even": decimal.ROUND_HALF_EVEN,
    "up": decimal.ROUND_UP,
    "down": decimal.ROUND_DOWN,
}
_MOST: Final = Decimal(1_000_000)


def _price(value: Any) -> Any:
    if isinstance(value, float | bool):
        raise ValueError('write it as a text, such as "0.02"')
    if isinstance(value, str) and not value.strip().replace(".", "", 1).isdigit():
        raise ValueError('a price is digits with a point, such as "0.02"')
    return value


Price = Annotated[Decimal, BeforeValidator(_price), Field(ge=0, le=_MOST, decimal_places=6)]
Step = Annotated[Decimal, BeforeValidator(_price), Field(gt=0, le=1, decimal_places=6)]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]


@dataclass(config=STRICT)
class Rounding:
    """The only place where anything is rounded; see the module."""

    seconds: Annotated[int, Field(ge=1, le=3600)] = 1
    minimum_s: Annotated[int, Field(ge=0, le=3600)] = 0
    charge: Step = Decimal("0.0001")
    total: Step = Decimal("0.01")
    mode: Literal["half-up", "half-even", "up", "down"] = "half-up"

    def to(self, amount: Decimal, step: Decimal) -> Decimal:
        """The amount in whole steps."""
        return (amount / step).quantize(Decimal(1), rounding=MODES[self.mode]) * step


@dataclass(config=STRICT)
class Rate:
    """Prices of the numbers that begin so."""

    name: Name
    prefix: Annotated[str, Field(pattern=r"^\+?[0-9*#]{0,15}$")]
    per_minute: Price = Decimal(0)
    setup: Price = Decimal(0)


@dataclass(config=STRICT)
class Allowance:
    """Minutes of a period that are in the subscription, for calls of the rates named."""

    name: Name
    rates: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    minutes: Annotated[int, Field(ge=1, le=1_000_000)]
    covers_setup: bool = False


@dataclass(config=STRICT)
class Tariff:
    """What calls cost. unconfirmed: answered calls without the caller's ACK are billed too."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    rate: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=10_000)]
    allowance: Annotated[tuple[Allowance, ...], Field(max_length=100)] = ()
    rounding: Rounding = field(default_factory=Rounding)
    unconfirmed: bool = False

    def rate_of(self, number: str) -> Rate | None:
        """The rate with the longest prefix of a number."""
        found = [each for each in self.rate if number.startswith(each.prefix)]
        return max(found, key=lambda each: len(each.prefix), default=None)


_ADAPTER: Final = TypeAdapter(Tariff)


def load(path: Path) -> Tariff:
    """Read and check a tariff file; raises ConfigError with all its problems."""
    return parse(settings.read(path, "docs/billing.md has one to begin with"), path)


def parse(data: dict[str, Any], path: Path) -> Tariff:
    """Check TOML that is already read; `path` names it in errors."""
    tariff = settings.check(_ADAPTER, data, path)
    names = {each.name for each in tariff.rate}
    problems = [
        *_twice("rate: the name", (each.name for each in tariff.rate)),
        *_twice("rate: the prefix", (each.prefix for each in tariff.rate)),
        *_twice("allowance: the name", (each.name for each in tariff.allowance)),
        *(
            f"allowance.{n}.rates: there is no rate {name!r}"
            for n, each in enumerate(tariff.allowance)
            for name in each.rates
            if name not in names
        ),
    ]
    if problems:
        raise ConfigError(path, problems)
    return tariff


def _twice(what: str, values: Iterable[str]) -> list[str]:
    return [f"{what} {value!r} stands there twice" for value, n in Counter(values).items() if n > 1]
