"""A 302 that the caller follows is the same call."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    hop.reply(0.3, 302, 1, "Contact: <sip:+442079460009@example.net>")
    hop.ack(0.35)
    hop.dialled = "sip:+442079460009@example.net"
    hop.invite(0.5, 2)
    hop.reply(2, 486, 2)
    hop.ack(2.05, 2)
    return merged(hop)
