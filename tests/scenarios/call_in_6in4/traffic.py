"""Signalling over IPv6 and TCP inside a 6in4 tunnel."""

from __future__ import annotations

from scapy.layers.inet import IP

from tests.scenarios.sip import CORE6, LINE6, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(
        LINE6,
        CORE6,
        transport="TCP",
        wrap=lambda packet: IP(src="203.0.113.1", dst="203.0.113.2") / packet,
    )
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
