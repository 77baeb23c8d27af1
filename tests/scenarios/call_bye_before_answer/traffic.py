"""A BYE before the answer."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.bye(4)
    hop.reply(4.02, 200, 2, method="BYE")
    return merged(hop)
