"""481 to a re-INVITE: the other side has no such call any more."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.request(20, "INVITE", 2)
    hop.reply(20.1, 481, 2)
    hop.ack(20.15, 2)
    return merged(hop)
