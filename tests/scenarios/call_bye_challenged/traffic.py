"""A BYE that is challenged and sent again."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.bye(30)
    hop.reply(30.05, 407, 2, method="BYE")
    hop.bye(30.4, 3)
    hop.reply(30.5, 200, 3, method="BYE")
    return merged(hop)
