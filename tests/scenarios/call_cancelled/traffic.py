"""A caller who gives up while it rings."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.cancel(6)
    hop.reply(6.01, 200, 1, method="CANCEL", branch="b1-INVITE-1")
    hop.reply(6.02, 487)
    hop.ack(6.05)
    return merged(hop)
