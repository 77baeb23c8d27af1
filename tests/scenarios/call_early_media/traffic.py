"""Announcements before the answer."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 183)
    hop.reply(9, 200)
    hop.ack(9.05)
    hop.hung_up(19)
    return merged(hop)
