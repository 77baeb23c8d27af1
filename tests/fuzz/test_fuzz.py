"""The fuzzer for seconds here, or as long as TALLYHOLD_FUZZ_SECONDS says for each parser.

In a process of its own, because it instruments what it imports and ends the process itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collector.parse.reader import ParseError
from tests.fuzz.targets import TARGETS, every, every_seed

ROOT = Path(__file__).parents[2]
LONG_S = int(os.environ.get("TALLYHOLD_FUZZ_SECONDS", "0"))
SHORT_S = 6
RUNS = list(TARGETS) if LONG_S else ["all"]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.timeout(LONG_S + 300)
def test_nothing_but_parse_errors(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(LONG_S or SHORT_S)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(tmp_path.iterdir()) == []
    runs = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    assert runs and int(runs[1]) > 2 * len(every_seed())


def test_every_parser_takes_its_seeds() -> None:
    """A seed that a parser refused would leave it unexplored; it is cut and repeated besides."""
    for name, target in TARGETS.items():
        for seed in target.seeds:
            try:
                target.run(seed)
            except ParseError as error:
                pytest.fail(f"{name} refuses its seed: {error.reason}")
            for broken in (seed[:-1], seed * 2, seed[: len(seed) // 2]):
                _survives(target.run, broken)
    for seed in every_seed():
        _survives(every, seed)


def _survives(run: object, data: bytes) -> None:
    assert callable(run)
    try:
        run(data)
    except ParseError as error:
        assert error.reason
