"""An Interim with a new address."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7")
    nas.start(0, Framed_IP_Address="100.64.0.7")
    nas.interim(300, Framed_IP_Address="100.64.0.9", **counted(1, 2, 300))
    nas.interim(600, **counted(2, 3, 600))
    nas.stop(900, **counted(3, 4, 900))
    return nas.frames
