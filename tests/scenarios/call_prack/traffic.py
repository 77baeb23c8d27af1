"""PRACK, UPDATE and INFO before and after the answer."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    hop.invite(0, 1, "Supported: 100rel")
    hop.reply(1, 183, 1, "Require: 100rel", "RSeq: 1")
    hop.request(1.1, "PRACK", 2, "RAck: 1 1 INVITE")
    hop.reply(1.2, 200, 2, method="PRACK")
    hop.request(2, "UPDATE", 3)
    hop.reply(2.1, 200, 3, method="UPDATE")
    hop.reply(3, 180)
    hop.reply(8, 200)
    hop.ack(8.05)
    hop.request(9, "INFO", 4)
    hop.reply(9.05, 200, 4, method="INFO")
    hop.hung_up(18, 5)
    return merged(hop)
