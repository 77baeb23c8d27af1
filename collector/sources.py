"""Interfaces by pattern in, frames of all of them out: opens and closes packet sockets as they
come and go."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Final, cast

from collector.build import MIN_BUFFER_BYTES, link_patterns, role_ports
from collector.build_safeguard import targets
from collector.capture.links import LinkReader, LinksConfig
from collector.capture.packet import CaptureUnavailable, PacketConfig, PacketSource, Slots
from collector.config import Config
from collector.parse.link import Frame
from collector.track.links import LinkCounters, LinkReading
from collector.track.observer import Observer, Role
from collector.wire.gaps import MAX_LOSSES, merge
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

MAX_SOURCES: Final = 64
"""Packet sockets, each with a receive buffer: beyond it capture on the interface underneath, where
VLAN and PPPoE headers are read."""
_REFRESH_S: Final = 5.0
_CLASSES: Final = ("visit", "call", "session", "binding")
_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT)
"""Errors that no other interface will spare us."""


@dataclass(slots=True)
class _Open:
    """One packet socket. `indices`: those that its interface has had while it was open."""

    source: PacketSource
    role: Role
    indices: set[int] = field(default_factory=set)


class Sources:
    """The packet sockets of one collector. Not thread-safe: the service's loop owns it.

    An interface is known by its name: where it vanishes and comes again between two looks, the
    socket binds itself anew, and what the new index is read for follows from the name.
    """

    def __init__(
        self,
        config: Config,
        observer: Observer,
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = LinkReader(LinksConfig(link_patterns(config)), now)
        self._config, self._observer = config, observer
        self._now, self._monotonic = now, monotonic
        self._open: dict[str, _Open] = {}
        self._slots = Slots()
        guarded = targets(config)
        self._pages = tuple(sorted(guarded.pages)) if guarded else ()
        self._selector = selectors.DefaultSelector()
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._extra: tuple[int, ...] = ()
        self._looked_ns = 0
        self._due_s = 0.0
        self._complaint = ""
        self._unheard: set[str] = set()
        self._losses: list[Loss] = []
        self._closed_counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """Frames of all sockets, closed ones included: seen = recorded + ignored + lost + open.

        Open are those that wait in the sockets. The kernel does not tell their number, so it is
        what the other terms leave: after a quiet moment anything but 0 is an error. Brought up to
        date by `losses`.
        """
        total = Counter(self._closed_counts)
        for opened in self._open.values():
            total.update(opened.source.counts)
        total["open"] = total["seen"] - total["recorded"] - total["ignored"] - total["lost"]
        return dict(total)

    @property
    def captured(self) -> int:
        """Interfaces whose packets are read now."""
        return len(self._open)

    @property
    def refused(self) -> int:
        """Interfaces that match a pattern and are not read: too many, or they cannot be opened."""
        return len(self._unheard)

    def wipe(self) -> None:
        """Overwrite what frames that were read have left in memory."""
        self._slots.wipe()

    def read_links(self) -> LinkReading:
        """Counters of every interface; raises LinksUnavailable."""
        return self._links.read()

    def refresh(self) -> None:
        """Open what appeared and close what went; does nothing more than once in five seconds.

        Raises CaptureUnavailable where packets may not be captured at all, and LinksUnavailable.
        """
        if self._looked_ns and self._monotonic() < self._due_s:
            return
        self._due_s = self._monotonic() + _REFRESH_S
        reading = self._links.read()
        found = {link.name: link for link in reading.links if link.role}
        before = self.captured
        for name in [name for name in self._open if name not in found]:
            self._close(name)
        self._unheard &= found.keys()
        for name, link in found.items():
            if name not in self._open:
                self._appeared(link, reading.ts_ns)
            elif link.index not in self._open[name].indices:
                self._learn(self._open[name], link.index)
        if self.captured != before:
            self._share()
        self._looked_ns = reading.ts_ns
        self._complain(found)

    def select(self, timeout_s: float, also: tuple[int, ...]) -> set[int]:
        """Wait until a socket or a descriptor of `also` has something, at most `timeout_s`, or
        until `wake`; the descriptors that have."""
        if also != self._extra:
            for descriptor in set(self._extra).difference(also):
                self._selector.unregister(descriptor)
            for descriptor in set(also).difference(self._extra):
                self._selector.register(descriptor, selectors.EVENT_READ)
            self._extra = also
        ready = {key.fd for key, _ in self._selector.select(timeout_s)}
        if self._waker in ready:
            os.eventfd_read(self._waker)
        return ready

    def wake(self) -> None:
        """End the wait, or the next one; for signal handlers and other threads."""
        if self._waker >= 0:
            os.eventfd_write(self._waker, 1)

    def read(self, limit: int, ready: Set[int]) -> Iterator[Frame]:
        """What waits in the sockets that are `ready`, at most `limit` frames of each."""
        for name, opened in list(self._open.items()):
            if opened.source.fileno() not in ready:
                continue
            try:
                frames = opened.source.read(limit)
            except OSError as error:
                self._failed(name, error)
                continue
            if frames and frames[-1].interface not in opened.indices:
                self._learn(opened, frames[-1].interface)
            yield from frames

    def losses(self, now_ns: int) -> list[Loss]:
        """Losses of all sockets since the last call; to be called every second or so."""
        for name, opened in list(self._open.items()):
            try:
                self._losses += opened.source.losses(now_ns)
            except OSError as error:  # it came back as another kind of interface, for one
                self._failed(name, error)
        found, self._losses = merge(self._losses, MAX_LOSSES), []
        return found

    def unheard(self, start_ns: int, end_ns: int) -> list[Loss]:
        """The loss of a window in which matching interfaces were not read; none where all are."""
        if not self._unheard:
            return []
        return [Loss(start_ns, end_ns, "capture", "unheard", -1, "packets", _CLASSES)]

    def stop(self) -> None:
        """Close every socket; may be called again."""
        for name in list(self._open):
            self._close(name)
        self._selector.close()
        if self._waker >= 0:
            os.close(self._waker)
            self._waker = -1

    def _appeared(self, link: LinkCounters, now_ns: int) -> None:
        """Open a socket on an interface that was not there at the last look."""
        if self.captured >= MAX_SOURCES:
            self._unheard.add(link.name)
            return
        config = PacketConfig(
            link.name,
            role_ports(self._config, link.role),
            self._buffer(self.captured + 1),
            unheard=self._pages if link.role == "access" else (),
            tunnels=link.role == "control",
        )
        source = PacketSource(config, self._now, self._slots)
        try:
            source.start()
        except OSError as error:
            if error.errno in _FORBIDDEN and isinstance(error, CaptureUnavailable):
                raise
            # Gone since the look, or of a kind that cannot be read: asked again at the next.
            if link.name not in self._unheard:
                log.warning("interface %s is not captured: %s", link.name, error.strerror)
            self._unheard.add(link.name)
            return
        self._open[link.name] = opened = _Open(source, cast(Role, link.role))
        self._learn(opened, link.index)
        self._selector.register(source.fileno(), selectors.EVENT_READ)
        if self._looked_ns and link.name not in self._unheard:
            self._lose(link.name, self._looked_ns, now_ns, "interface-new", -1)
        self._unheard.discard(link.name)

    def _learn(self, opened: _Open, index: int) -> None:
        opened.indices.add(index)
        self._observer.assign(index, frozenset({opened.role}))

    def _close(self, name: str) -> None:
        """Let a socket go; what still waits in it is told as lost."""
        opened = self._open.pop(name)
        source, now_ns = opened.source, self._now()
        try:
            self._losses += source.losses(now_ns)
        except OSError as error:
            log.warning("interface %s: %s", name, error.strerror)
            self._lose(name, self._looked_ns, now_ns, "interface-gone", -1)
        self._selector.unregister(source.fileno())
        source.stop()
        counts = source.counts
        unread = counts["seen"] - counts["recorded"] - counts["lost"]
        if unread > 0:  # went with the socket
            counts["lost"] += unread
            self._lose(name, now_ns, now_ns + 1, "unread", unread)
        self._closed_counts.update(counts)
        for index in opened.indices:
            self._observer.assign(index, frozenset())

    def _failed(self, name: str, error: OSError) -> None:
        """A socket that gives errors is closed, and opened again at the next look: at once."""
        log.error("capture on interface %s is begun anew: %s", name, error.strerror)
        self._close(name)
        self._due_s = 0.0

    def _lose(self, name: str, start_ns: int, end_ns: int, reason: str, amount: int) -> None:
        scope = f"interface:{name}"
        self._losses.append(
            Loss(start_ns, end_ns, "capture", reason, amount, "packets", _CLASSES, scope)
        )

    def _buffer(self, sockets: int) -> int:
        """Bytes of one receive buffer of so many."""
        limits = self._config.limits
        share = limits.packet_buffers_bytes // max(sockets, 1)
        return max(min(limits.receive_buffer_bytes, share), MIN_BUFFER_BYTES)

    def _share(self) -> None:
        """Divide what all sockets may hold evenly."""
        for opened in self._open.values():
            opened.source.resize(self._buffer(self.captured))

    def _complain(self, found: dict[str, LinkCounters]) -> None:
        """Say once what of the configuration finds nothing, or too much."""
        words = []
        roles = {link.role for link in found.values()}
        if "access" not in roles:
            words.append("no interface matches access.interfaces")
        if self._config.control.interfaces and "control" not in roles:
            words.append("no interface matches control.interfaces")
        if len(found) > MAX_SOURCES:
            words.append(f"more than {MAX_SOURCES} interfaces match; the rest is unheard")
        text = "; ".join(words)
        if text != self._complaint:
            if text:
                log.warning("%s", text)
            self._complaint = text
