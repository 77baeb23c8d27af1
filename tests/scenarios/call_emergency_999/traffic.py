"""An emergency call by the country's short number."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(b="sip:999@example.net")
    hop.answered(0, ring=1, answer=2)
    hop.hung_up(62)
    return merged(hop)
