"""Several messages in one TCP segment."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop


def frames() -> Frames:
    one, two = (Hop(call_id=f"c{n}@example.net", transport="TCP", branch=f"b{n}") for n in (1, 2))
    wire = Hop(transport="TCP")
    together = [one.invite(0), two.invite(0)]
    wire.carry(0, "\r\n\r\n".join(together).encode())
    wire.carry(2, (one.reply(2, 486) + two.reply(2, 603)).encode(), back=True)
    wire.carry(2.1, (one.ack(2.1) + two.ack(2.1)).encode())
    return wire.frames
