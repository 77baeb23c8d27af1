"""A lost BYE with a session timer of 90 s."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(5, 200, 1, "Session-Expires: 90;refresher=uac")
    hop.ack(5.05)
    return merged(hop)
