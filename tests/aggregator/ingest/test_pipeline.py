"""Batches into both engines: attributed, written once whatever breaks, counted without a rest."""

from __future__ import annotations

import ipaddress
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client, Values
from aggregator.store.migrate import Migrator
from collector.wire.batch import Receipt
from collector.wire.codec import peek
from tests.aggregator.ingest.feeding import NOW, Fault, Ingest
from tests.aggregator.support import (
    DAY,
    NOON,
    DebianServer,
    S,
    Spool,
    Store,
    binding_row,
    rows,
    usage_rows,
    wait_for,
)

pytestmark = pytest.mark.engine

LINES = [f"10.0.0.{n}" for n in range(1, 13)]


def full_batch(spool: Spool) -> bytes:
    """Twelve bound lines with usage, one visit, one call, a link and a gap."""
    who = {"address": rows("usage", {})["address"][0], "prefix_len": 128}
    first = usage_rows(LINES[:1])["address"][0]
    at = {"start_ns": NOON, "end_ns": NOON + 300 * S}
    return spool.batch(
        {
            "binding": rows(
                "binding", *(binding_row(a, f"line-{a}", NOON - DAY // 4) for a in LINES)
            ),
            "usage": usage_rows([*LINES, "10.0.9.9"]),
            "visit": rows(
                "visit",
                {**at, "address": first, "prefix_len": 128, "host": "example.org"}
                | {"first_ns": NOON + S, "last_ns": NOON + 2 * S, "evidence": "tls"},
            ),
            "call": rows("call", {**who, "start_ns": NOON + S, "address": first, "a_raw": "+44"}),
            "link": rows("link", {**at, "interface": "eth0", "role": "access"}),
            "gap": rows("gap", {**at, "stage": "capture", "reason": "kernel-drop"}),
        }
    )


TABLE_ROWS = {"binding": 12, "usage": 13, "visit": 1, "call": 1, "link": 1, "gap": 1, "demand": 1}


def counts(store: Store) -> dict[str, int]:
    return {name: store.count(name) for name in TABLE_ROWS}


def test_a_batch_is_attributed_stored_and_entered(engines: Store) -> None:
    ingest = Ingest(engines.client)
    data = full_batch(Spool())
    receipt = ingest.send(data)
    header = peek(data)
    assert receipt == Receipt(header.batch, "accept", "stored", "", 29)
    assert counts(engines) == TABLE_ROWS
    found = engines.client.query_columns(
        "SELECT subscriber, reason, start_us, up_bytes, collector, boot, batch, schema_version"
        " FROM usage ORDER BY address"
    )
    assert found["subscriber"] == [f"line-{a}" for a in LINES] + [""]
    assert found["reason"] == [""] * 12 + ["no-binding"]
    assert set(found["start_us"]) == {NOON // 1000}
    assert set(found["batch"]) == {bytes.fromhex(header.batch)}
    assert set(zip(found["collector"], found["boot"], strict=True)) == {("edge-1", "boot-1")}
    for table in ("visit", "call"):
        assert engines.count(table, "subscriber = 'line-10.0.0.1'") == 1
    area = engines.client.query_columns(
        "SELECT area, up_bytes, down_bytes, active_lines, lines_known FROM demand"
    )
    assert [values[0] for values in area.values()] == ["north", 1300, 13_000, 13, 1]
    entry = engines.client.query_columns("SELECT * FROM ingest_ledger")
    assert (entry["sequence"], entry["rows"], entry["verdict"]) == ([1], [29], ["accept"])
    assert entry["lag_us"] == [10_000_000]
    assert ingest.is_conserved("usage", "binding", "visit", "call", "link", "gap")
    assert ingest.sample("rows_derived_total", record_class="demand") == 1


def test_the_same_batch_twice_is_stored_once(engines: Store) -> None:
    ingest, data = Ingest(engines.client), full_batch(Spool())
    ingest.send(data)
    again = ingest.send(data)
    assert (again.verdict, again.rows) == ("duplicate", 29)
    assert Ingest(engines.client).send(data).verdict == "duplicate"  # after a restart too
    assert counts(engines) == TABLE_ROWS
    assert ingest.sample("rows_total", record_class="usage", outcome="duplicate") == 13
    assert ingest.is_conserved("usage")


def test_missing_batches_leave_a_gap_row(engines: Store) -> None:
    ingest, spool = Ingest(engines.client), Spool()
    ingest.send(spool.batch({"usage": usage_rows(LINES)}))
    spool.sequence += 2
    later = spool.batch({"usage": usage_rows(LINES, NOON + 900 * S)}, start_ns=NOON + 900 * S)
    receipt = ingest.send(later)
    assert (receipt.verdict, receipt.reason) == ("gap", "missing-batches")
    found = engines.client.query_columns(
        "SELECT stage, reason, amount, unit, start_us, end_us FROM gap"
    )
    assert [values[0] for values in found.values()] == [
        "uplink",
        "missing-batches",
        2,
        "batches",
        (NOON + 300 * S) // 1000,
        (NOON + 900 * S) // 1000,
    ]
    # One of the two turns up after all.
    late = spool.batch({"usage": usage_rows(LINES, NOON + 300 * S)}, sequence=2)
    assert ingest.send(late).reason == "late"
    assert engines.count("usage") == 36


def test_refusals_store_nothing_and_say_why(engines: Store) -> None:
    ingest, spool = Ingest(engines.client), Spool()
    good = spool.batch({"usage": usage_rows(LINES)})
    ingest.send(good)
    other = spool.batch({"usage": usage_rows(LINES, up=7)}, sequence=1)
    flipped = bytearray(spool.batch({"usage": usage_rows(LINES, up=8)}))
    flipped[-100] ^= 1
    future = spool.batch({"usage": usage_rows(LINES, NOON + 3 * DAY)}, sequence=2)
    cases = {
        "conflict": ingest.send(other),
        "identity": ingest.send(good, identity="edge-2"),
        "digest": ingest.send(bytes(flipped)),
        "time": ingest.send(future),
        "magic": ingest.send(b"rubbish " * 20),
    }
    for reason, receipt in cases.items():
        assert receipt.verdict == "reject", reason
        assert receipt.reason == reason
        assert receipt.message
    skew = ingest.send(good, sent_ns=NOW + 3600 * S)
    assert (skew.verdict, skew.reason) == ("retry", "clock-skew")
    assert engines.count("usage") == 12
    assert engines.count("ingest_ledger") == 1
    assert ingest.is_conserved("usage")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("table", [*TABLE_ROWS, "ingest_ledger"])
def test_a_break_at_any_insert_doubles_and_loses_nothing(
    engines: Store, table: str, after: bool
) -> None:
    """The answer is retry, and the resend (to this or to a restarted aggregator) completes it."""
    data = full_batch(Spool())
    for restarted in (False, True):
        engines.clear()
        client = Client(engines.client.endpoint)
        fault = Fault(client, table, after=after)
        ingest = Ingest(client)
        broken = ingest.send(data)
        assert (broken.verdict, broken.reason) == ("retry", "store-unavailable")
        if restarted:
            ingest = Ingest(client)
        expected = "duplicate" if table == "ingest_ledger" and after else "accept"
        assert ingest.send(data).verdict == expected
        assert fault.hits == 1
        assert counts(engines) == TABLE_ROWS
        assert engines.count("ingest_ledger") == 1
        assert ingest.is_conserved(*set(TABLE_ROWS) - {"demand"})
        client.close()


def test_without_a_doubt_nothing_is_probed(engines: Store) -> None:
    ingest, spool = Ingest(engines.client), Spool()
    for number in range(3):
        start = NOON + number * 300 * S
        ingest.send(spool.batch({"usage": usage_rows(LINES, start)}, start_ns=start))
    assert ingest.sample("doubts_total") == 1  # the first since the start
    assert engines.count("usage") == 36


def test_rows_of_closed_partitions_go_to_the_late_table(engines: Store) -> None:
    ingest = Ingest(engines.client, lambda table, partition: table == "usage")
    assert ingest.send(full_batch(Spool())).verdict == "accept"
    assert (engines.count("usage"), engines.count("late_usage")) == (0, 13)
    assert ingest.sample("rows_total", record_class="usage", outcome="late") == 13
    assert ingest.is_conserved("usage", "visit")


def test_collectors_in_parallel_do_not_mix(engines: Store) -> None:
    ingest = Ingest(engines.client)
    verdicts: list[str] = []

    def run(name: str) -> None:
        spool = Spool(name)
        for number in range(4):
            start = NOON + number * 300 * S
            data = spool.batch({"usage": usage_rows(LINES, start)}, start_ns=start)
            verdicts.append(ingest.send(data, identity=name).verdict)

    threads = [threading.Thread(target=run, args=(f"edge-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["accept"] * 16
    found = engines.client.query_columns(
        "SELECT collector, count() AS n FROM usage GROUP BY collector ORDER BY collector"
    )
    assert found["n"] == [48] * 4


@dataclass
class Mortal:
    """An engine of the test's own: `kill` is sudden, `revive` brings it back where nobody does."""

    client: Client
    kill: Callable[[], None]
    revive: Callable[[], None]


@pytest.fixture(params=["bundled", "debian"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mortal]:
    if request.param == "bundled":
        engine = Engine(EngineConfig(tmp_path / "engine", memory_ratio=0.3))
        engine.start()

        def kill() -> None:
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)

        client = Client(engine.endpoint())
        yield Mortal(client, kill, lambda: None)
        client.close()
        engine.stop()
        return
    server = DebianServer(tmp_path / "debian")
    server.start()
    client = Client(server.endpoint())
    yield Mortal(client, server.kill, server.start_again)
    client.close()
    server.stop()


class Killer:
    """Kills the engine a moment after an insert into a table has begun."""

    def __init__(self, mortal: Mortal, table: str) -> None:
        self._insert = mortal.client.insert
        self._kill = mortal.kill
        self._table = table
        self.delay_s = 0.0
        self.timer: threading.Timer | None = None
        mortal.client.insert = self.insert  # type: ignore[method-assign]

    def insert(self, table: str, columns: Mapping[str, Values], query_id: str | None = None) -> int:
        if table == self._table and self.timer is None:
            self.timer = threading.Timer(self.delay_s, self._kill)
            self.timer.start()
        return self._insert(table, columns, query_id)


@pytest.mark.parametrize("table", ["usage", "ingest_ledger"])
def test_an_engine_killed_amid_inserts_doubles_and_loses_nothing(
    mortal: Mortal, table: str
) -> None:
    client = mortal.client
    Migrator(client, lambda: 1).run()
    ingest, spool, killer = Ingest(client), Spool(), Killer(mortal, table)
    size, retries = 20_000, 0
    addresses = [str(ipaddress.IPv4Address((10 << 24) + n)) for n in range(size)]
    usage = usage_rows(addresses)
    for sent, delay_s in enumerate((0.0, 0.004, 0.02, *(n / 1000 for n in range(40))), 1):
        killer.timer, killer.delay_s = None, delay_s
        data = spool.batch({"usage": usage, "link": _link(sent)})
        deadline = time.monotonic() + 90
        while (receipt := ingest.send(data)).verdict == "retry":
            assert receipt.reason == "store-unavailable"
            assert time.monotonic() < deadline
            retries += 1
            mortal.revive()
            time.sleep(0.1)
        assert receipt.verdict in ("accept", "duplicate")
        assert killer.timer is not None
        killer.timer.join()
        mortal.revive()
        wait_for(client.endpoint)
        assert _total(client, "usage") == (sent * size, sent)
        assert _total(client, "link") == (sent, sent)
        assert _total(client, "ingest_ledger") == (sent, sent)
        if retries and sent >= 3:
            return
    pytest.fail("no kill hit an insert")
    assert ingest.is_conserved("usage", "link")


def _link(number: int) -> dict[str, list[Any]]:
    at = {"start_ns": NOON, "end_ns": NOON + 300 * S}
    return rows("link", {**at, "interface": f"eth{number}"})


def _total(client: Client, table: str) -> tuple[int, int]:
    sql = f"SELECT count() AS n, uniqExact(batch) AS batches FROM {table}"
    found = client.query_columns(sql)
    return found["n"][0], found["batches"][0]
