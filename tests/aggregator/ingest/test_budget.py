"""SafeGuard's releases into both engines: whole and once, within a day's budget, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.ingest.pipeline import PipelineConfig
from aggregator.store.client import Client
from aggregator.store.schema import RECORD_TABLES
from collector.wire.batch import Receipt
from tests.aggregator.ingest.feeding import Fault, Ingest
from tests.aggregator.ingest.guarded import DAY, MIDNIGHT, day_of_releases
from tests.aggregator.support import Spool, Store, binding_row, rows, usage_rows

COUNTS = {"block_count": 24 * 3 + 3 + 2, "safeguard_ledger": 26}


def batch(spool: Spool, releases: dict[str, Any], **more: Any) -> bytes:
    return spool.batch({**more, **releases}, start_ns=MIDNIGHT + DAY)


def stored(store: Store) -> dict[str, int]:
    return {name: store.count(name) for name in COUNTS}


def is_refused(ingest: Ingest, receipt: Receipt, reason: str, *classes: str) -> bool:
    labels = {"collector": "edge-1", "verdict": "reject", "reason": reason}
    counted = ingest.sample("batches_total", **labels) == 1
    return (
        receipt.verdict == "reject"
        and receipt.reason == reason
        and counted
        and (ingest.is_conserved("block_count", "safeguard_ledger", *classes))
    )


def test_no_column_can_hold_an_event_an_address_or_a_text() -> None:
    """A whitelist, so that a new column is thought about here."""
    provenance = {"collector", "boot", "batch", "schema_version"}
    window = {"record_id", "observed_us", "start_us", "end_us", "marginal", "mechanism", "release"}
    assert set(RECORD_TABLES["block_count"].names) == {
        *provenance, *window, "region", "category", "count"
    }  # fmt: skip
    assert set(RECORD_TABLES["safeguard_ledger"].names) == {
        *provenance, *window, "scale_num", "scale_den", "l0", "epsilon_micro", "routers",
        "restarts", "rows", "outcome",
    }  # fmt: skip


@pytest.mark.engine
def test_a_day_is_stored_and_ties_to_its_ledger(engines: Store) -> None:
    ingest, data = Ingest(engines.client), batch(Spool(), day_of_releases())
    assert ingest.send(data).reason == "stored"
    assert ingest.send(data).verdict == "duplicate"
    assert stored(engines) == COUNTS
    untied = engines.client.query_columns(
        "SELECT release, count() AS n FROM block_count GROUP BY release"
    )
    entries = engines.client.query_columns("SELECT release, rows FROM safeguard_ledger")
    assert sorted(zip(*untied.values(), strict=True)) == sorted(zip(*entries.values(), strict=True))
    assert engines.count("block_count", "observed_us != end_us") == 0
    assert ingest.is_conserved("block_count", "safeguard_ledger")


@pytest.mark.engine
def test_a_batch_with_a_count_too_few_stores_nothing_of_anything(engines: Store) -> None:
    ingest, spool, releases = Ingest(engines.client), Spool(), day_of_releases()
    for values in releases["block_count"].values():
        del values[-1]
    others = {
        "binding": rows("binding", binding_row("10.0.0.1", "line-1", MIDNIGHT)),
        "usage": usage_rows(["10.0.0.1"], MIDNIGHT + DAY),
    }
    receipt = ingest.send(batch(spool, releases, **others))
    assert is_refused(ingest, receipt, "safeguard", "binding", "usage")
    names = ("usage", "binding", "demand", "ingest_ledger")
    assert stored(engines) == dict.fromkeys(COUNTS, 0)
    assert [engines.count(name) for name in names] == [0] * 4
    assert ingest.send(spool.batch({"usage": others["usage"]}, sequence=1)).verdict == "accept"
    # The bindings of the refused batch are not in memory either.
    assert engines.count("usage", "reason = 'no-binding'") == 1


@pytest.mark.engine
def test_a_day_that_overspends_is_refused_and_the_next_is_taken(engines: Store) -> None:
    ingest, spool = Ingest(engines.client), Spool()
    assert ingest.send(batch(spool, day_of_releases())).verdict == "accept"
    more = day_of_releases(categories=("gambling", "malware"))
    for columns in more.values():
        last = columns["release"][-1]  # kept-day is the same and would be refused as a repetition
        keep = [at for at, release in enumerate(columns["release"]) if release != last]
        for name, values in columns.items():
            columns[name] = [values[at] for at in keep]
    receipt = ingest.send(batch(spool, more))
    assert is_refused(ingest, receipt, "safeguard-budget")
    assert "would cost a household an epsilon of 1.5" in receipt.message
    assert stored(engines) == COUNTS
    spool.sequence -= 1
    later = day_of_releases(MIDNIGHT + DAY)
    assert ingest.send(batch(spool, later)).verdict == "accept"
    assert stored(engines) == {name: 2 * count for name, count in COUNTS.items()}
    # Another collector has households of its own.
    assert (
        Ingest(engines.client)
        .send(batch(Spool("edge-2"), day_of_releases(collector="edge-2")), identity="edge-2")
        .verdict
        == "accept"
    )


@pytest.mark.engine
def test_the_budget_is_the_aggregators_own(engines: Store) -> None:
    data = batch(Spool(), day_of_releases())
    tight = Ingest(engines.client, config=PipelineConfig(epsilon_micro=999_999))
    assert is_refused(tight, tight.send(data), "safeguard-budget")
    assert stored(engines) == dict.fromkeys(COUNTS, 0)
    assert Ingest(engines.client).send(data).verdict == "accept"


@pytest.mark.engine
def test_fresh_noise_on_a_window_that_was_told_is_refused(engines: Store) -> None:
    """As a collector whose spool and state were restored from a copy would send it."""
    ingest = Ingest(engines.client)
    ingest.send(batch(Spool(), day_of_releases()))
    again = day_of_releases(seed=b"other")
    assert again["block_count"]["release"] == day_of_releases()["block_count"]["release"]
    assert again["block_count"]["count"] != day_of_releases()["block_count"]["count"]
    assert is_refused(ingest, ingest.send(batch(Spool(), again)), "safeguard-repeated")
    assert stored(engines) == COUNTS


@pytest.mark.engine
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("table", [*COUNTS, "ingest_ledger"])
def test_a_break_at_any_insert_charges_once(engines: Store, table: str, after: bool) -> None:
    """What an attempt that broke has left of the same batch is no second charge."""
    data = batch(Spool(), day_of_releases())
    client = Client(engines.client.endpoint)
    fault, ingest = Fault(client, table, after=after), Ingest(client)
    assert ingest.send(data).verdict == "retry"
    assert Ingest(client).send(data).verdict in ("accept", "duplicate")
    assert fault.hits == 1
    assert stored(engines) == COUNTS
    client.close()
