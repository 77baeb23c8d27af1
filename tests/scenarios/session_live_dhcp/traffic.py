"""dhclient on the line, dnsmasq on the router."""

from __future__ import annotations

from tests.scenarios.dhcp_live import Dnsmasq, dhclient
from tests.scenarios.live import Stage


def play(stage: Stage) -> None:
    """Take a lease, then release it."""
    ranges = "100.64.0.100,100.64.0.100,255.255.255.0,600s"
    with Dnsmasq(stage, "100.64.0.1/24", ranges):
        dhclient(stage, "-4", "-1")
        # A Release is unicast (RFC 2131 section 4.4.6), and dhclient here configures nothing.
        route = ("100.64.0.1/32", "dev", "line")
        stage.line.run("ip", "route", "add", *route)
        try:
            dhclient(stage, "-4", "-r")
        finally:
            stage.line.run("ip", "route", "del", *route)
