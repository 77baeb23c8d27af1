"""Terminate causes known, unknown, zero and absent."""

from __future__ import annotations

from tests.scenarios.radius import Nas, in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    nas = Nas()
    for number, causes in enumerate(
        ({"Acct_Terminate_Cause": 22}, {"Acct_Terminate_Cause": 9_999})
    ):
        nas.start(number, f"s{number}")
        nas.stop(100 + number, f"s{number}", **causes)
    nas.stop(200, "s2", Acct_Session_Time=10, Acct_Terminate_Cause=0)
    nas.stop(201, "s3", Acct_Session_Time=10)
    return in_order(nas.frames)
