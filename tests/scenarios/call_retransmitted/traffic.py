"""Every message comes twice."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    again = [(at + 400_000_000, frame) for at, frame in hop.frames]
    return sorted(hop.frames + again, key=lambda each: each[0])
