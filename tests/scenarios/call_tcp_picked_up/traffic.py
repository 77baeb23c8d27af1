"""A TCP connection picked up in mid-message."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP")
    old = Hop(call_id="old@example.net", transport="TCP").invite(0)
    hop.carry(0, old.encode()[200:])
    hop.answered(1, ring=2, answer=6)
    hop.hung_up(16)
    return merged(hop)
