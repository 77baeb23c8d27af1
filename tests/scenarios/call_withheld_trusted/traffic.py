"""A withheld number that a trusted peer asserts."""

from __future__ import annotations

from tests.scenarios.sip import CORE, LINE, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(CORE, LINE, a="sip:anonymous@anonymous.invalid")
    hop.invite(0, 1, "P-Asserted-Identity: <sip:+442079460007@example.net>", "Privacy: id")
    hop.reply(1, 180)
    hop.reply(3, 200)
    hop.ack(3.05)
    hop.hung_up(13)
    return merged(hop)
