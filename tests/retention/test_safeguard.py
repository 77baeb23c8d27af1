"""The privacy ledger on its way into the audit log: each row once, whatever happens between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.store.errors import Unavailable
from retention.audit.canonical import Leaf
from retention.audit.verify import verify
from retention.config import Safeguard
from retention.metrics import Metrics
from retention.model import DAY_US
from retention.register.lock import RegisterError
from retention.register.store import Register
from retention.safeguard import BATCH, BUDGET_NOTE, Mark, PrivacyLedger, month_of
from tests.retention.audit.story import START
from tests.retention.ledger import HOUR_US, Row, Table, daily, day, entry, hours, kept
from tests.retention.register.made import log_leaves, opened


class Job:
    """The job over a table; `again` is a service that has started anew."""

    def __init__(self, register: Register, table: Table) -> None:
        self.register, self.table, self.metrics, self.seconds = register, table, Metrics(), 0.0
        self.again()

    def again(self) -> None:
        self.ledger = PrivacyLedger(
            self.register, self.table.ask, Safeguard(), self.metrics, lambda: self.seconds
        )

    def tell(self) -> None:
        self.seconds += 1000
        self.ledger.tell()

    def told(self) -> list[Leaf]:
        return [leaf for leaf in log_leaves(self.register) if leaf["kind"] == "safeguard.window"]

    def releases(self) -> list[str]:
        return [leaf["release"] for leaf in self.told()]

    @property
    def findings(self) -> float:
        value = self.metrics.registry.get_sample_value("tallyhold_retention_safeguard_findings")
        assert value is not None
        return value


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    with opened(tmp_path) as register:
        yield Job(register, Table())


def good(folder: Path) -> None:
    report = verify(folder / "audit")
    assert report.good, report.lines()


def test_each_row_has_its_leaf_once_over_restarts(job: Job, tmp_path: Path) -> None:
    rows = [each for n in range(3) for each in day("edge-1", START + n * DAY_US)]
    rows += day("edge-2")
    for upto in (1, 1, 5, 26, 27, 60, len(rows), len(rows)):
        job.table.rows = rows[:upto]
        job.again()
        job.tell()
        assert sorted(job.releases()) == sorted(row["release"].hex() for row in rows[:upto])
    assert job.findings == 0
    good(tmp_path)
    (budget,) = (leaf for leaf in log_leaves(job.register) if leaf["kind"] == "safeguard.budget")
    assert (budget["budget"], budget["day"]) == (1_000_000, DAY_US)


def test_a_leaf_says_what_the_row_says(job: Job) -> None:
    row = daily(restarts=2, rows=50, routers=2, epsilon_micro=800_000)
    job.table.rows = [row]
    job.tell()
    (leaf,) = job.told()
    assert (leaf["release"], leaf["mechanism"]) == (row["release"].hex(), row["mechanism"].hex())
    assert (leaf["start"], leaf["end"]) == (START, START + DAY_US)
    assert (leaf["epsilon"], leaf["delta"], leaf["l0"], leaf["routers"]) == (800_000, 0, 4, 2)
    assert (leaf["scale_num"], leaf["scale_den"]) == (10, 1)
    assert (leaf["rows"], leaf["restarts"], leaf["outcome"]) == (50, 2, "released")


def test_nothing_is_read_again_where_nothing_is_new(job: Job) -> None:
    job.table.rows = day()
    job.tell()
    job.table.asked = 0
    job.tell()
    assert job.table.asked == 1  # the sums of the months
    job.ledger.tell()  # before its time
    assert job.table.asked == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.data())
def test_a_crash_at_any_write_neither_loses_nor_doubles(job: Job, data: st.DataObject) -> None:
    """A write is all or nothing; it may be done although its caller never learns of it."""
    register, real = job.register, job.register.write
    rows = day(f"edge-{len(job.told())}")[:8]
    job.table.rows = list(rows)
    crash_at, is_done = data.draw(st.integers(0, 8)), data.draw(st.booleans())
    size, calls = data.draw(st.integers(1, 3)), 0

    def write(**given: Any) -> list[int]:
        nonlocal calls
        calls += 1
        if calls - 1 != crash_at:
            return real(**given)
        if is_done:
            real(**given)
        raise RegisterError("the power went")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retention.safeguard.BATCH", size)
        patch.setattr(register, "write", write)
        for _ in range(3):
            try:
                job.tell()
            except RegisterError:
                job.again()
    mine = [row["release"].hex() for row in rows]
    assert [each for each in job.releases() if each in mine] == mine


def test_many_at_once_go_in_batches(job: Job, tmp_path: Path) -> None:
    job.table.rows = [row for n in range(28) for row in day("edge-1", START + n * DAY_US)]
    assert len(job.table.rows) > 7 * BATCH
    job.tell()
    assert len(job.told()) == len(job.table.rows)
    good(tmp_path)


def test_an_engine_that_is_down_is_asked_again_at_once(job: Job) -> None:
    job.table.rows = day()

    def down(sql: str, params: Any) -> Any:
        raise Unavailable("down", 0)

    job.ledger._ask = down
    with pytest.raises(Unavailable):
        job.ledger.tell()
    job.ledger._ask = job.table.ask
    job.ledger.tell()
    assert len(job.told()) == 26


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda rows: rows + [daily("edge-1", START, mechanism=bytes(16))], "safeguard-twice"),
        (lambda rows: rows + [kept(marginal="kept-more", routers=2, epsilon_micro=200_000)],
         "safeguard-overspent"),
    ],
)  # fmt: skip
def test_what_overspends_or_tells_twice_is_in_the_log_and_found_there(
    job: Job, tmp_path: Path, spoil: Any, rule: str
) -> None:
    job.table.rows = spoil(day())
    job.tell()
    assert len(job.told()) == len(job.table.rows)
    report = verify(tmp_path / "audit")
    assert rule in {finding.rule for finding in report.findings}


def test_the_same_row_twice_and_rows_that_went_are_findings(job: Job, tmp_path: Path) -> None:
    job.table.rows = [*day(), day()[0]]
    job.tell()
    assert job.findings == 1
    job.table.rows = day()[1:]
    job.tell()
    assert job.findings == 1
    assert len(job.told()) == 26
    job.table.rows = day()
    job.tell()
    assert job.findings == 0
    good(tmp_path)


@pytest.mark.parametrize(
    "odd", [{"outcome": "Not A Code"}, {"collector": "a b"}, {"l0": -1}, {"release": "text"}]
)
def test_a_row_that_is_none_is_a_finding_and_keeps_no_other_back(job: Job, odd: Row) -> None:
    job.table.rows = [*day(), entry(start_us=START + 2 * DAY_US) | odd]
    if not isinstance(job.table.rows[-1]["release"], bytes):
        job.table.rows[-1]["release"] = b"\xff" * 15 + b"x"
        job.table.rows[-1]["mechanism"] = "no bytes"
    job.tell()
    assert job.findings == 1
    assert len(job.told()) == 26


def test_a_new_budget_is_told_before_what_comes_under_it(job: Job) -> None:
    job.table.rows = hours(2)
    job.tell()
    job.ledger = PrivacyLedger(
        job.register, job.table.ask, Safeguard(budget_micro=5), job.metrics, lambda: job.seconds
    )
    job.table.rows = hours(3)
    job.tell()
    kinds = [leaf["kind"].removeprefix("safeguard.") for leaf in log_leaves(job.register)]
    assert kinds == ["budget", "window", "window", "budget", "window"]
    assert job.register.note(BUDGET_NOTE) == f"5/{DAY_US}"


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=20))
def test_a_mark_does_not_depend_on_order(releases: list[bytes]) -> None:
    mark = Mark().plus(releases)
    assert Mark().plus(reversed(releases)) == mark == Mark.parse(str(mark))
    assert mark.entries == len(releases)


def test_a_month_is_the_engines() -> None:
    assert month_of(START - 1) == 202512
    assert month_of(START + HOUR_US) == 202601
