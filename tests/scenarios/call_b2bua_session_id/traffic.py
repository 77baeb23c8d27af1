"""Two legs of a back-to-back agent, known by Session-ID."""

from __future__ import annotations

from tests.scenarios.sip import CORE, Frames, Hop, through_agent

SESSION = "Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000"


def frames() -> Frames:
    one = Hop(call_id="c1@example.net", branch="b1")
    two = Hop(CORE, "100.64.0.8", call_id="c2@example.net", branch="b2")
    return through_agent(one, two, SESSION)
