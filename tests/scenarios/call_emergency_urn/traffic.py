"""An emergency call by urn:service:sos."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(b="urn:service:sos")
    hop.answered(0, ring=1, answer=2)
    hop.hung_up(62, back=True)
    return merged(hop)
