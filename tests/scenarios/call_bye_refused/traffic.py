"""A BYE that is answered with 481."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.bye(30)
    hop.reply(30.05, 481, 2, method="BYE")
    return merged(hop)
