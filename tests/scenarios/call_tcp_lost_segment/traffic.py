"""A TCP segment that was not captured, and a BYE behind it."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP")
    hop.answered(0, ring=1, answer=5)
    whole = list(hop.frames)
    hop.request(10, "INFO", 2)
    hop.frames = whole
    hop.hung_up(15, 3)
    return merged(hop)
