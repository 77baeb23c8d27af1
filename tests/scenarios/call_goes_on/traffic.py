"""A call that goes on when the capture ends."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.request(3000, "INFO", 2)
    hop.reply(3000.5, 200, 2, method="INFO")
    return merged(hop)
