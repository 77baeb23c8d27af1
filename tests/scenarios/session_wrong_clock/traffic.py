"""A NAS whose clock is three days ahead."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7", Framed_IP_Address="100.64.0.7")
    ahead = 1_800_000_000 + 3 * 86_400
    nas.start(0, Event_Timestamp=ahead)
    nas.interim(300.5, Event_Timestamp=ahead + 300, **counted(1, 2, 300))
    nas.stop(604.5, Event_Timestamp=ahead + 600, Acct_Delay_Time=4, **counted(3, 4, 600))
    return nas.frames
