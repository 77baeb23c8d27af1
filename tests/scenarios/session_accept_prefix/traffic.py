"""A prefix that only the Access-Accept names."""

from __future__ import annotations

from typing import Any

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(NAS_Port_Id="ge-0/1:7", User_Name="line7@isp")
    granted: dict[str, Any] = {
        "Delegated_IPv6_Prefix": "2001:db8:64:100::/56",
        "Chargeable_User_Identity": "cui-7",
    }
    nas.access(-2, granted)
    nas.start(0, Framed_IP_Address="100.64.0.7")
    nas.stop(900, **counted(1, 2, 900))
    return nas.frames
