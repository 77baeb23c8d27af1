"""Signalling over WebSocket."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged


def frames() -> Frames:
    hop = Hop(transport="TCP", port=5066)
    hop.say(0, "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: sip\r\n\r\n")
    hop.say(0.1, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", back=True)
    hop.carry(0.2, b"\x81\xfe\x01\x00\x11\x22\x33\x44" + bytes(range(200)))
    return merged(hop)
