"""A second Stop with larger counters."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.stop(600, **counted(1_000, 2_000, 600))
    nas.stop(605, **counted(1_500, 2_000, 600))
    nas.interim(610, **counted(9_999, 9_999, 600))
    return nas.frames
