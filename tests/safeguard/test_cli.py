"""The commands as people run them, on an appliance's tables."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import tallyhold
from retention.config import Safeguard
from retention.metrics import Metrics
from retention.safeguard import PrivacyLedger
from tests.aggregator.ingest.guarded import DAY, MIDNIGHT
from tests.aggregator.support import Store
from tests.retention.register.made import Clock, opened
from tests.retention.test_safeguard_engine import asking

PERIOD = "2024-10-04/2024-10-06"
"""Days 20,000 and 20,001 since 1970."""
SIGNED = ("report", "verify", "key", "prove")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(tallyhold.app, ["safeguard", *map(str, words)])


def commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(tallyhold.app)
    context = root.make_context("tallyhold", [], resilient_parsing=True)
    found: dict[str, Any] = root.get_command(context, "safeguard").commands
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_with_an_example_that_is_one(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    found = re.search(r"Example: tallyhold safeguard (.+?)(?= Arguments| Options|$)", text)
    assert found, text
    first, *rest = shlex.split(found[1])
    assert first == name
    commands()[name].make_context("x", rest, resilient_parsing=False)


@pytest.mark.engine
def test_a_report_is_made_drawn_signed_and_verified(
    config: Path, store: Store, tmp_path: Path
) -> None:
    report, page, key = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "keys" / "report.key"
    asked = ("--period", PERIOD, "--config", config, "--key-file", key)
    made = run("report", *asked, "--output", report, "--html", page)
    assert made.exit_code == 0, made.output
    assert "the dearest day cost 1 of 1" in made.output
    assert key.stat().st_mode & 0o77 == 0
    assert "<svg" in page.read_text()
    vkey = run("key", "--key-file", key).output.strip()
    verified = run("verify", report, "--key", vkey)
    assert verified.exit_code == 0, verified.output
    assert verified.output.startswith("good: ")
    assert json.loads(run("report", *asked, "--json").output)["key"] == vkey

    # One count is gone from the table, which was a zero or as good as one.
    store.keeper.execute(
        "ALTER TABLE block_count DELETE WHERE marginal = 'category-hour' AND category = 'malware'"
        f" AND start_us = {MIDNIGHT // 1000} SETTINGS mutations_sync = 1"
    )
    spoilt = run("report", *asked, "--output", tmp_path / "other.json")
    assert spoilt.exit_code == 1
    assert "nothing is signed" in spoilt.output
    assert re.search(r"\[(mechanism|domain)\]", spoilt.output)
    assert not (tmp_path / "other.json").exists()


@pytest.mark.engine
def test_the_ledger_is_compared_with_the_log(config: Path, store: Store, tmp_path: Path) -> None:
    asked = ("ledger", "--period", PERIOD, "--config", config)
    alone = run(*asked)
    assert alone.exit_code == 0, alone.output
    assert "within" in alone.output
    with opened(tmp_path, Clock((MIDNIGHT + 9 * DAY) // 1000)) as register:
        PrivacyLedger(register, asking(store.keeper), Safeguard(), Metrics()).tell()
    log = ("--log", tmp_path / "audit")
    both = run(*asked, *log, "--json")
    assert both.exit_code == 0, both.output
    days = json.loads(both.output)["days"]
    assert [day["epsilon_micro"] for day in days] == [1_000_000, 0]
    assert [day["silent"] for day in days] == [0, 26]
    store.keeper.execute(
        "ALTER TABLE safeguard_ledger UPDATE epsilon_micro = 0, l0 = 2"
        " WHERE marginal = 'kept-day' SETTINGS mutations_sync = 1"
    )
    changed = run(*asked, *log)
    assert changed.exit_code == 1
    assert "is another in the log: l0" in " ".join(changed.output.split())


def test_what_cannot_be_read_is_said_in_words(tmp_path: Path) -> None:
    for words, code in (
        (("verify", tmp_path / "none.json"), 1),
        (("ledger", "-p", "2026-11", "-c", tmp_path / "none.toml"), 2),
        (("verify", tmp_path / "none.json", "--key", "x"), 1),
    ):
        result = run(*words)
        assert result.exit_code == code
        assert "Traceback" not in result.output
        assert not isinstance(result.exception, ValueError | OSError)
    odd = tmp_path / "odd"
    odd.write_text("{}")
    assert run("verify", odd).exit_code == 1
