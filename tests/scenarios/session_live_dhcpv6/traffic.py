"""dhclient on the line, dnsmasq on the router."""

from __future__ import annotations

from tests.scenarios.dhcp_live import Dnsmasq, dhclient, link_local
from tests.scenarios.live import Stage


def play(stage: Stage) -> None:
    """Take a lease, then release it."""
    ranges = "2001:db8:64:99::100,2001:db8:64:99::100,64,600s"
    with link_local(stage), Dnsmasq(stage, "2001:db8:64:99::1/64", ranges):
        dhclient(stage, "-6", "-1")
        dhclient(stage, "-6", "-r")
