"""A call that is declined."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(4, 603)
    hop.ack(4.05)
    return merged(hop)
