"""Accounting-Off, then Accounting-On."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    other = Nas("bng-2", Chargeable_User_Identity="cui-8", Framed_IP_Address="100.64.0.8")
    nas.start(0)
    other.start(10)
    nas.off(100)
    nas.on(160)
    other.stop(200, **counted(1, 1, 190))
    return in_order(nas.frames, other.frames)
