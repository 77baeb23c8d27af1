"""A session that was given an hour, and no Stop."""

from __future__ import annotations

from tests.scenarios.radius import Nas
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0, Session_Timeout=3600)
    return nas.frames
