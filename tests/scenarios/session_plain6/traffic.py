"""A clean session over IPv6 with a delegated prefix."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        six=True,
        Chargeable_User_Identity="cui-7",
        Framed_IPv6_Prefix="2001:db8:64:1::/64",
        Delegated_IPv6_Prefix="2001:db8:64:100::/56",
    )
    nas.start(0)
    nas.stop(900, Acct_Terminate_Cause=1, **counted(10, 20, 900))
    return nas.frames
