"""Interfaces by pattern in, frames of all of them out: opens and closes packet sockets as they
come and go."""

from __future__ import annotations

import logging
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from collector.capture.links import LinkReader, LinksConfig
from collector.capture.packet import CaptureUnavailable, PacketConfig, PacketSource
from collector.config import Config
from collector.parse.link import Frame
from collector.track.links import LinkReading
from collector.track.observer import Observer, Ports, Role
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

MAX_SOURCES: Final = 64
"""Packet sockets, each with a receive buffer: beyond it capture on the interface underneath, where
VLAN and PPPoE headers are read."""
_REFRESH_S: Final = 5.0


class Sources:
    """The packet sockets of one collector. Not thread-safe: the service's loop owns it."""

    def __init__(self, config: Config, observer: Observer, now: Callable[[], int]) -> None:
        patterns: tuple[tuple[str, str], ...] = tuple(
            [(each, "access") for each in config.access.interfaces]
            + [(each, "control") for each in config.control.interfaces]
        )
        self._links = LinkReader(LinksConfig(patterns), now)
        self._config, self._observer, self._now = config, observer, now
        self._open: dict[int, PacketSource] = {}
        self._roles: dict[int, str] = {}
        self._selector = selectors.DefaultSelector()
        self._extra = -1
        self._refreshed = 0.0
        self._losses: list[Loss] = []
        self._closed_counts: Counter[str] = Counter()
        self.refused = 0

    @property
    def counts(self) -> dict[str, int]:
        """Frames of all sockets, closed ones included: seen = recorded + ignored + lost."""
        total = Counter(self._closed_counts)
        for source in self._open.values():
            total.update(source.counts)
        return dict(total)

    def read_links(self) -> LinkReading:
        """Counters of every interface."""
        return self._links.read()

    def refresh(self) -> None:
        """Open what appeared and close what went; does nothing more than once in five seconds.

        Raises CaptureUnavailable where packets may not be captured at all.
        """
        if self._open and time.monotonic() - self._refreshed < _REFRESH_S:
            return
        self._refreshed = time.monotonic()
        found = {link.index: link for link in self._links.read().links if link.role}
        for index in [index for index in self._open if index not in found]:
            self._close(index)
        for index, link in found.items():
            if index in self._open:
                continue
            if len(self._open) >= MAX_SOURCES:
                self.refused += 1
                if self.refused == 1:
                    log.error("more than %d interfaces match; the rest is unheard", MAX_SOURCES)
                continue
            source = PacketSource(self._packet_config(link.name), self._now)
            try:
                source.start()
            except CaptureUnavailable:
                raise
            except OSError as error:
                log.warning("an interface cannot be captured yet: %s", error.strerror)
                continue
            self._open[index] = source
            role: Role = "access" if link.role == "access" else "control"
            self._observer.assign(index, frozenset({role}))
            self._selector.register(source.fileno(), selectors.EVENT_READ)

    def select(self, timeout_s: float, also: int) -> None:
        """Wait until a socket or the descriptor `also` has something, at most `timeout_s`."""
        if also != self._extra:
            self._selector.register(also, selectors.EVENT_READ)
            self._extra = also
        self._selector.select(timeout_s)

    def read(self, limit: int) -> Iterator[Frame]:
        """What waits in every socket, at most `limit` frames of each."""
        for source in list(self._open.values()):
            yield from source.read(limit)

    def losses(self, now_ns: int) -> list[Loss]:
        """Losses of all sockets since the last call."""
        found, self._losses = self._losses, []
        for source in self._open.values():
            found += source.losses(now_ns)
        return found

    def stop(self) -> None:
        for index in list(self._open):
            self._close(index)
        self._selector.close()

    def _close(self, index: int) -> None:
        source = self._open.pop(index)
        self._losses += source.losses(self._now())
        self._selector.unregister(source.fileno())
        source.stop()
        self._closed_counts.update(source.counts)
        self._observer.assign(index, frozenset())

    def _packet_config(self, interface: str) -> PacketConfig:
        config = self._config
        ports = Ports(
            dns=config.hosts.dns_ports,
            tls=config.hosts.tls_ports,
            http=config.hosts.http_ports,
            quic=config.hosts.quic_ports,
            radius=config.control.radius_ports,
            sip=config.control.sip_ports,
        )
        return PacketConfig(interface, ports)
