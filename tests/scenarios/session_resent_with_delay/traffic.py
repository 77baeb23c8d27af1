"""Requests resent with Acct-Delay-Time."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.start(5, Acct_Delay_Time=5)
    nas.stop(105, Acct_Delay_Time=5, **counted(7, 9, 100))
    nas.stop(110, Acct_Delay_Time=10, **counted(7, 9, 100))
    return nas.frames
