"""A phone that rings until the network gives up."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(61, 480)
    hop.ack(61.05)
    return merged(hop)
