"""A call of two and a half hours."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(9005)
    return merged(hop)
