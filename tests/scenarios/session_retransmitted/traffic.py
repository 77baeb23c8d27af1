"""Every request comes three times."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.again(1)
    nas.again(3)
    nas.stop(60, **counted(7, 9, 60))
    nas.again(61)
    nas.again(63)
    return nas.frames
