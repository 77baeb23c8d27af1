"""Requests with a wrong authenticator."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    forger = Nas(secret=b"guessed", Framed_IP_Address="100.64.0.7")
    nas.start(0)
    forger.stop(100, answered=False)
    forger.on(110, answered=False)
    forger.start(120, "s9", answered=False)
    nas.stop(600, **counted(1, 2, 600))
    return in_order(nas.frames, forger.frames)
