"""CANCEL and 200 cross on the wire."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.answered(0, ring=1, answer=5)
    hop.cancel(4.99)
    hop.reply(5.01, 481, 1, method="CANCEL", branch="b1-INVITE-1")
    hop.hung_up(30)
    return merged(hop)
