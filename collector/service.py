"""The collector's one loop: kernel sockets and clocks in, durable batches in the spool out.

    sockets ready -> observer -> journal -> trackers
    window due    -> read counters -> take rows -> journal state + spool batch (one commit)

One thread owns all state. The uplink has a thread of its own that only reads spool files, and
the metrics server only reads the last published snapshot; neither can stall the loop.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from collector.capture import netlink
from collector.capture.netlink import ConntrackConfig, ConntrackEvents
from collector.capture.netlink_dump import dump
from collector.capture.nft import NftConfig, install
from collector.capture.nftsets import NftUnavailable, SetReader
from collector.config import Config
from collector.journal import Journal, JournalError
from collector.metrics import Metrics
from collector.parse.conntrack import Decoder
from collector.parse.radius import Accounting, AccountingAck
from collector.parse.sip import SipEvent
from collector.report import publish, tally
from collector.sources import Sources
from collector.spool import Spool, SpoolConfig, SpoolError
from collector.track.observer import Observer, ObserverConfig, Ports
from collector.track.sessions import BindingChange
from collector.track.trackers import (
    JournalEvent,
    Trackers,
    TrackersConfig,
    control_event,
    split_event,
    split_prefix_event,
)
from collector.uplink import Uplink, UplinkConfig
from collector.uplink_tls import Identity
from collector.window import Piece, Window
from collector.wire.addr import MAPPED, pack
from collector.wire.batch import BatchError
from collector.wire.gaps import MAX_LOSSES, merge
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
_POLL_S: Final = 0.1
"""Longest sleep: timers are late by no more, and an event is on disk within it."""
_FRAMES: Final = 512
"""Frames of one source between two looks at the clock."""
_ALIVE_NS: Final = 5 * SECOND_NS
"""How often the journal says that the collector runs, which bounds the gap after a SIGKILL."""
_DRAIN_S: Final = 10.0
_DOWN: Final = ("session", "binding", "call", "mapping")
"""What packets carry, and so what nobody saw while no collector ran; visits tell it themselves."""


class Collector:
    """A collector of one router. Inert until `start`; `run` returns when `stopping` says so."""

    def __init__(
        self,
        config: Config,
        now: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
        replace_table: bool = False,
    ) -> None:
        self.config = config
        self._replace_table = replace_table
        self._now, self._monotonic = now, monotonic
        self.boot = uuid.uuid4().hex
        self.started_ns = now()
        access = config.access
        self.trackers = Trackers(_trackers_config(config), self.started_ns)
        self.observer = Observer(ObserverConfig({}, _ports(config), _secrets(config)))
        self.window = Window(config.timing.window_s * SECOND_NS, config.name)
        self.spool = Spool(
            SpoolConfig(config.spool.folder, config.name, config.spool.max_bytes), self.boot
        )
        self.journal = Journal(config.spool.folder / "journal", now=now)
        self.uplink = Uplink(_uplink_config(config), self.spool, now=now)
        host, _, port = config.metrics.listen.rpartition(":")
        self.metrics = Metrics(host.strip("[]"), int(port))
        self.conntrack = ConntrackEvents(
            ConntrackConfig(receive_buffer_bytes=config.limits.receive_buffer_bytes), now
        )
        self.decoder = Decoder()
        self.sources = Sources(config, self.observer, now)
        self.rows: Counter[str] = Counter()
        self.gaps: Counter[tuple[str, str]] = Counter()
        self._nft = NftConfig(access.interfaces, access.prefixes, access.ipv6_prefix_len)
        self._sets = SetReader(access.ipv6_prefix_len, now)
        self._losses: list[Loss] = []
        self._held: tuple[int, int, list[Piece]] | None = None
        self._next_dump_ns = self._next_tick_ns = self._next_alive_ns = 0

    def start(self) -> None:
        """Take the spool, the counters and the sockets, and go on where the last run ended.

        Raises OSError, SpoolError or JournalError with what to do; nothing is left running then.
        """
        try:
            self.metrics.start()
            netlink.prepare()
            self.spool.start()
            self._resume()
            self.conntrack.start()
            self.sources.refresh()
            self.uplink.start()
        except BaseException:
            self.stop()
            raise
        log.info(
            "collector %s meters %s", self.config.name, ", ".join(self.config.access.interfaces)
        )

    def run(self, stopping: Callable[[], bool]) -> None:
        """Meter until `stopping()`; then close the open window and spool it."""
        while not stopping():
            self.step()
        self.close_window()

    def stop(self) -> None:
        """Send what is spooled while the aggregator answers, and let everything go."""
        if self.uplink.state != "stopped":
            self.uplink.drain(_DRAIN_S)
            self.uplink.stop()
        self.sources.stop()
        self.conntrack.stop()
        self.journal.close()
        self.spool.stop()
        self.metrics.stop()

    def step(self) -> None:
        """One turn of the loop: what waits at the sockets, then what time demands."""
        self.sources.select(_POLL_S, also=self.conntrack.fileno())
        self._receive()
        now = self._now()
        loss = self.window.clock(now, self._monotonic())
        if loss:
            log.warning("the clock was set by %.3f s; a gap record says so", loss.amount / 1e9)
            self._losses.append(loss)
        if now >= self._next_tick_ns or now < self._next_tick_ns - SECOND_NS:
            self._next_tick_ns = now + SECOND_NS
            self._tick(now)
        if now >= self._next_dump_ns:
            self._dump()
        if self._held:
            self._commit(*self._held)
        elif self.window.due(now) or self.journal.is_full:
            self.close_window()
        self._sync()

    def close_window(self) -> None:
        """Read every counter, take the rows of the window and commit them with the state."""
        if self._held:
            self._commit(*self._held)
            if self._held:
                return
        self._receive()
        now = self._now()
        start, end = self.window.bounds(now)
        self._read_counters()
        self._dump()
        for change in self.trackers.tick(now):
            self._split(change)
        taken = self.trackers.take(start, end, now)
        losses = [*self._losses, *self.trackers.losses(), *self.observer.losses(now)]
        losses += [*self.conntrack.losses(), *self.sources.losses(now)]
        self._losses = []
        self._commit(start, end, self.window.close(start, end, now, taken, losses))

    def _commit(self, start: int, end: int, pieces: list[Piece]) -> None:
        """Batch and state in one commit; where the disk refuses, the rows are held and retried."""
        last = self.spool.last_sequence + len(pieces)
        try:
            self.journal.rotate(last, self._snapshot())
            headers = self.spool.commit_all(
                window_start_ns=start,
                window_end_ns=end,
                created_ns=self._now(),
                pieces=[piece.columns for piece in pieces],
            )
        except (SpoolError, JournalError, BatchError) as error:
            if self._held is None:
                log.error("the window is kept in memory and tried again: %s", error)
            self._held = (start, end, pieces)
            time.sleep(_POLL_S)
            return
        self._held = None
        try:
            self.journal.committed(last)
        except JournalError as error:
            # Not held: the rows are in the spool, and a second commit would spool them twice.
            log.error("the journal was not shortened, which the next window does: %s", error)
        tally(self, headers, pieces)
        self.uplink.wake()
        publish(self)

    def _snapshot(self) -> dict[str, object]:
        return {
            "trackers": self.trackers.snapshot(),
            "window": self.window.snapshot(),
            "now_ns": self._now(),
        }

    def _resume(self) -> None:
        """Restore the state of the last committed batch and replay what came after it."""
        snapshot, events = self.journal.load(self.spool.last_sequence)
        self._losses += self.journal.losses
        self.started_ns = now = self._now()
        self.trackers = Trackers(_trackers_config(self.config), now)
        installed = install(self._nft, self._now, self._replace_table)
        alive_ns = now
        if snapshot is not None:
            self.trackers.restore(snapshot["trackers"], now)
            self.window.restore(snapshot["window"], now)
            alive_ns = int(snapshot["now_ns"])
        else:
            self.window.open(now)
        for kind, payload in events:
            alive_ns = max(alive_ns, int(payload.get("ts_ns", 0)))
            self.trackers.apply(kind, payload, now)
        if installed.final is not None:
            self.trackers.volume.observe(installed.final, restart=snapshot is not None)
        if installed.action in ("created", "replaced"):
            self.trackers.volume.begin(installed.generation, installed.ts_ns)
        self.trackers.volume.observe(self._sets.read_sets(), restart=snapshot is not None)
        if snapshot is not None or events:
            self._losses.append(
                Loss(min(alive_ns, now), now, "capture", "restart", -1, "packets", _DOWN)
            )
        self._next_dump_ns = now + int(self.config.timing.dump_s * 1e9)

    def _receive(self) -> None:
        """Take what the sockets hold, in bounded pieces."""
        for frame in self.sources.read(_FRAMES):
            for event in self.observer.frame(frame):
                if isinstance(event, Accounting | AccountingAck | SipEvent):
                    self._record(control_event(event))
                else:
                    self.trackers.observed(event)
        messages = self.conntrack.read()
        if len(messages):
            self.trackers.destroyed(self.decoder.decode(messages), self._now())

    def _record(self, event: JournalEvent) -> None:
        """Write an event to the journal, then apply it and split volume where it says so."""
        kind, payload = event
        try:
            self.journal.append(kind, payload)
        except JournalError as error:
            # Metering goes on: only a crash before the next window would now lose the event.
            log.error("an event is not in the journal: %s", error)
        for change in self.trackers.apply(kind, payload, self._now()):
            self._split(change)

    def _split(self, change: BindingChange) -> None:
        """Read the counter of an address whose binding changed, so that its row ends here."""
        is_ipv4 = change.address[:12] == MAPPED
        metered = 128 if is_ipv4 else self.config.access.ipv6_prefix_len
        try:
            if change.prefix_len >= metered:
                self._record(split_event(self._sets.read_one(change.address)))
            else:
                self._record(split_prefix_event(self._sets.read_sets(), change))
        except NftUnavailable as error:
            log.error("a counter could not be read at a binding change: %s", error)
            now = self._now()
            self._losses.append(Loss(now, now + 1, "volume", "unsplit", 1, "events", ("usage",)))

    def _read_counters(self) -> None:
        try:
            self.trackers.volume.observe(self._sets.read_sets())
            self.trackers.links.observe(self.sources.read_links())
        except NftUnavailable as error:
            # The kernel counts on: the next reading has what this one would have had.
            log.error("the counters could not be read: %s", error)
            if isinstance(error, FileNotFoundError) or "not installed" in str(error):
                installed = install(self._nft, self._now)
                self.trackers.volume.begin(installed.generation, installed.ts_ns)

    def _dump(self) -> None:
        """Read long flows; the time of the next dump follows from the end of this one."""
        try:
            found = dump(self._now)
            rows = self.decoder.decode(found.messages)
            self.trackers.dumped(rows, found.began_ns, found.complete)
        except OSError as error:
            log.error("the conntrack table could not be read: %s", error)
        self._next_dump_ns = self._now() + int(self.config.timing.dump_s * 1e9)

    def _tick(self, now: int) -> None:
        for change in self.trackers.tick(now):
            self._split(change)
        self.observer.tick(now)
        self.sources.refresh()
        self._losses += self.sources.losses(now)
        if len(self._losses) > 2 * MAX_LOSSES:
            self._losses = merge(self._losses)
        if now >= self._next_alive_ns:
            self._next_alive_ns = now + _ALIVE_NS
            self._record(("alive", {"ts_ns": now}))
        publish(self)

    def _sync(self) -> None:
        try:
            self.journal.sync()
        except JournalError as error:
            log.error("the journal is not on disk: %s", error)


def _trackers_config(config: Config) -> TrackersConfig:
    return TrackersConfig(
        access=config.access.networks(),
        window_ns=config.timing.window_s * SECOND_NS,
        ipv6_prefix_len=config.access.ipv6_prefix_len,
        region=config.control.numbering_region,
        subscriber_from=config.control.subscriber_from,
        interim_s=config.control.interim_s,
        resolver_ports=config.hosts.dns_ports,
        max_sessions=config.limits.max_sessions,
        max_calls=config.limits.max_calls,
        max_flows=config.limits.max_flows,
    )


def _ports(config: Config) -> Ports:
    return Ports(
        dns=config.hosts.dns_ports,
        tls=config.hosts.tls_ports,
        http=config.hosts.http_ports,
        quic=config.hosts.quic_ports,
        radius=config.control.radius_ports,
        sip=config.control.sip_ports,
    )


def _secrets(config: Config) -> dict[bytes, bytes]:
    """Shared secrets by NAS address; read once, from files that only the collector can read."""
    return {
        pack(nas): Path(path).read_bytes().strip()
        for nas, path in config.control.radius_secrets.items()
    }


def _uplink_config(config: Config) -> UplinkConfig:
    link = config.uplink
    return UplinkConfig(
        url=link.url,
        identity=Identity(link.ca, link.cert, link.key),
        request_timeout_s=link.timeout_s,
    )
