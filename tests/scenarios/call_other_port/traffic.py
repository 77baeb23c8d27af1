"""Signalling on a port of the operator's choice."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(port=5070)
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
