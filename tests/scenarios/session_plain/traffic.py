"""A clean session: Start, Interim, Stop."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0)
    nas.interim(300, **counted(400_000, 2_000_000_000, 300))
    nas.stop(600.5, Acct_Terminate_Cause=1, **counted(1_000_000, 5_000_000_000, 600))
    return nas.frames
