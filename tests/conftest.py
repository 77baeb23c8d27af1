"""How the suite is shared out where it runs on several cores (`pytest -n 2`), and its properties.

A test file is one unit, as its fixtures are; so is a folder whose tests share one lab. The longest
units come first: whoever is left with the last one should not be left with a long one.
"""

from __future__ import annotations

import os
import signal
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ONE_LAB: Final = ("faults", "deploy")
"""Folders whose tests share a lab and an appliance."""
LONGEST: Final = (
    "faults",
    "retention/vault/test_engine.py",
    "lab/test_lab.py",
    "lab/test_demo.py",
    "deploy",
    "lab/test_prove.py",
    "retention/vault/test_cluster.py",
)

# A change is judged by the same examples each time; TALLYHOLD_EXPLORE=1 looks for other ones.
# On a busy machine they are slow to draw, which is no fault of what they test.
settings.register_profile(
    "busy",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("TALLYHOLD_EXPLORE") != "1",
)
settings.load_profile("busy")

# A shell that starts the suite in the background has it ignore Ctrl-C, and so would every program
# that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def unit_of(nodeid: str) -> str:
    """The unit that a test belongs to."""
    name = nodeid.partition("::")[0].removeprefix("tests/")
    return next((folder for folder in ONE_LAB if name.startswith(f"{folder}/")), name)


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out whole units, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Units:
    return Units(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {unit: number for number, unit in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(unit_of(item.nodeid), len(rank)))
