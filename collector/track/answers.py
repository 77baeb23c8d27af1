"""DNS answers: for each client, by which host it was last led to a server's address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.track.host_events import Resolution

ANSWERS_PER_SERVER: Final = 4
"""Hosts remembered for one client and server address: a flow is named by the latest one before it
began, and few look-ups lie between a flow's start and the end of its window."""


@dataclass(frozen=True, slots=True)
class AnswersConfig:
    """Limits: pairs of client and server in all and of one client, and how long a pair names."""

    max_answers: int
    max_answers_per_client: int
    life_ns: int


class Answers:
    """Per client and server address, the latest hosts that led there. Oldest go first.

    `size`: pairs of client and server held. `evicted`: those that went for want of room; whoever
    reports them sets it back.
    """

    def __init__(self, config: AnswersConfig) -> None:
        self._config = config
        self._clients: dict[bytes, dict[bytes, list[tuple[int, str]]]] = {}
        self.size = 0
        self.evicted = 0

    def add(self, event: Resolution) -> None:
        """A client was told the addresses of a host, which are not none."""
        servers = self._clients.pop(event.client, None)
        if servers is None:
            servers = {}
        self._clients[event.client] = servers
        for address in event.addresses:
            held = servers.pop(address, None)
            self.size += held is None
            kept = [pair for pair in held or () if pair[1] != event.host]
            servers[address] = [*kept[1 - ANSWERS_PER_SERVER :], (event.ts_ns, event.host)]
            if len(servers) > self._config.max_answers_per_client:
                del servers[next(iter(servers))]
                self.size -= 1
                self.evicted += 1
        while self.size > self._config.max_answers:
            client, oldest = next(iter(self._clients.items()))
            del oldest[next(iter(oldest))]
            self.size -= 1
            self.evicted += 1
            if not oldest:
                del self._clients[client]

    def host(self, client: bytes, server: bytes, at_ns: int) -> str:
        """The latest host at or before `at_ns`; empty where there is none or it is too old."""
        servers = self._clients.get(client)
        held = servers.get(server) if servers else None
        for ts_ns, host in reversed(held or ()):
            if ts_ns <= at_ns:
                return host if at_ns - ts_ns <= self._config.life_ns else ""
        return ""

    def expire(self, before_ns: int) -> None:
        """Drops what was last answered before `before_ns`; clients are in order of last answer."""
        while self._clients:
            client, servers = next(iter(self._clients.items()))
            for address, held in tuple(servers.items()):
                if held[-1][0] >= before_ns:
                    break
                del servers[address]
                self.size -= 1
            if servers:
                return
            del self._clients[client]
