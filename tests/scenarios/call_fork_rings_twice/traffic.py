"""Two phones ring, one answers."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(1.2, 180, to_tag="carol")
    hop.reply(7, 200, to_tag="carol")
    hop.ack(7.05, to_tag="carol")
    hop.request(17, "BYE", 2, to_tag="carol")
    hop.reply(17.02, 200, 2, method="BYE", to_tag="carol")
    return merged(hop)
