"""Accounting-On in the middle of a session."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(300, **counted(1, 2, 300))
    nas.on(500)
    nas.on(504, Acct_Delay_Time=4)
    nas.start(510)
    nas.stop(600, **counted(5, 6, 90))
    return nas.frames
