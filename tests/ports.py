"""Ports of loopback for programs that a test starts, which nobody takes before they listen."""

from __future__ import annotations

import random
import socket
from typing import Final

BELOW_EPHEMERAL: Final = range(15_000, 32_000)
"""A port of 32768 and above (net.ipv4.ip_local_port_range) may become that of any connection
between the moment it was found free and the moment a server listens on it."""
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on; never the same one twice."""
    choice = random.SystemRandom()
    while True:
        port = choice.choice(BELOW_EPHEMERAL)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
