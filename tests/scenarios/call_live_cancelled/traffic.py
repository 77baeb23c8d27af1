"""A real caller who gives up."""

from __future__ import annotations

from tests.lab.sip import CANCELLED
from tests.scenarios import sipp
from tests.scenarios.live import Stage


def play(on: Stage) -> None:
    sipp.call(on, CANCELLED, b="+44207946487")
