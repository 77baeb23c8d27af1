"""Another number answers than was dialled."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(5, 200, 1, "P-Asserted-Identity: <sip:+442079460033@example.net>")
    hop.ack(5.05)
    hop.hung_up(15)
    return merged(hop)
