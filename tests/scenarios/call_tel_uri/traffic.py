"""A number as a tel URI with separators."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(dialled="tel:+44-20-7946-0002")
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
