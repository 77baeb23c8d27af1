"""A session id that is used again without a reboot."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(100, **counted(1, 2, 100))
    nas.start(200)
    nas.stop(300, **counted(3, 4, 100))
    nas.stop(500, **counted(5, 6, 50))
    return nas.frames
