"""A challenge that nobody answers."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(0.25, 401)
    hop.ack(0.3)
    return merged(hop)
