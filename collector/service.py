"""The collector's one loop: kernel sockets and clocks in, durable batches in the spool out.

    sockets ready -> observer -> journal -> trackers
    window due    -> read counters -> take rows -> journal state + spool batch (one commit)

One thread owns all state. The uplink has a thread of its own that only reads spool files, and
the metrics server only reads the last published snapshot; neither can stall the loop.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Final

from collector import build, build_safeguard, hygiene
from collector.capture.conntrack_table import prepare
from collector.capture.detail import DetailFiles
from collector.capture.exports import ExportSocket
from collector.capture.links import LinksUnavailable
from collector.capture.netlink import ConntrackEvents
from collector.capture.netlink_dump import dump
from collector.capture.packet import CaptureUnavailable
from collector.config import Config
from collector.counters import Counters
from collector.held import Held
from collector.journal import Journal
from collector.keeper import Keeper
from collector.lines import Lines
from collector.metrics import Metrics
from collector.parse.conntrack import Decoder
from collector.report import publish, tally
from collector.resume import resume
from collector.sources import Sources
from collector.spool import Spool, SpoolError
from collector.survival import Survival
from collector.timers import gather_ns, wait_s
from collector.track.journal_events import Control, JournalEvent, control_event
from collector.track.observer import Event, Observer, ObserverConfig
from collector.track.safeguard.tracker import Randomness
from collector.track.sessions import BindingChange
from collector.track.trackers import Trackers, touches_calls
from collector.uplink import Uplink

log = logging.getLogger(__name__)

SECOND_NS: Final = 1_000_000_000
_FRAMES: Final = 512
"""Frames, datagrams or records of one source between two looks at the clock."""
_TICK_NS: Final = SECOND_NS
_CHECK_NS: Final = 5 * SECOND_NS
"""How often the journal says that the collector runs, which bounds the gap after a SIGKILL, and
how often the kernel's table is looked after, which bounds what a flushed ruleset costs."""
_TURNS: Final = range(16)
"""Batches that a closing window waits for: ended flows are no more in the largest buffer."""
_DRAIN_S, _DRAINS = 0.5, range(20)


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
        self._now, self._monotonic = now, monotonic
        self.boot = uuid.uuid4().hex
        self.started_ns = now()
        self.trackers = self._new_trackers()
        self.lines = Lines(config.lines.subscribers)
        self._secrets: dict[bytes, bytes] = {}  # read by `start`; the observer sees them then
        self.observer = Observer(
            ObserverConfig({}, build.ports(config), self._secrets, build_safeguard.targets(config))
        )
        self.window = build.window(config)
        self.spool = Spool(build.spool_config(config), self.boot)
        self.journal = Journal(config.spool.folder / "journal", now=now)
        self.uplink = Uplink(build.uplink_config(config), self.spool, now=now)
        host, _, port = config.metrics.listen.rpartition(":")
        self.metrics = Metrics(host.strip("[]"), int(port))
        self.conntrack = ConntrackEvents(build.conntrack_config(config), now)
        self.details = DetailFiles(config.control.detail_files, now)
        self.exports = ExportSocket(build.exports_config(config), now)
        self.decoder = Decoder()
        self.sources = Sources(config, self.observer, now)
        self.counters = Counters(build.nft_config(config), now, replace_table)
        self.rows: Counter[str] = Counter()
        self.gaps: Counter[tuple[str, str]] = Counter()
        self.survive = Survival()
        self._tick_at = self._check_at = self._dump_at = self._flows_at = 0
        self.keeper = Keeper(self.journal, self.spool, now, monotonic, self._state)

    def start(self) -> None:
        """Take spool, counters and sockets, and go on where the last run ended. Raises OSError,
        SpoolError, JournalError, RestartNeeded or ValueError; nothing is left running then."""
        try:
            if self.trackers.safeguard:
                for missing in hygiene.harden():
                    log.warning("SafeGuard: %s", missing)
            self._secrets.update(build.secrets(self.config))
            self.lines.refresh()
            self.metrics.start()
            for name in prepare().changed:
                log.info("set net.netfilter.%s=1", name)
            self.spool.start()
            is_anchored = self._resume()
            self.conntrack.start()
            self.exports.start()
            self.details.start(self.trackers.places)
            self.sources.refresh()
            self.uplink.start()
            if not is_anchored:
                # From here on a crash has a state to go by, and so no second baseline.
                self.close_window()
        except BaseException:
            self.stop()
            raise
        interfaces = ", ".join(self.config.access.interfaces)
        log.info("collector %s meters %s", self.config.name, interfaces)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Meter until `stopping()`; then close the open window and spool it. Raises
        RestartNeeded, and OSError where the kernel gives no more events."""
        while not stopping():
            self.step()
        self.close_window()
        if self.keeper.held:
            log.warning("the last window is not in the spool; the journal has what it needs")

    def wake(self) -> None:
        """Have `run` ask `stopping` now; for signal handlers and other threads."""
        self.sources.wake()

    def stop(self) -> None:
        """Send what is spooled while the aggregator answers, and let everything go."""
        if self.trackers.safeguard:
            self.trackers.safeguard.wipe()
        with ExitStack() as stack:
            stack.callback(self.metrics.stop)
            stack.callback(self.spool.stop)
            stack.callback(self.journal.close)
            stack.callback(self.conntrack.stop)
            stack.callback(self.exports.stop)
            stack.callback(self.details.stop)
            stack.callback(self.sources.stop)
            if self.uplink.state != "stopped":
                stack.callback(self.uplink.stop)
                with suppress(SpoolError):  # one that failed has nothing to give until a restart
                    # Nobody meters meanwhile: an aggregator that is away is not waited for.
                    any(self.uplink.drain(_DRAIN_S) or self.uplink.last_error for _ in _DRAINS)

    def step(self) -> None:
        """One turn of the loop: what waits at the sockets, then what time demands."""
        self._receive(self._wait_s())
        now, monotonic = self._now(), self._monotonic()
        loss = self.window.clock(now, monotonic)
        if loss:
            log.warning("the clock was set by %.3f s; a gap record says so", loss.amount / 1e9)
            self.keeper.lose([loss])
        if monotonic >= self._tick_at:
            self._tick_at = monotonic + _TICK_NS
            self._tick(now, monotonic)
        if monotonic >= self._dump_at:
            self._dump()
        held = self.keeper.held
        if held is None and (self.window.due(now) or self.keeper.wants_window):
            self.close_window()
        elif held is not None and monotonic >= held.due_ns:
            self._commit(held)
        self.keeper.sync()

    def close_window(self) -> None:
        """Read every counter, take the rows of the window and commit them with the state."""
        if self.keeper.held and not self._commit(self.keeper.held):
            return
        self._receive(0)
        any(self._end_flows() for _ in _TURNS)
        self.keeper.lose(self.counters.read(self.trackers.volume))
        try:
            self.trackers.links.observe(self.sources.read_links())
        except LinksUnavailable as error:  # counters go on: the next reading has it all
            log.error("the interfaces could not be read: %s", error.strerror)
        self.trackers.reconcile()  # before flows hear of what came after the reading
        any(not self._receive(0) for _ in _TURNS)  # the reading has packets of sessions begun then
        self._dump()
        now = self._now()
        start, end = self.window.bounds(now)
        self.survive(self._pass, now)
        self._collect(now)
        self.keeper.lose(self.sources.unheard(start, end))
        taken = self.trackers.take(start, end, now)
        losses = [*self.keeper.take_losses(), *self.trackers.losses()]
        self._commit(Held(start, end, self.window.close(start, end, now, taken, losses)))
        if self.trackers.safeguard:
            self.sources.wipe()

    def _commit(self, held: Held) -> bool:
        """Spool a window; false where it is held instead."""
        headers = self.keeper.commit(held)
        if headers:
            tally(self, headers, held.pieces)
            self.uplink.wake()
            publish(self)
        return bool(headers)

    def _state(self) -> dict[str, object]:
        return {"trackers": self.trackers.snapshot(), "window": self.window.snapshot()}

    def _new_trackers(self) -> Trackers:
        randomness = Randomness(os.urandom, hygiene.fill_random)
        return Trackers(build.trackers_config(self.config), self.started_ns, randomness)

    def _resume(self) -> bool:
        """Go on where the last run ended; false where there was no last reading of counters."""
        self.started_ns = now = self._now()
        self.trackers = self._new_trackers()
        found = resume(self.journal, self.spool.last_sequence, self.trackers, self.window, now)
        volume = self.trackers.volume
        self.counters.start(volume, found.is_restart, self.trackers.sessions.held)
        if found.since_ns and not found.is_anchored:
            # What the counters had at the state that is gone is not known, nor so what was lost.
            found.losses += [
                replace(each, start_ns=found.since_ns, amount=-1) for each in volume.take_losses()
            ]
        self.keeper.lose(found.losses)
        self._dump_at = self._monotonic() + int(self.config.timing.dump_s * SECOND_NS)
        return found.is_anchored

    def _wait_s(self) -> float:
        """Seconds until something is due that no descriptor tells of."""
        now, held = self._monotonic(), self.keeper.held
        end_at = held.due_ns if held else now + self.window.end_ns - self._now()
        gathered = [self._flows_at] if self._flows_at > now else []
        polled = self.details.is_polled or self.conntrack.is_watched
        return wait_s(now, [self._tick_at, self._dump_at, end_at, *gathered], polled)

    def _receive(self, most_s: float) -> bool:
        """Wait for what comes, at most so long, and take it in pieces; whether anything came."""
        flows = (self.conntrack.fileno(),) if self._monotonic() >= self._flows_at else ()
        exports = self.exports.descriptors
        ready = self.sources.select(most_s, (*flows, *exports))
        for frame in self.sources.read(_FRAMES, ready):
            self.survive(self._observe, self.observer.frame, frame)
        for record in self.details.read(_FRAMES):
            self.survive(self._record, record)
        for event in self.exports.read(_FRAMES) if ready.intersection(exports) else ():
            self.survive(self.trackers.observed, event)
        if ready.intersection(flows) or self.conntrack.is_watched:
            self._end_flows()
        return bool(ready)

    def _end_flows(self) -> bool:
        """Take flows that ended, at most a batch; false where more may wait."""
        messages = self.conntrack.read()
        if len(messages):
            now = self._now()
            self.survive(lambda: self.trackers.destroyed(self.decoder.decode(messages), now))
        is_all = len(messages) < self.conntrack.batch
        if is_all:
            self._flows_at = self._monotonic() + gather_ns(self.conntrack.receive_buffer_bytes)
        return is_all

    def _observe(self, read: Callable[[Any], list[Event]], given: Any) -> None:
        for event in map(self.lines.resolved, read(given)):
            if isinstance(event, Control):
                self._record(control_event(event))
            else:
                self.trackers.observed(event)

    def _pass(self, now: int) -> None:
        """Let time pass."""
        self._observe(self.observer.tick, now)
        self._split(self.trackers.tick(now))

    def _record(self, event: JournalEvent) -> None:
        """Write an event to the journal, then apply it and split volume where it says so."""
        kind, payload = event
        self.keeper.append(kind, payload)
        self._split(self.trackers.apply(kind, payload, self._now()))

    def _split(self, changes: list[BindingChange]) -> None:
        """Read the counters of addresses whose binding changed, so that their rows end here."""
        if changes:
            events, losses = self.counters.events(changes)
            for event in events:
                self._record(event)
            self.keeper.lose(losses)

    def _collect(self, now: int) -> None:
        """Losses of all but the trackers, whose own a replay or the next reading tells again."""
        found = [*self.sources.losses(now), *self.conntrack.losses(), *self.observer.losses(now)]
        found += [*self.details.losses(), *self.survive.losses(now)]
        self.keeper.lose(found)
        if any(map(touches_calls, found)):
            self._record(("interrupt", {"ts_ns": now}))

    def _dump(self) -> None:
        """Read long flows; the time of the next dump follows from the end of this one."""
        try:
            found = dump(self._now)
            rows = self.decoder.decode(found.messages)
            self.trackers.dumped(rows, found.began_ns, found.complete)
        except OSError as error:  # the counters are cumulative: the next dump has it all
            log.error("the conntrack table could not be read: %s", error.strerror)
        self._dump_at = self._monotonic() + int(self.config.timing.dump_s * SECOND_NS)

    def _tick(self, now: int, monotonic: int) -> None:
        self.survive(self._pass, now)
        self.lines.refresh()
        try:
            self.sources.refresh()
        except (LinksUnavailable, CaptureUnavailable) as error:
            log.error("interfaces cannot be captured: %s", error.strerror)
        self._collect(now)
        if monotonic >= self._check_at:
            self._check_at = monotonic + _CHECK_NS
            self.keeper.lose(self.counters.check(self.trackers.volume))
            self.keeper.append("alive", {"ts_ns": now})
        self.keeper.settle()
        publish(self)
