"""DHCP: Inform, NAK, Decline."""

from __future__ import annotations

from tests.scenarios.lines import MAC2, Dhcp
from tests.scenarios.radius import in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    informer, refused, declined = Dhcp("02:00:00:00:00:09"), Dhcp(), Dhcp(MAC2)
    informer.from_client(0, "inform", ciaddr="100.64.0.9")
    informer.from_server(0.1, "ack")
    refused.leased(10, "100.64.0.7")
    refused.from_client(500, "request", ("requested_addr", "100.64.0.7"))
    refused.from_server(500.1, "nak")
    declined.leased(20, "100.64.0.8")
    declined.from_client(21, "decline", ("requested_addr", "100.64.0.8"))
    return in_order(informer.frames, refused.frames, declined.frames)
