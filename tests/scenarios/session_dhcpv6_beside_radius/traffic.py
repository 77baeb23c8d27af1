"""A prefix delegated by DHCPv6 beside an accounted session."""

from __future__ import annotations

from tests.scenarios.lines import Dhcp6, prefix
from tests.scenarios.radius import Nas, counted, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(Chargeable_User_Identity="cui-7", Calling_Station_Id="02-00-00-00-00-07")
    client = Dhcp6(interface="unknown")
    nas.start(0, Framed_IP_Address="100.64.0.7")
    client.reply(5, prefix("2001:db8:64:100::", 56, 600))
    nas.stop(3000, **counted(1, 2, 3000))
    return in_order(nas.frames, client.frames)
