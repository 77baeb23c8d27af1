"""A call whose past stands in History-Info."""

from __future__ import annotations

from tests.scenarios.sip import CORE, LINE, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(CORE, LINE)
    hop.invite(
        0,
        1,
        "History-Info: <sip:+442079460004@example.net?Reason=SIP%3Bcause%3D302>;index=1, "
        "<sip:+442079460005@example.net>;index=1.1, "
        "<sip:+442079460002@example.net;cause=408>;index=1.1.1",
    )
    hop.reply(2, 486)
    hop.ack(2.05)
    return merged(hop)
