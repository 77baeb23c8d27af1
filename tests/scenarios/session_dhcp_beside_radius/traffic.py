"""A lease and an accounted session of the same address."""

from __future__ import annotations

from tests.scenarios.lines import Dhcp
from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas, client = Nas(Chargeable_User_Identity="cui-7"), Dhcp()
    client.leased(0, "100.64.0.7")
    nas.start(0.5, Framed_IP_Address="100.64.0.7")
    client.renewed(1800, "100.64.0.7")
    nas.stop(3000, **counted(1, 2, 2999))
    return in_order(nas.frames, client.frames)
