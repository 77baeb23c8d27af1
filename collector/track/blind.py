"""Signalling that cannot be read: tells segments of TLS and WebSocket connections on SIP's ports.

They are counted and become a `gap` of calls, so that encrypted signalling is never taken for no
calls. SIP over TLS: RFC 3261 section 26.3.1; over WebSocket, whose clients mask what they send: RFC
7118. A connection is known by the first record seen of it, wherever it was picked up.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final

from collector.parse.ip import SYN, Packet
from collector.track.reassembly import FlowKey

MAX_CONNECTIONS: Final = 4_096
"""Twice as many as are followed in clear; one that is forgotten is known again by its next record.
"""

_UNREADABLE: Final = re.compile(
    rb"[\x14-\x17]\x03[\x00-\x04][\x00-\x48]"  # a TLS record of up to 18 KiB (RFC 8446 section 5.1)
    rb"|GET [^\s]{1,4096} HTTP/1\.1\r?\n"
    rb"|HTTP/1\.1 101 "
)


class BlindConnections:
    """The connections known to be unreadable, both ways; the one heard least recently goes."""

    def __init__(self) -> None:
        self._known: OrderedDict[FlowKey, None] = OrderedDict()

    def covers(self, packet: Packet) -> bool:
        """Whether a TCP segment on a SIP port is of such a connection."""
        key = (packet.src, packet.dst, packet.sport, packet.dport)
        key = min(key, (packet.dst, packet.src, packet.dport, packet.sport))
        if packet.flags & SYN:
            self._known.pop(key, None)
        if key in self._known:
            self._known.move_to_end(key)
            return True
        if not _UNREADABLE.match(packet.payload):
            return False
        self._known[key] = None
        if len(self._known) > MAX_CONNECTIONS:
            self._known.popitem(last=False)
        return True
