"""How the suite is shared out where it runs on several cores (`pytest -n 2 --dist loadgroup`).

A test file is one unit, as its fixtures are; so is a folder whose tests share one lab. The longest
units come first: whoever is left with the last one should not be left with a long one.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent
ONE_LAB: Final = ("faults", "deploy")
"""Folders whose tests share a lab and an appliance."""
LONGEST: Final = (
    "faults",
    "retention/vault/test_engine.py",
    "lab/test_lab.py",
    "lab/test_demo.py",
    "deploy",
    "retention/vault/test_cluster.py",
)

# A shell that starts the suite in the background has it ignore Ctrl-C, and so would every program
# that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def unit_of(path: Path) -> str:
    """The unit that a test file belongs to."""
    name = path.relative_to(ROOT).as_posix()
    return next((folder for folder in ONE_LAB if name.startswith(f"{folder}/")), name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    rank = {unit: number for number, unit in enumerate(LONGEST)}
    units = {item: unit_of(item.path) for item in items}
    items.sort(key=lambda item: rank.get(units[item], len(rank)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(units[item]))
