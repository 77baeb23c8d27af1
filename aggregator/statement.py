"""`tallyhold billing statement`: a subscriber's calls rated by a tariff file, every step shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aggregator import config as configuration
from aggregator import present
from aggregator.asking import asking, fail, now_us, show
from aggregator.options import AsJson, ConfigPath, PeriodText, Reference, Subscriber
from aggregator.queries import billing as bills
from aggregator.queries import tariff as tariffs
from aggregator.queries.arithmetic import iso
from aggregator.queries.rating import Charge, Statement, destination, plain, rate_calls
from collector.wire.settings import ConfigError

TariffFile = Annotated[Path, typer.Option("--tariff", "-t", help="Tariff (TOML).", dir_okay=False)]


def billing_statement(
    subscriber: Subscriber,
    period: PeriodText,
    tariff: TariffFile,
    as_json: AsJson = False,
    reference: Reference = "",
    config: ConfigPath = configuration.DEFAULT_PATH,
) -> None:
    """Itemised calls and what they cost by a tariff, with every step of the arithmetic.

    A call is billed from its answer to the last proof that it went on, never to a limit. Calls that
    go on, were never confirmed or fit no rate are listed and not billed.

    Example: tallyhold billing statement sub-0009 --period 2026-11 --tariff tariff.toml
    """
    try:
        rates = tariffs.load(tariff)
    except ConfigError as error:
        fail(str(error), code=2)
    with asking(config, period) as (client, span, audit):
        calls = bills.calls(client, subscriber, span, now_us(), audit, reference)
    answer = rate_calls(calls.calls, rates)
    show(
        as_json,
        statement_plain(calls, answer),
        lambda to: print_statement(to, calls, answer),
    )


def statement_plain(calls: bills.Calls, answer: Statement) -> dict[str, Any]:
    """A statement as JSON; amounts are texts, as a JSON number would be a float."""
    return {
        "subscriber": calls.subscriber,
        "period": calls.period.text,
        "currency": answer.tariff.currency,
        "charges": [_charge(each, answer) for each in answer.charges],
        "unbilled": [
            {
                "start": iso(call["start_us"]),
                "direction": call["direction"],
                "number": destination(call) if call["direction"] == "out" else call["a_e164"],
                "talk_ms": call["talk_ms"],
                "reason": reason,
            }
            for call, reason in answer.unbilled
        ],
        "by_rate": [{**row, "charge": plain(row["charge"])} for row in answer.by_rate()],
        "allowances_left_s": answer.left_s,
        "sum": plain(answer.exact),
        "total": str(answer.total),
        **present.coverage_plain(calls.coverage),
    }


def _charge(each: Charge, answer: Statement) -> dict[str, Any]:
    return {
        "start": iso(each.call["start_us"]),
        "answered": iso(each.call["answer_us"]),
        "end_min": iso(each.call["end_min_us"]),
        "number": destination(each.call),
        "rate": each.rate.name,
        "talk_ms": each.call["talk_ms"],
        "billed_s": each.billed_s,
        "covered": [{"allowance": name, "seconds": used} for name, used in each.covered],
        "rated_s": each.rated_s,
        "per_minute": plain(each.rate.per_minute),
        "setup": plain(each.setup),
        "exact": plain(each.exact),
        "charge": plain(each.charge),
        "steps": each.steps(answer.tariff),
    }


def print_statement(console: Console, calls: bills.Calls, answer: Statement) -> None:
    """The statement for people: each call with its steps, then sums by rate and in all."""
    unit = answer.tariff.currency
    present.print_line(
        console, f"Statement of {calls.subscriber} for {calls.period.text} (UTC), in {unit}"
    )
    for each in answer.charges:
        head = f"{iso(each.call['start_us'])} to {destination(each.call)}, {each.rate.name}"
        present.print_line(console, f"{head}: {plain(each.charge)}")
        for step in each.steps(answer.tariff):
            present.print_line(console, f"    {step}")
    for call, reason in answer.unbilled:
        if call["direction"] == "out":
            present.print_line(
                console, f"{iso(call['start_us'])} to {destination(call)}: not billed, {reason}"
            )
    for row in answer.by_rate():
        present.print_line(
            console,
            f"{row['rate']}: {row['calls']} calls, {row['billed_s']} s, of which"
            f" {row['covered_s']} s included: {plain(row['charge'])}",
        )
    for name, seconds in answer.left_s.items():
        present.print_line(console, f"{name}: {seconds} s left")
    mode = answer.tariff.rounding
    present.print_line(console, f"Sum {plain(answer.exact)}, rounded ({mode.mode}, {mode.total})")
    present.print_line(console, f"Total {answer.total} {unit}")
    present.print_coverage(console, calls.coverage)
