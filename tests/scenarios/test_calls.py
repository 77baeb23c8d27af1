"""The calls of the suite again: twice, in pieces, by two collectors, and for what must not be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.capture.replay import frames
from collector.replay import records
from tests.scenarios import case as cases
from tests.scenarios import runner
from tests.scenarios.case import Case
from tests.scenarios.sip import SECRET

NAMES = [
    name
    for name in cases.names()
    if name.startswith("call_") and not cases.load(name).is_played and "untimed" not in name
]
"""All but the one whose day of silence takes seconds."""


def rows(case: Case, *captures: Path) -> str:
    """Every version of every record, as the command prints them."""
    found = records(frames(captures), case.classes, case.settings.replay())
    return "\n".join(json.dumps(row) for row in found)


@pytest.mark.parametrize("name", NAMES)
def test_twice_in_pieces_and_by_two_collectors(name: str, tmp_path: Path) -> None:
    case = cases.load(name)
    script = case.frames()
    whole = tmp_path / "whole.pcap"
    runner.write_pcap(whole, script)
    once = rows(case, whole)
    assert once and rows(case, whole) == once
    middle = len(script) // 2
    for number, parts in enumerate(
        ((script[:middle], script[middle:]), (script[::2], script[1::2]))
    ):
        paths = [tmp_path / f"{number}-{k}.pcap" for k in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            runner.write_pcap(path, part)
        kept = [path for path, part in zip(paths, parts, strict=True) if part]
        assert rows(case, *kept) == once
        assert rows(case, *reversed(kept)) == once
    # Another collector closes its windows at other times; its records are the same calls.
    other = replace(case, settings=replace(case.settings, window_s=60))
    theirs = runner.rows_of(other, frames([whole]))
    assert [_told(row) for row in theirs] == [
        _told(r) for r in runner.rows_of(case, frames([whole]))
    ]
    assert SECRET not in once


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a call as it is; of a gap what it tells, as its interval is that of a window."""
    timed = ("record_id", "observed_ns", "start_ns", "end_ns")
    return {k: v for k, v in row.items() if row["class"] == "call" or k not in timed}


@pytest.mark.parametrize("name", ["call_plain", "call_tcp", "call_fork_answered_twice"])
def test_a_second_tap_changes_nothing_but_the_count_of_repeats(name: str, tmp_path: Path) -> None:
    """Every frame is seen by two interfaces, the second 50 us later."""
    case = cases.load(name)
    script = case.frames()
    doubled = script + [(at + 50_000, data) for at, data in script]
    runner.write_pcap(tmp_path / "x.pcap", sorted(doubled, key=lambda each: each[0]))
    found = runner.rows_of(case, frames([tmp_path / "x.pcap"]))
    expected = [
        {k: v for k, v in line.items() if k != "retransmissions"} for line in case.expected()
    ]
    assert runner.differences(expected, found) == []
