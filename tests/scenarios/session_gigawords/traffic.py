"""Counters beyond 32 bits, with gigawords."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(300, **counted((1 << 32) + 4, 1 << 39, 300))
    nas.stop(600, **counted((3 << 32) + 5, 1 << 40, 600))
    return nas.frames
