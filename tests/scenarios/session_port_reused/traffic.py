"""A new session on the same port and MAC."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(NAS_Port_Id="ge-0/1:7", Calling_Station_Id="02-00-00-00-00-07", User_Name="line7@isp")
    nas.start(0, Framed_IP_Address="100.64.0.7")
    nas.start(500, "s2", Framed_IP_Address="100.64.0.9")
    nas.stop(900, "s2", **counted(3, 4, 400))
    return nas.frames
