"""Reports, ledgers, verdicts and proofs in, tables and bars for a terminal out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.wire.releases import CATEGORY_HOUR, MICRO, REGION_CATEGORY_DAY
from safeguard.document import Document
from safeguard.plots import cells_of, moment

MAX_TABLES: Final = 8
"""Days with regions on a terminal; all of them are in the JSON and on the page."""
_BAR: Final = 30


def print_report(console: Console, document: Document) -> None:
    """The latest day by region and category, the latest hours, what was kept, and the charges."""
    figures = document["figures"]
    daily = [each for each in figures if each["marginal"] == REGION_CATEGORY_DAY]
    hourly = [each for each in figures if each["marginal"] == CATEGORY_HOUR]
    if not figures:
        console.print("Nothing was released in this period.")
    for figure in daily[-MAX_TABLES:]:
        _print_figure(console, document, figure, "Households in a day")
    for figure in hourly[-1:]:
        _print_figure(console, document, figure, "Households in an hour, the latest")
    left = len(daily) - MAX_TABLES
    if left > 0:
        console.print(f"{left} more days and regions: --json or --html")
    for each in document["kept"][-1:]:
        console.print(_kept_text(each))
    most = max((day["epsilon_micro"] for day in document["days"]), default=0)
    silent = sum(entry["outcome"] == "silent" for entry in document["ledger"])
    console.print(
        f"{len(document['ledger'])} releases, {silent} of them silent; the dearest day cost"
        f" {most / MICRO:g} of {document['budget_micro'] / MICRO:g}"
    )


def print_days(console: Console, days: Sequence[Mapping[str, Any]], budget: int) -> None:
    """What each day cost."""
    table = Table(title="Privacy ledger: ε of a household-day", title_justify="left")
    for name in ("Day", "Collector", "Releases", "Silent", "Restarts", "Cost", "Budget", ""):
        table.add_column(name, justify="left" if name in ("Day", "Collector", "") else "right")
    for day in days:
        over = day["epsilon_micro"] > budget
        table.add_row(
            moment(day["start"]), day["collector"], str(day["releases"]), str(day["silent"]),
            str(day["restarts"]), f"{day['epsilon_micro'] / MICRO:g}", f"{budget / MICRO:g}",
            Text("over" if over else "within", style="red" if over else "green"),
        )  # fmt: skip
    console.print(table)


def print_checks(console: Console, checks: Sequence[Mapping[str, Any]]) -> None:
    """The checks of a proof."""
    table = Table(title="SafeGuard: what was checked", title_justify="left")
    for name in ("Check", "Outcome", "What was done, or found"):
        table.add_column(name)
    styles = {"passed": "green", "failed": "red", "not checked": "yellow"}
    for each in checks:
        outcome = Text(each["outcome"], style=styles[each["outcome"]])
        table.add_row(each["name"], outcome, Text("\n".join(each["found"]) or each["did"]))
    console.print(table)


def _print_figure(console: Console, document: Document, figure: Document, title: str) -> None:
    cells = cells_of(document, figure)
    where = f" in {cells[0][0]}" if cells[0][0] else ""
    title = f"{title}{where}, {moment(figure['start'])} (± {figure['half_width']})"
    table = Table(title=title, title_justify="left")
    table.add_column("Category")
    table.add_column("Households", justify="right")
    table.add_column("")
    most = max([1, *(count for count in figure["counts"] if count is not None)])
    for (_, category), count in zip(cells, figure["counts"], strict=True):
        if count is None:
            table.add_row(category, f"below {figure['threshold']}", "")
        else:
            table.add_row(category, f"{count:,}", "█" * max(round(_BAR * count / most), 1))
    console.print(table)


def _kept_text(each: Document) -> str:
    if each["ratio_micro"] is None:
        return "Too few households for a share of those that the caps took nothing from."
    ratio, error = each["ratio_micro"] / MICRO, each["error_micro"] / MICRO
    return (
        f"The caps took nothing from {ratio:.1%} (± {error:.1%}) of households on"
        f" {moment(each['start'])}."
    )
