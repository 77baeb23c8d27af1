"""A challenged INVITE is one call."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(0.1, 407, 1, 'Proxy-Authenticate: Digest realm="example.net", nonce="n"')
    hop.ack(0.15)
    hop.invite(0.2, 2, 'Proxy-Authorization: Digest username="u", response="r"')
    hop.reply(1, 180, 2)
    hop.reply(4, 200, 2)
    hop.ack(4.05, 2)
    hop.hung_up(14, 3)
    return merged(hop)
