"""Two phones answer within 40 ms."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(1, 180)
    hop.reply(5, 200)
    hop.reply(5.04, 200, to_tag="carol")
    hop.ack(5.05)
    hop.ack(5.09, to_tag="carol")
    hop.request(5.1, "BYE", 3, to_tag="carol")
    hop.reply(5.12, 200, 3, method="BYE", to_tag="carol")
    hop.hung_up(65, 4)
    return merged(hop)
