"""Two legs of a back-to-back agent over TCP, one with its description in a segment of its own."""

from __future__ import annotations

from tests.scenarios.sip import CORE, Frames, Hop, merged


def frames() -> Frames:
    one = Hop(call_id="c1@example.net", branch="b1", origin="77", transport="TCP")
    two = Hop(
        CORE,
        "100.64.0.8",
        call_id="c2@example.net",
        branch="b2",
        origin="77",
        transport="TCP",
        segment=100,
    )
    one.invite(0, 1)
    two.invite(0.2, 1)
    two.reply(3, 200)
    one.reply(3.05, 200)
    one.ack(3.1)
    two.ack(3.15)
    one.hung_up(13.05)
    two.hung_up(13.1)
    return merged(one, two)
