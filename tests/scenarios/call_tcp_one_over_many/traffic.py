"""One message over many TCP segments."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP", segment=90)
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
