"""A real busy line."""

from __future__ import annotations

from tests.lab.sip import BUSY
from tests.scenarios import sipp
from tests.scenarios.live import Stage


def play(on: Stage) -> None:
    sipp.call(on, BUSY, b="+44207946486")
