"""DNS answers: for each client, by which host it was last led to a server's address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from collector.track.host_events import Resolution

RUNS_PER_SERVER: Final = 4
"""Runs of one host remembered for one client and server address: a flow is named by the latest
answer before it began, and few look-ups lie between a flow's start and the end of its window."""

Run: TypeAlias = "tuple[int, int, str, Run | None]"
"""When a host was first and last answered without another in between, the host, and the run before:
120 bytes, where a list of pairs takes 192."""


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
        self._clients: dict[bytes, dict[bytes, Run]] = {}
        # Of equal values one object, for as long as a window or until there are many: a popular
        # host would else be in memory once for each client.
        self._hosts: dict[str, str] = {}
        self._addresses: dict[bytes, bytes] = {}
        self.size = 0
        self.evicted = 0

    def add(self, event: Resolution) -> None:
        """A client was told the addresses of a host, which are not none."""
        servers = self._clients.pop(event.client, None)
        if servers is None:
            servers = {}
        self._clients[event.client] = servers
        if len(self._hosts) + len(self._addresses) > self._config.max_answers // 4:
            self._forget_equals()
        host = self._hosts.setdefault(event.host, event.host)
        for told in event.addresses:
            address = self._addresses.setdefault(told, told)
            held = servers.pop(address, None)
            self.size += held is None
            servers[address] = self._continued(held, event.ts_ns, host)
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
        run = servers.get(server) if servers else None
        while run:
            first_ns, last_ns, host, run = run
            if first_ns <= at_ns:
                return host if at_ns - last_ns <= self._config.life_ns else ""
        return ""

    def expire(self, before_ns: int) -> None:
        """Drops what was last answered before `before_ns`; clients are in order of last answer."""
        self._forget_equals()
        while self._clients:
            client, servers = next(iter(self._clients.items()))
            for address, (_, last_ns, *_) in tuple(servers.items()):
                if last_ns >= before_ns:
                    break
                del servers[address]
                self.size -= 1
            if servers:
                return
            del self._clients[client]

    def _forget_equals(self) -> None:
        self._hosts, self._addresses = {}, {}

    def _continued(self, held: Run | None, ts_ns: int, host: str) -> Run:
        """The runs with one more answer. Within a run each follows within the life of the one
        before, so whatever begins between its first and last was led by an answer still alive."""
        if held:
            first_ns, last_ns, before, earlier = held
            if before == host and 0 <= ts_ns - last_ns <= self._config.life_ns:
                return first_ns, ts_ns, host, earlier
        return ts_ns, ts_ns, host, _latest(held, RUNS_PER_SERVER - 1)


def _latest(run: Run | None, count: int) -> Run | None:
    """The latest `count` runs."""
    if run is None or not count:
        return None
    first_ns, last_ns, host, earlier = run
    return first_ns, last_ns, host, _latest(earlier, count - 1)
