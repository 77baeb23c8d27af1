"""The demo as its user runs it, and its report: it must be able to say that something differs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeguard.names import CHECKS
from tests.lab.appliance import ROOT, Answers
from tests.lab.demo import build_report, hosts_of
from tests.lab.truth import CallTruth, SubscriberTruth, Truth

PERSON = SubscriberTruth(
    id="sub-0001",
    line=1,
    family="v4",
    nat=False,
    up_bytes=1000,
    down_bytes=2000,
    connected_s=30.0,
    hosts={"shop.example": 2},
    reached={"games.test": 1},
    looked_up=("never.example",),
    sessions=(),
    errors=(),
)
CALL = CallTruth("sub-0001", "+442079460109", "02079460201", True, 2500, "ANSWERED", 1, 2, 3)
TRUTH = Truth([PERSON], [CALL], 0, 1)
RECORD: dict[str, Any] = {
    "a": CALL.a,
    "b": CALL.b,
    "answered": True,
    "talk_ms": 2499,
    "disposition": "ANSWERED",
    "start": "2026-11-22T10:00:00.000Z",
}


def answers(**changed: Any) -> Answers:
    billed = {
        "up_bytes": 1000,
        "down_bytes": 2000,
        "connected_s": 29.4,
        "hosts": hosts_of(PERSON),
    }
    right = Answers(
        {"sub-0001": billed | changed.pop("billed", {})},
        {"sub-0001": 1.0},
        [RECORD],
        [],
        {"up_bytes": 0, "down_bytes": 0, "rows": 0},
        "26.9",
    )
    return dataclasses.replace(right, **changed)


def test_equal_figures_are_ok() -> None:
    report = build_report(TRUTH, answers())
    assert report["ok"]
    assert report["subscribers"][0]["truth"]["hosts"] == ["games.test", "shop.example"]


@pytest.mark.parametrize(
    "changed",
    [
        {"billed": {"up_bytes": 1001}},
        {"billed": {"down_bytes": 1999}},
        {"billed": {"connected_s": 31.1}},
        {"billed": {"hosts": ["shop.example"]}},
        {"billed": {"hosts": ["games.test", "never.example", "shop.example"]}},
        {"completeness": {"sub-0001": 0.999}},
        {"calls": []},
        {"calls": [RECORD, RECORD]},
        {"calls": [{**RECORD, "talk_ms": 2551}]},
        {"calls": [{**RECORD, "disposition": "CANCELLED"}]},
        {"calls": [{**RECORD, "answered": False}]},
        {"losses": [{"stage": "capture"}]},
    ],
)
def test_any_difference_is_not_ok(changed: dict[str, Any]) -> None:
    assert not build_report(TRUTH, answers(**changed))["ok"]


def test_a_day_that_failed_is_not_ok() -> None:
    failed = dataclasses.replace(PERSON, errors=("tls x 1: refused",))
    assert not build_report(Truth([failed], [CALL], 0, 1), answers())["ok"]
    assert not build_report(Truth([PERSON], [CALL], 0, 1, drops=1), answers())["ok"]


@pytest.mark.lab
@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_short_day_is_billed_to_the_byte(tmp_path: Path) -> None:
    words = ["--wall", "22", "--scale", "0.3", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.demo", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"]
    assert report["losses"] == []
    assert report["unattributed"]["up_bytes"] == 0
    assert len(report["subscribers"]) == 10
    guard = report["safeguard"]
    assert guard["ok"] and guard["traces"] == [] and guard["households"] > 100
    assert len(guard["cells"]) == 3 * 4 + 4 + 2 and guard["epsilon"] == 1.0
    proof = report["proof"]
    assert proof["verified"] and proof["failed"] == [] and {*proof["passed"]} == CHECKS.keys()
    assert (tmp_path / "safeguard-report.json").exists()
    looked_up = report["lookups"]
    assert looked_up["wrong"] == [] and looked_up["grades"]["CERTAIN"] >= 10
    retention = report["retention"]
    assert retention["held_rows"] > 0 and retention["destroyed_rows"] > retention["held_rows"]
    assert retention["marker_found_in"] == [] and len(retention["certificates"]) >= 6
    assert retention["refused_while_the_clock_was_doubted"] and retention["flipped_byte_found"]
    assert {call["truth"]["disposition"] for call in report["calls"]} == {
        "ANSWERED",
        "BUSY",
        "CANCELLED",
        "NO_ANSWER",
    }
    assert set(report["versions"]) == {"tallyhold", "python", "kernel", "engine"}
