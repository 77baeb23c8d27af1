"""A call that was diverted twice."""

from __future__ import annotations

from tests.scenarios.sip import CORE, LINE, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(CORE, LINE)
    hop.invite(
        0,
        1,
        "Diversion: <sip:+442079460005@example.net>;reason=no-answer;counter=1",
        'Diversion: "Office" <sip:+442079460004@example.net>;reason=unconditional;privacy=off',
    )
    hop.reply(1, 180)
    hop.reply(5, 200)
    hop.ack(5.05)
    hop.hung_up(15)
    return merged(hop)
