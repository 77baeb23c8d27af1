"""Two legs of a back-to-back agent over TCP, one with its description in a segment of its own."""

from __future__ import annotations

from tests.scenarios.sip import CORE, Frames, Hop, through_agent


def frames() -> Frames:
    one = Hop(call_id="c1@example.net", branch="b1", origin="77", transport="TCP")
    two = Hop(
        CORE,
        "100.64.0.8",
        call_id="c2@example.net",
        branch="b2",
        origin="77",
        transport="TCP",
        segment=100,
    )
    return through_agent(one, two)
