"""A plain call over UDP and IPv4."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(dialled="sip:02079460002@example.net")
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(65.25)
    return merged(hop)
