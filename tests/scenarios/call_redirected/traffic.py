"""A 302 that the caller does not follow."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0)
    diversion = "Diversion: <sip:+442079460002@example.net>;reason=unconditional;counter=1"
    hop.reply(0.3, 302, 1, "Contact: <sip:+442079460009@example.net>", diversion)
    hop.ack(0.35)
    return merged(hop)
