"""A re-INVITE changes nothing, over TCP."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP")
    hop.answered(0, ring=1, answer=5)
    hop.request(20, "INVITE", 2)
    hop.reply(20.1, 200, 2)
    hop.ack(20.15, 2)
    hop.hung_up(35, 3)
    return merged(hop)
