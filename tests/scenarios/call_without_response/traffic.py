"""An INVITE that nobody answers."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    for at in (0, 0.5, 1.5, 3.5):
        hop.invite(at)
    return merged(hop)
