"""Disconnect-ACK, and the Stop is lost."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    other = Nas(Chargeable_User_Identity="cui-8", Framed_IP_Address="100.64.0.8")
    nas.start(0)
    nas.interim(300, **counted(1, 2, 300))
    other.start(310, "s2")
    nas.disconnect(500)
    other.disconnect(600, "s2")
    other.stop(600.5, "s2", Acct_Terminate_Cause=6, **counted(3, 4, 290))
    return in_order(nas.frames, other.frames)
