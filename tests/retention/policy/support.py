"""Small policies for tests: the packaged one as plain TOML data, changed and parsed again."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.store.schema import TABLES, Table
from retention.model import DAY_US, Partition, Place, Purge, Step
from retention.policy.load import PACKAGED, PolicyError, parse
from retention.policy.model import Policy
from retention.policy.partitions import span

PATH: Final = Path("policy.toml")
ALL: Final = ["session", "binding", "mapping", "visit", "call"]
Edit = Callable[[dict[str, Any]], object]


def us(text: str) -> int:
    """Microseconds of an ISO day or instant, UTC."""
    at = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


NOW: Final = us("2026-11-22T12:00:00")


def notice(
    classes: list[str] = ALL, first: str = "2026-01-01", last: str | None = None, name: str = "N-1"
) -> dict[str, Any]:
    found: dict[str, Any] = {"id": name, "classes": classes, "from": dt.date.fromisoformat(first)}
    return found | ({"to": dt.date.fromisoformat(last)} if last else {})


def data() -> dict[str, Any]:
    return tomllib.loads(PACKAGED.read_text(encoding="utf-8"))


def make(
    *edits: Edit,
    now_us: int = NOW,
    live: Collection[str] = (),
    tables: Mapping[str, Table] = TABLES,
) -> Policy:
    """The packaged policy after these edits of its data."""
    plain = data()
    for edit in edits:
        edit(plain)
    return parse(plain, PATH, now_us, live=live, tables=tables)


def noticed(*notices: dict[str, Any], now_us: int = NOW) -> Policy:
    return make(lambda plain: plain.update(notice=list(notices)), now_us=now_us)


def problems(*edits: Edit, **more: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        make(*edits, **more)
    return caught.value.problems


def partition(record_class: str, number: int, rows: int = 10) -> Partition:
    place = Place(record_class, number)
    start, end = span(place)
    return Partition(place, start, end, start, end, rows)


def purge(
    policy: Policy, found: Partition, dropped_us: int, until_us: int, digest: str = ""
) -> Purge:
    return Purge(
        "P-2026-000001",
        found,
        "live",
        until_us,
        digest or policy.digest,
        1,
        Step.DROPPED,
        "operator",
        dropped_us - DAY_US // 24,
        dropped_us=dropped_us,
    )
