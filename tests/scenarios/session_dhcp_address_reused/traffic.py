"""A DHCP address that the server gives to another."""

from __future__ import annotations

from tests.scenarios.lines import MAC2, Dhcp
from tests.scenarios.radius import in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    first, second = Dhcp(), Dhcp(MAC2, "olt-9/9/9", "modem-8")
    first.leased(0, "100.64.0.7")
    second.leased(600, "100.64.0.7")
    second.from_client(900, "release", ciaddr="100.64.0.7")
    return in_order(first.frames, second.frames)
