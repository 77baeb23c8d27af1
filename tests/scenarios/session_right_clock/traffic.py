"""A resend that the NAS's clock puts right."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7", Framed_IP_Address="100.64.0.7")
    now = 1_800_000_000
    nas.start(0.2, Event_Timestamp=now)
    nas.interim(300.2, Event_Timestamp=now + 300, **counted(1, 2, 300))
    nas.stop(610.1, Event_Timestamp=now + 600, Acct_Delay_Time=9, **counted(3, 4, 600))
    return nas.frames
