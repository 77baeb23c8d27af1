"""Rows of the privacy ledger as routers write them, and a table of them that answers questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from collector.wire.records import SAFEGUARD_LEDGER, record_id
from retention.model import DAY_US
from retention.safeguard import Mark, month_of
from tests.retention.audit.story import START

HOUR_US: Final = 3_600_000_000
MECHANISM: Final = bytes(range(16))
Row = dict[str, Any]


def entry(collector: str = "edge-1", start_us: int = START, **changes: Any) -> Row:
    """The hour of a day that carries the charge of its marginal: l0 / scale = 8 / 16."""
    row: Row = {
        "mechanism": MECHANISM, "marginal": "category-hour", "collector": collector,
        "start_us": start_us, "end_us": start_us + HOUR_US, "scale_num": 16, "scale_den": 1,
        "l0": 8, "epsilon_micro": 500_000, "routers": 1, "restarts": 0, "rows": 3,
        "outcome": "released",
    }  # fmt: skip
    row |= changes
    parts = (collector, row["mechanism"], row["marginal"], row["start_us"] * 1000, row["outcome"])
    return {"release": record_id(SAFEGUARD_LEDGER.name, *parts)} | row


def daily(collector: str = "edge-1", start_us: int = START, **changes: Any) -> Row:
    """The day's categories by region: 4 / 10."""
    return entry(collector, start_us, **{
        "marginal": "region-category-day", "end_us": start_us + DAY_US, "scale_num": 10, "l0": 4,
        "epsilon_micro": 400_000, **changes,
    })  # fmt: skip


def kept(collector: str = "edge-1", start_us: int = START, **changes: Any) -> Row:
    """The day's kept-ratio: 1 / 10."""
    return daily(collector, start_us, **{
        "marginal": "kept-day", "l0": 1, "epsilon_micro": 100_000, "rows": 2, **changes,
    })  # fmt: skip


def hours(count: int, collector: str = "edge-1", start_us: int = START) -> list[Row]:
    """The first hours of a day; only the first is charged."""
    return [
        entry(collector, start_us + n * HOUR_US, epsilon_micro=0 if n else 500_000)
        for n in range(count)
    ]


def day(collector: str = "edge-1", start_us: int = START) -> list[Row]:
    """A whole day."""
    return [*hours(24, collector, start_us), daily(collector, start_us), kept(collector, start_us)]


class Table:
    """Answers what the job asks, as the engine does."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)
        self.asked = 0

    def ask(self, sql: str, params: Mapping[str, Any]) -> Iterator[Mapping[str, Sequence[Any]]]:
        self.asked += 1
        if not params:
            yield self._months()
            return
        wanted = (params["collector"], params["month"])
        found = [row for row in self.rows if _place(row) == wanted]
        found.sort(key=lambda row: (row["end_us"], -row["start_us"], row["marginal"]))
        yield {name: [row[name] for row in found] for name in (found[0] if found else ())}

    def _months(self) -> Mapping[str, Sequence[Any]]:
        copies = Counter((_place(row), row["release"]) for row in self.rows)
        marks: dict[Any, Mark] = {}
        rows: Counter[Any] = Counter()
        for (place, release), count in copies.items():
            marks[place] = marks.get(place, Mark()).plus([release])
            rows[place] += count
        return {
            "collector": [collector for collector, _ in marks],
            "month": [month for _, month in marks],
            "entries": [mark.entries for mark in marks.values()],
            "rows": [rows[place] for place in marks],
            "mark": [mark.mark for mark in marks.values()],
        }


def _place(row: Row) -> tuple[str, int]:
    return row["collector"], month_of(row["start_us"])
