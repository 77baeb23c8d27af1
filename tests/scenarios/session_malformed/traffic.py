"""Packets and attributes that are wrong."""

from __future__ import annotations

from tests.scenarios.radius import Nas, counted, encode
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas(
        Chargeable_User_Identity="cui-7", NAS_Port_Id="ge-0/1:7", Framed_IP_Address="100.64.0.7"
    )
    nas.start(0, Framed_IPv6_Prefix=b"\x00\x81" + bytes(16))
    stop = encode({"Acct_Status_Type": 2, "Acct_Session_Id": "s1", "NAS_Identifier": "bng-1"})
    nas.raw(100, stop + b"\x2e\x01")
    nas.raw(110, stop + b"\x2e\x09\x00")
    nas.stop(600, **counted(1, 2, 600))
    return nas.frames
