"""A short code that is no emergency."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(b="sip:1471@example.net")
    hop.answered(0, ring=1, answer=2)
    hop.hung_up(12)
    return merged(hop)
