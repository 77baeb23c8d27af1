"""DHCPv6: an address and a delegated prefix through a relay."""

from __future__ import annotations

from tests.scenarios.lines import Dhcp6, address, prefix
from tests.scenarios.sip import Frames


def frames() -> Frames:
    client = Dhcp6()
    client.from_client(0, "Request", address("::", 0), prefix("::", 0, 0))
    client.reply(0.2, address("2001:db8:64:ff::7", 3600), prefix("2001:db8:64:100::", 56, 3600))
    client.from_client(1000, "Renew", prefix("2001:db8:64:100::", 56, 0))
    client.reply(1000.2, address("2001:db8:64:ff::7", 0), prefix("2001:db8:64:100::", 56, 3600))
    client.from_client(2000, "Release", prefix("2001:db8:64:100::", 56, 0))
    client.reply(2000.2)
    return client.frames
