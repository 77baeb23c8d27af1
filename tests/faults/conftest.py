"""One lab and one appliance for all fault tests: starting them takes longer than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.support import LINES, WINDOW_S, World, day_of
from tests.lab.appliance import Appliance
from tests.lab.lab import Lab


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    idle = day_of(1.0, {})
    assert len(idle.subscribers) == LINES
    with Lab(folder / "lab", day=idle) as lab, Appliance(folder, lab, WINDOW_S) as appliance:
        yield World(folder, lab, appliance)
