"""Two legs of a back-to-back agent, known by the session description."""

from __future__ import annotations

from tests.scenarios.sip import CORE, Frames, Hop, through_agent


def frames() -> Frames:
    one = Hop(call_id="c1@example.net", branch="b1", origin="77")
    two = Hop(CORE, "100.64.0.8", call_id="c2@example.net", branch="b2", origin="77")
    return through_agent(one, two)
