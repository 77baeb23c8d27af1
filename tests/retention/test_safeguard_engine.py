"""A router's releases through ingest into real tables, and from there into the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.client import Client
from retention.audit.verify import verify
from retention.config import Safeguard
from retention.metrics import Metrics
from retention.safeguard import PrivacyLedger
from tests.aggregator.conftest import bundled_engine, debian_server, engines
from tests.aggregator.ingest.feeding import Ingest
from tests.aggregator.ingest.guarded import DAY, MIDNIGHT, day_of_releases
from tests.aggregator.support import Spool, Store
from tests.retention.register.made import Clock, log_leaves, opened

__all__ = ["bundled_engine", "debian_server", "engines"]
pytestmark = pytest.mark.engine


def asking(client: Client) -> Any:
    def ask(sql: str, params: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        yield client.query_columns(sql, params)

    return ask


def test_what_ingest_took_is_in_the_log_as_the_table_has_it(engines: Store, tmp_path: Path) -> None:
    ingest, spool = Ingest(engines.client), Spool()
    with opened(tmp_path, Clock((MIDNIGHT + 9 * DAY) // 1000)) as register:
        for n in range(2):
            day = day_of_releases(MIDNIGHT + n * DAY, is_counted=n == 0)
            batch = spool.batch(day, start_ns=MIDNIGHT + (n + 1) * DAY)
            for _ in range(2):  # the second is a resend
                ingest.send(batch)
            for _ in range(2):
                job = PrivacyLedger(register, asking(engines.keeper), Safeguard(), Metrics())
                job.tell()
        told = [leaf for leaf in log_leaves(register) if leaf["kind"] == "safeguard.window"]
    entries = engines.count("safeguard_ledger")
    assert entries > 30
    assert len(told) == len({leaf["release"] for leaf in told}) == entries
    assert sum(leaf["rows"] for leaf in told) == engines.count("block_count") == 24 * 3 + 3 + 2
    assert {leaf["outcome"] for leaf in told} == {"released", "silent"}
    report = verify(tmp_path / "audit")
    assert report.good, report.lines()

    # A row that came into the table past ingest is told of, and found by whoever reads the log.
    engines.keeper.execute(
        "INSERT INTO safeguard_ledger SELECT record_id, observed_us, start_us, end_us,"
        " unhex('00112233445566778899aabbccddeeff'), mechanism, marginal, scale_num, scale_den, l0,"
        " epsilon_micro, routers, restarts, rows, outcome, collector, boot, batch, schema_version"
        " FROM safeguard_ledger WHERE marginal = 'kept-day' AND outcome = 'released'"
    )
    with opened(tmp_path, Clock((MIDNIGHT + 9 * DAY) // 1000)) as register:
        PrivacyLedger(register, asking(engines.keeper), Safeguard(), Metrics()).tell()
    rules = {finding.rule for finding in verify(tmp_path / "audit").findings}
    assert rules == {"safeguard-twice", "safeguard-overspent"}
