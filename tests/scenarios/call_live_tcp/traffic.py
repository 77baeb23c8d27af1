"""A real call of SIPp over TCP."""

from __future__ import annotations

from tests.lab.sip import ANSWERED
from tests.scenarios import sipp
from tests.scenarios.live import Stage


def play(on: Stage) -> None:
    sipp.call(on, ANSWERED, tcp=True)
