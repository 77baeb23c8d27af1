"""A DHCP lease on a line that is in no file."""

from __future__ import annotations

from tests.scenarios.lines import Dhcp
from tests.scenarios.sip import Frames


def frames() -> Frames:
    client = Dhcp(circuit="olt-5/5/5", remote="")
    client.leased(0, "100.64.0.7")
    client.from_client(900, "release", ciaddr="100.64.0.7")
    return client.frames
