"""A NAS without gigawords whose counter wraps."""

from __future__ import annotations

from tests.scenarios.radius import Nas
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(
        300, Acct_Session_Time=300, Acct_Input_Octets=(1 << 32) - 1000, Acct_Output_Octets=7
    )
    nas.stop(600, Acct_Session_Time=600, Acct_Input_Octets=500, Acct_Output_Octets=9)
    return nas.frames
