"""Signalling inside an IP-in-IP tunnel."""

from __future__ import annotations

from scapy.layers.inet import IP

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(wrap=lambda packet: IP(src="203.0.113.1", dst="203.0.113.2") / packet)
    hop.answered(0, ring=1, answer=5)
    hop.hung_up(15)
    return merged(hop)
