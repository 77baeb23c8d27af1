"""A ported number, percent-encoded, with its routing number."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(dialled="sip:%2B442079460002;npdi;rn=%2B442079460000@example.net;user=phone")
    hop.invite(0)
    hop.reply(2, 404)
    hop.ack(2.05)
    return merged(hop)
