"""A session over midnight."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(57_000)
    nas.interim(57_300, **counted(1, 2, 300))
    nas.stop(58_000, **counted(3, 4, 1000))
    return nas.frames
