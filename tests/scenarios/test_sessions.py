"""The sessions of the suite again: twice, in pieces, and by two collectors, to the byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from collector.capture.replay import frames
from collector.replay import records
from tests.scenarios import case as cases
from tests.scenarios import runner
from tests.scenarios.case import Case

NAMES = [
    name for name in cases.names() if name.startswith("session_") and not cases.load(name).is_played
]


def replayed(case: Case, *captures: Path) -> list[str]:
    """Every version of every record, as the command prints them."""
    found = records(frames(captures), case.classes, case.settings.replay())
    return [json.dumps({"class": name, **row}) for name, row in found]


def newest(printed: list[str]) -> list[str]:
    """The last version of each record: it stands for the ones before."""
    last = {json.loads(line)["record_id"]: line for line in printed}
    return sorted(last.values())


@pytest.mark.parametrize("name", NAMES)
def test_twice_in_pieces_and_by_two_collectors(name: str, tmp_path: Path) -> None:
    case = cases.load(name)
    script = case.frames()
    middle = len(script) // 2
    paths = [tmp_path / f"{part}.pcap" for part in ("whole", "first", "second", "even", "odd")]
    parts = (script, script[:middle], script[middle:], script[::2], script[1::2])
    for path, part in zip(paths, parts, strict=True):
        runner.write_pcap(path, part)
    whole, first, second, even, odd = paths
    once = replayed(case, whole)
    assert once
    for captures in ((whole,), (second, first), (even, odd)):
        assert replayed(case, *captures) == once
    # Another collector closes its windows at other times: its sessions are the same, none twice.
    other = replace(case, settings=replace(case.settings, window_s=60))
    assert newest(replayed(other, whole)) == newest(once)
