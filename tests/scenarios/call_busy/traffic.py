"""A busy line, with the cause of the telephone network."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(0.5, 100)
    hop.reply(3, 486, 1, 'Reason: Q.850;cause=17;text="User busy"')
    hop.ack(3.05)
    return merged(hop)
