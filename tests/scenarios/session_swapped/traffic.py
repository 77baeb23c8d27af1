"""A NAS that counts from its own side."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    other = Nas("bng-swapped", Chargeable_User_Identity="cui-8")
    nas.start(0)
    other.start(1, "s2")
    nas.stop(600, **counted(1, 9, 600))
    other.stop(601, "s2", **counted(9, 1, 600))
    return in_order(nas.frames, other.frames)
