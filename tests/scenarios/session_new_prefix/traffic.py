"""A prefix that is delegated later, and another after it."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7", Framed_IP_Address="100.64.0.7")
    nas.start(0)
    nas.interim(10, Delegated_IPv6_Prefix="2001:db8:64:100::/56", **counted(1, 2, 10))
    nas.interim(600, Delegated_IPv6_Prefix="2001:db8:64:200::/56", **counted(2, 3, 600))
    nas.stop(900, **counted(3, 4, 900))
    return nas.frames
