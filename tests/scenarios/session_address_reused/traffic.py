"""The address is given to another before any Stop."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    first = Nas(Chargeable_User_Identity="cui-7", Framed_IP_Address="100.64.0.7")
    second = Nas(Chargeable_User_Identity="cui-8", Framed_IP_Address="100.64.0.7")
    first.start(0)
    first.interim(600, **counted(1, 2, 600))
    second.start(700, "s2")
    second.stop(800, "s2", **counted(3, 4, 100))
    return in_order(first.frames, second.frames)
