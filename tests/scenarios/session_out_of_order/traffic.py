"""An Interim that comes after the Stop it was sent before."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(300, **counted(10, 20, 300))
    nas.stop(600, **counted(30, 40, 600))
    nas.interim(601, Acct_Delay_Time=61, **counted(25, 35, 540))
    return nas.frames
