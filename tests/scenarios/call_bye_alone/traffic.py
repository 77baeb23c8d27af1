"""A BYE without its INVITE."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.hung_up(3)
    return merged(hop)
