"""An INVITE of two IP fragments, IPv6."""

from __future__ import annotations

from tests.scenarios.sip import CORE6, LINE6, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(LINE6, CORE6)
    hop.invite(0, 1, "X-Padding: " + "p" * 2000)
    hop.reply(1, 180)
    hop.reply(5, 200)
    hop.ack(5.05)
    hop.hung_up(15)
    return merged(hop)
