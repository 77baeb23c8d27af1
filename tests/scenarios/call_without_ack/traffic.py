"""An answer that is never acknowledged."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    for at in (5, 5.5, 6.5, 8.5):
        hop.reply(at, 200)
    hop.hung_up(37.5, back=True)
    return merged(hop)
