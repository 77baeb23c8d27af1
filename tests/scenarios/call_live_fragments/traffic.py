"""A real INVITE that the kernel cuts into fragments."""

from __future__ import annotations

from tests.lab.sip import ANSWERED
from tests.scenarios import sipp
from tests.scenarios.live import Stage


def padded(scenario: str) -> str:
    """The INVITE, and the other requests, with a header that no packet has room for."""
    return scenario.replace("Max-Forwards: 70", f"Max-Forwards: 70\nX-Padding: {'p' * 1800}")


def play(on: Stage) -> None:
    sipp.call(on, ANSWERED, change=padded)
