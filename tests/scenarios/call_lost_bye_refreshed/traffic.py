"""A lost BYE after the session was refreshed."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(5, 200, 1, "Session-Expires: 90;refresher=uac")
    hop.ack(5.05)
    hop.request(45, "UPDATE", 2, "Session-Expires: 90;refresher=uac")
    hop.reply(45.1, 200, 2, "Session-Expires: 90;refresher=uac", method="UPDATE")
    return merged(hop)
