"""Only the Stop arrives."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.stop(1000, Acct_Terminate_Cause=4, **counted(70, 90, 600))
    return nas.frames
