"""The Stop is lost: silence for two and a half intervals."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7", Framed_IP_Address="100.64.0.7")
    nas.start(0, Acct_Interim_Interval=60)
    nas.interim(60, **counted(1, 2, 60))
    nas.interim(120, **counted(3, 4, 120))
    return nas.frames
