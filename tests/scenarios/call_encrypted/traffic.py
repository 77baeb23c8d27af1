"""Signalling over TLS."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP", port=5061)
    record = b"\x17\x03\x03\x00\x20" + bytes(range(32))
    hop.carry(0, record)
    hop.carry(0.1, record[:9], back=True)
    hop.carry(0.2, record[9:], back=True)
    return merged(hop)
