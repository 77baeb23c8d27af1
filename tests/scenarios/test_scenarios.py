"""Every case by replay and, where there is root, on the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.capture.replay import frames
from tests.scenarios import case as cases
from tests.scenarios import live, runner
from tests.scenarios.__main__ import main

NAMES = cases.names()
SCRIPTED = [name for name in NAMES if not cases.load(name).is_played]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Stage]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with live.stage(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.mark.parametrize("name", SCRIPTED)
def test_by_replay(name: str, tmp_path: Path) -> None:
    case = cases.load(name)
    runner.write_pcap(tmp_path / "x.pcap", case.frames())
    rows = runner.rows_of(case, frames([tmp_path / "x.pcap"]))
    assert runner.differences(case.expected(), rows) == []


@pytest.mark.lab
@pytest.mark.parametrize("name", NAMES)
def test_on_the_wire(name: str, stage: live.Stage) -> None:
    case = cases.load(name)
    rows = runner.rows_of(case, live.run_live(case, stage))
    assert runner.differences(case.expected(), rows) == []


@pytest.mark.parametrize("name", NAMES)
def test_each_case_says_what_it_is_for(name: str) -> None:
    text = (cases.load(name).folder / "README.md").read_text()
    assert text.startswith("# ") and "Rule" in text and len(text.splitlines()) >= 3
    assert (cases.load(name).folder / "expected.jsonl").read_text().endswith("\n")


def test_traffic_is_the_same_every_time() -> None:
    for name in SCRIPTED:
        case = cases.load(name)
        assert case.frames() == case.frames(), name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"class": "call", "talk_ms": 5}, []),
        ({"class": "call", "talk_ms": [4, 5]}, []),
        ({"class": "call", "talk_ms": [6, 9]}, ["line 1: talk_ms is 5, not [6, 9]"]),
        ({"class": "call", "nothing": 1}, ["line 1: nothing is None, not 1"]),
    ],
)
def test_a_field_that_differs_is_told(line: runner.Row, told: list[str]) -> None:
    assert runner.differences([line], [{"class": "call", "talk_ms": 5}]) == told


def test_a_record_too_many_and_one_too_few_are_told() -> None:
    row = {"class": "call", "talk_ms": 5}
    assert "no line expects" in runner.differences([row], [row, row])[0]
    assert "no record is left" in runner.differences([row, row], [row])[0]


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0 and "call_plain " in capsys.readouterr().out
    assert main(["run", "call_plain"]) == 0 and "passed call_plain" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "no_such"])


@pytest.mark.lab
def test_exported_captures_replay_to_the_same(tmp_path: Path, stage: live.Stage) -> None:
    assert main(["export", str(tmp_path), "call_plain"]) == 0
    case = cases.load("call_plain")
    rows = runner.rows_of(case, frames([tmp_path / "call_plain" / "capture.pcap"]))
    assert runner.differences(case.expected(), rows) == []
    assert (tmp_path / "call_plain" / "README.md").read_text().startswith("# ")
