"""The checks of what is stored, on real tables: each planted fault fails its own check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tallyhold
from retention.config import Safeguard
from retention.metrics import Metrics
from retention.safeguard import PrivacyLedger
from safeguard.prove import components
from safeguard.prove.canaries import Canaries
from safeguard.prove.run import Site, prove
from tests.aggregator.ingest.guarded import DAY, MIDNIGHT
from tests.aggregator.support import Store
from tests.retention.register.made import Clock, opened
from tests.retention.test_safeguard_engine import asking
from tests.safeguard.test_surface import served

pytestmark = pytest.mark.engine
SPAN = (MIDNIGHT // 1000, (MIDNIGHT + 2 * DAY) // 1000)
OF_TABLES = ("schema", "times", "domain", "charges", "ledger", "database")
FIRST = f"start_us = {SPAN[0]}"
NAME = "canary-5d1c0f3a9b7e42688d10.gambling.example"


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Site:
    with opened(tmp_path, Clock((MIDNIGHT + 9 * DAY) // 1000)) as register:
        PrivacyLedger(register, asking(store.keeper), Safeguard(), Metrics()).tell()
    return Site(
        client=store.keeper,
        database=store.keeper.database,
        span=SPAN,
        log=tmp_path / "audit",
        databases=(tmp_path,),
        canaries=Canaries((NAME,)),
    )


def failing(site: Site, *names: str) -> set[str]:
    checks = prove(site, 1, "0", names or OF_TABLES)["checks"]
    assert all(check["outcome"] in ("passed", "failed") for check in checks), checks
    return {check["name"] for check in checks if check["outcome"] == "failed"}


FAULTS = [
    # check, statement: a stored event time; a row missing for a zero; charges; and so on.
    ("times", f"ALTER TABLE block_count UPDATE observed_us = observed_us - 1234567 WHERE {FIRST}"),
    ("times", f"ALTER TABLE safeguard_ledger UPDATE observed_us = 5 WHERE {FIRST}"),
    ("domain", f"ALTER TABLE block_count DELETE WHERE {FIRST} AND category = 'malware'"),
    ("domain", f"ALTER TABLE safeguard_ledger UPDATE rows = 4 WHERE {FIRST}"),
    ("charges", f"ALTER TABLE safeguard_ledger UPDATE epsilon_micro = 7 WHERE {FIRST}"),
    ("ledger", f"ALTER TABLE safeguard_ledger UPDATE l0 = 2 WHERE {FIRST}"),
    ("ledger", f"ALTER TABLE safeguard_ledger DELETE WHERE {FIRST} AND marginal = 'kept-day'"),
]  # fmt: skip


def test_what_ingest_stored_passes(site: Site) -> None:
    assert failing(site) == set()


@pytest.mark.parametrize(("name", "statement"), FAULTS)
def test_a_fault_in_the_tables_fails_its_check(
    site: Site, store: Store, name: str, statement: str
) -> None:
    store.keeper.execute(statement + " SETTINGS mutations_sync = 1")
    assert name in failing(site)


def test_a_column_too_many_and_a_table_too_many_fail_the_schema(site: Site, store: Store) -> None:
    store.keeper.execute("ALTER TABLE block_count ADD COLUMN event_us Int64")
    try:
        assert failing(site, "schema") == {"schema"}
    finally:
        store.keeper.execute("ALTER TABLE block_count DROP COLUMN event_us")
    store.keeper.execute(
        "CREATE TABLE blocked_names (household UInt64, at_us Int64)"
        " ENGINE = MergeTree ORDER BY at_us"
    )
    try:
        assert failing(site, "schema") == {"schema"}
    finally:
        store.keeper.execute("DROP TABLE blocked_names")
    assert failing(site, "schema") == set()


def test_a_canary_in_a_column_is_found(site: Site, store: Store) -> None:
    store.keeper.execute(
        f"ALTER TABLE block_count UPDATE boot = 'a {NAME} b' WHERE {FIRST}"
        " SETTINGS mutations_sync = 1"
    )
    assert failing(site, "database") == {"database"}


def test_what_is_not_given_is_not_checked() -> None:
    checks = prove(Site(), 1, "0", OF_TABLES)["checks"]
    assert {check["outcome"] for check in checks} == {"not checked"}
    assert all(check["did"].startswith("not given: ") for check in checks)


def test_a_proof_is_signed_and_verified_and_says_what_failed(
    config: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components.noise, "__defaults__", (10_000,))

    def run(*words: Any) -> Any:
        return CliRunner().invoke(tallyhold.app, ["safeguard", *map(str, words)])

    proof = tmp_path / "proof.json"
    (tmp_path / "x.log").write_text("all is well\n")
    asked = [
        "prove", "--config", config, "--key-file", tmp_path / "key", "--output", proof,
        "--period", "2024-10-04/2024-10-06", "--log-file", tmp_path / "x.log",
    ]  # fmt: skip
    # No metrics page is there yet: that is said, and nothing is signed.
    none = run(*asked)
    assert none.exit_code == 1
    assert "no metrics page" in none.output
    parts = [each for name in ("schema", "times", "domain", "charges") for each in ("--only", name)]
    with served() as port:
        good = run(*asked, "--metrics", f"127.0.0.1:{port}", *parts)
        assert good.exit_code == 0, good.output
        assert run("verify", proof).exit_code == 1  # a proof has every check
        store.keeper.execute(FAULTS[0][1] + " SETTINGS mutations_sync = 1")
        bad = run(*asked, "--metrics", f"127.0.0.1:{port}", "--json")
    assert bad.exit_code == 1
    checks = {
        each["name"]: each["outcome"] for each in json.loads(bad.output)["document"]["checks"]
    }
    assert checks["times"] == "failed"
    assert checks["caps"] == checks["noise"] == checks["metrics"] == "passed"
    assert checks["memory"] == checks["wire"] == "not checked"
    verified = run("verify", proof, "--json")
    assert verified.exit_code == 1
    assert [each["rule"] for each in json.loads(verified.output)["findings"]] == ["times"]
