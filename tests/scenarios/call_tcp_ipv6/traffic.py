"""A plain call over TCP, IPv6."""

from __future__ import annotations

from tests.scenarios.sip import CORE6, LINE6, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(LINE6, CORE6, transport="TCP")
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
