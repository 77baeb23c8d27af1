"""CANCEL answered, the INVITE never."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.cancel(6)
    hop.reply(6.01, 200, 1, method="CANCEL", branch="b1-INVITE-1")
    return merged(hop)
