"""A transfer by REFER, then a pick-up by Replaces."""

from __future__ import annotations

from tests.scenarios.sip import CORE, LINE, Frames, Hop, merged


def frames() -> Frames:
    first = Hop(CORE, LINE, call_id="c1@example.net", branch="b1")
    first.answered(0, ring=1, answer=5)
    target = "sip:+442079460003@example.net"
    first.request(20, "REFER", 2, f"Refer-To: <{target}>")
    first.reply(20.05, 202, 2, method="REFER")
    second = Hop(call_id="c2@example.net", b=target, branch="b2", to_tag="carol")
    second.invite(21, 1, "Referred-By: <sip:+442079460001@example.net>")
    second.reply(23, 200)
    second.ack(23.05)
    first.hung_up(24, 3)
    third = Hop(CORE, LINE, call_id="c3@example.net", branch="b3", to_tag="dave")
    third.invite(40, 1, "Replaces: c2@example.net;to-tag=alice;from-tag=carol")
    third.reply(40.2, 200)
    third.ack(40.25)
    second.hung_up(40.5, back=True)
    third.hung_up(60)
    return merged(first, second, third)
