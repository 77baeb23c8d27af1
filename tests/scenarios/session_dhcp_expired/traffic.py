"""A DHCP lease that is not renewed."""

from __future__ import annotations

from tests.scenarios.lines import Dhcp
from tests.scenarios.sip import Frames


def frames() -> Frames:
    client = Dhcp()
    client.leased(0, "100.64.0.7")
    client.renewed(1800, "100.64.0.7")
    return client.frames
