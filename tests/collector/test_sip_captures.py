"""Captures of real calls, through the replay: dispositions, times, talk and numbers as expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collector.capture.replay import frames
from collector.replay import ReplayConfig, prefix_of, records

CAPTURES = Path(__file__).parents[3] / "shared" / "data" / "captures" / "sip"
SECOND = 1_000_000_000
MEANT = {"ANSWERED_NO_BYE": ("ANSWERED", "ANSWERED_UNCONFIRMED"), "INCOMPLETE": ("NO_ANSWER",)}
"""Their words for what a capture that ends early leaves open. We let ten days of silence pass, so
what is open ends by the rules: without an ACK in the capture an answer is unconfirmed."""
TOLERANCE_S = 0.001


def expected_of(capture: Path) -> list[dict[str, Any]]:
    text = capture.with_name(f"{capture.name}.expected.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def calls_of(capture: Path, callers: set[str]) -> list[dict[str, Any]]:
    """The newest version of each call that these addresses made, by its start."""
    access = tuple(prefix_of(each) for each in sorted(callers))
    config = ReplayConfig(access=access, region="DK", linger_s=10 * 86_400)
    newest: dict[str, dict[str, Any]] = {}
    for _, row in records(frames([capture]), ("call",), config):
        known = newest.get(row["record_id"])
        if row["direction"] == "out" and (not known or row["observed_ns"] > known["observed_ns"]):
            newest[row["record_id"]] = row
    return sorted(newest.values(), key=lambda row: row["start_ns"])


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the shared captures are not here")
@pytest.mark.parametrize(
    "name", [path.name for path in sorted(CAPTURES.glob("*.pcap"))] if CAPTURES.is_dir() else ["-"]
)
def test_calls_are_those_expected(name: str) -> None:
    expected = expected_of(CAPTURES / name)
    rows = calls_of(CAPTURES / name, {line["src"] for line in expected} or {"0.0.0.0/0"})
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        word = line["disposition"]
        assert row["disposition"] in MEANT.get(word, (word,))
        for ours, theirs in (("start_ns", "start"), ("ring_ns", "ring"), ("answer_ns", "answer")):
            # tshark times a message over TCP by its last segment, we by that of its headers.
            assert row[ours] / SECOND == pytest.approx(line[theirs] or 0, abs=TOLERANCE_S)
        if line["end"] is not None:
            assert row["end_min_ns"] / SECOND == pytest.approx(line["end"], abs=TOLERANCE_S)
            assert row["end_min_ns"] == row["end_max_ns"]
        if "duration" in line:
            talk_ns = row["end_min_ns"] - row["answer_ns"]
            assert talk_ns / SECOND == pytest.approx(line["duration"], abs=TOLERANCE_S)
            assert row["talk_ms"] == talk_ns // 1_000_000
        assert row["sip_code"] == (line["final_code"] or 0)
        assert row["a_raw"] == line["from"].partition("@")[0]
        assert row["b_raw"] == line["to"].partition("@")[0]
        assert row["address"] == line["src"]
