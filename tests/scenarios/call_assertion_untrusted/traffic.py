"""A line that asserts another's number."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0, 1, "P-Asserted-Identity: <sip:+442079460007@example.net>")
    hop.reply(2, 486)
    hop.ack(2.05)
    return merged(hop)
