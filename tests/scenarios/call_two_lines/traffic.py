"""A call between two lines of the same network."""

from __future__ import annotations

from tests.scenarios.sip import CORE, Frames, Hop, merged


def frames() -> Frames:
    out = Hop(branch="b1")
    into = Hop(CORE, "100.64.0.8", branch="b2")
    out.answered(0, ring=1.02, answer=5.02)
    into.answered(0.1, ring=1, answer=5)
    out.hung_up(15)
    into.hung_up(15.03)
    return merged(out, into)
