"""The sessions known, open and lately ended: turns ends, silence and reuse into their last rows.

`advance` runs their timers: a midnight closes a day's slice, and a session silent for too long, or
past the time it was given, ends as inferred. The rows go to the `Versions` given.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from collector.parse import radius
from collector.parse.radius import Accounting
from collector.track.losses import Losses
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import BindingTable, held_by
from collector.track.session_config import SessionsConfig
from collector.track.session_nas import NasTable
from collector.track.session_state import (
    BOUNDED,
    CERTAIN,
    STATED,
    Key,
    Prefix,
    Session,
    next_midnight,
)
from collector.track.versions import Versions
from collector.wire.addr import MAPPED
from collector.wire.records import SESSION_OPEN_ACROSS_RESTART

STALE_FACTOR_HALVES: Final = 5
"""A session is stale after 2.5 interim intervals: two lost in a row and half of jitter."""
STOP_GRACE_NS: Final = 60 * SECOND_NS
"""Past a Session-Timeout, for the Stop that it causes to arrive."""


class Known(Enum):
    """What is known of the session an event names."""

    NONE = "none"
    OPEN = "open"
    ENDED = "ended"
    INFERRED = "inferred"


class SessionTable:
    """Sessions by key, least lately proven first; `counts` is the tracker's and added to."""

    def __init__(
        self, config: SessionsConfig, out: Versions, counts: dict[str, int], losses: Losses
    ) -> None:
        self._config = config
        self._out = out
        self._counts = counts
        self._losses = losses
        self.nas = NasTable(config.max_nas)
        self.bindings = BindingTable(out, config.ipv6_prefix_len, config.max_ended)
        self._open: OrderedDict[Key, Session] = OrderedDict()
        self._ended: OrderedDict[Key, Session] = OrderedDict()
        self._ports: dict[str, Key] = {}
        self._timers: list[tuple[int, Key]] = []
        self._restart_ns = 0
        self._unmarked = False

    def __len__(self) -> int:
        """Sessions open now."""
        return len(self._open)

    def get(self, key: Key) -> Session | None:
        """The session of that key, open or lately ended."""
        return self._open.get(key) or self._ended.get(key)

    def opened(self, key: Key) -> Session:
        """The open session of that key; raises KeyError where it is not open."""
        return self._open[key]

    def known(self, key: Key) -> tuple[Known, Session | None]:
        """What is known of a key, and its session where there is one."""
        session = self._open.get(key)
        if session is not None:
            return Known.OPEN, session
        session = self._ended.get(key)
        if session is None:
            return Known.NONE, None
        return (Known.ENDED if session.end_reason == STATED else Known.INFERRED), session

    # Open sessions

    def make_room(self, now_ns: int) -> bool:
        """Room for one more, by ending the session silent longest; False where there is none."""
        if len(self._open) < self._config.max_sessions:
            return True
        if not self._open:
            return False
        session = next(iter(self._open.values()))
        self._losses.add(session.proof_ns, now_ns, "session-evicted")
        self._counts["evicted"] += 1
        self.infer(session, 0, "evicted", now_ns)
        return True

    def put(self, session: Session) -> None:
        """Adds an open session, which may have been an ended one."""
        key = session.key
        self._ended.pop(key, None)
        self._open[key] = session
        self.nas[session.nas].open[key] = None

    def prove(self, session: Session, at: int) -> None:
        """A proof of life, which makes it the last to give way."""
        session.proof_ns = at
        self._open.move_to_end(session.key)

    def claim_port(self, session: Session, event: Accounting, at: int) -> None:
        """A new session on the same port and MAC ends the one before it."""
        if not session.line or not event.calling or event.verified == radius.BAD:
            return
        session.port_key = f"{session.nas}\0{session.line}\0{event.calling}"
        before = self._open.get(self._ports.get(session.port_key, ("", 0, "")))
        if before is not None and before is not session and before.proof_ns <= at:
            self.infer(before, at, "port-reused", event.ts_ns)
        self._ports[session.port_key] = session.key

    def bind(self, session: Session, event: Accounting, at: int) -> None:
        """Compares what the event says is held with what was; each kind of address for itself."""
        for kind, prefixes in held_by(event).items():
            self.bindings.drop_others(session, kind, prefixes, at, event.ts_ns)
            for prefix in prefixes:
                if all(b.prefix != prefix for b in session.bindings):
                    self._open_binding(session, event, kind, prefix, at)

    def _open_binding(
        self, session: Session, event: Accounting, kind: str, prefix: Prefix, at: int
    ) -> None:
        """Opens a binding; whoever held the prefix until now lost it without saying so."""
        address, length = prefix
        if address[:12] != MAPPED and length < self._config.min_ipv6_prefix_len:
            self._counts["wide_prefixes"] += 1
            return
        proven = session.proof_ns
        key = self.bindings.holder(prefix)
        if key is not None:
            holder = self._open[key]
            theirs = next(b for b in holder.bindings if b.prefix == prefix)
            if event.verified == radius.BAD or proven < max(theirs.from_ns, holder.proof_ns):
                self._counts["held_elsewhere"] += 1
                return
            self.infer(holder, proven, "address-reused", event.ts_ns)
        certainty = CERTAIN if at == proven or event.status == radius.START else BOUNDED
        self.bindings.open(session, kind, prefix, at, certainty, event.ts_ns)

    # Ends

    def infer(self, session: Session, end_max: int, why: str, at: int) -> None:
        """Ends a session that did not say so: it lasted at least until its last proof of life."""
        for binding in session.bindings:
            binding.certainty = BOUNDED
        self._counts["inferred_ends"] += 1
        self.end(session, session.proof_ns, end_max, "inferred:" + why, at)

    def end(self, session: Session, end: int, end_max: int, reason: str, at: int) -> None:
        """Ends a session between `end` and `end_max` (0: unknown); it became known at `at`."""
        session.end_ns, session.end_max_ns = end, max(end, end_max) if end_max else 0
        session.end_reason = reason
        for binding in session.bindings:
            self.bindings.close(session, binding, end, at)
        session.write_closed(self._out, at)
        key = session.key
        session.timer_ns = 0
        self._open.pop(key, None)
        self.nas[session.nas].open.pop(key, None)
        if self._ports.get(session.port_key) == key:
            del self._ports[session.port_key]
        self._ended[key] = session
        if len(self._ended) > self._config.max_ended:
            self._ended.popitem(last=False)

    def trim(self, now_ns: int) -> None:
        """Forgets ended sessions that are past their time."""
        while self._ended:
            first = next(iter(self._ended.values()))
            if max(first.end_ns, first.end_max_ns) >= now_ns - self._config.ended_ns:
                break
            self._ended.popitem(last=False)

    # Timers

    def arm(self, session: Session) -> None:
        """Sets the timer to the next midnight or to when silence will count as the end."""
        due = next_midnight(session.slice_ns)
        stale, _ = self._stale_ns(session)
        if stale:
            due = min(due, stale)
        if not session.timer_ns or due < session.timer_ns:
            session.timer_ns = due
            heapq.heappush(self._timers, (due, session.key))

    def advance(self, now_ns: int) -> None:
        """Runs the timers that are due, in order of their time."""
        while self._timers and self._timers[0][0] <= now_ns:
            due, key = heapq.heappop(self._timers)
            session = self._open.get(key)
            if session is None or session.timer_ns != due:
                continue
            session.timer_ns = 0
            stale, why = self._stale_ns(session)
            if stale and stale <= due:
                end_max = stale
                if why == "session-timeout":
                    end_max = max(session.start_ns + session.timeout_ns, session.proof_ns)
                self.infer(session, end_max, why, due)
            else:
                session.roll(self._out, due)
                self.arm(session)
        self._mark(now_ns)

    def _stale_ns(self, session: Session) -> tuple[int, str]:
        """When a silent session counts as ended, and why; 0 where nothing says so."""
        interval = session.interval_ns or self._config.interim_interval_s * SECOND_NS
        interval = interval or self.nas[session.nas].learned_ns
        # While no collector ran, silence meant nothing.
        heard = max(session.proof_ns, self._restart_ns)
        due, why = 0, ""
        if interval:
            due, why = heard + interval * STALE_FACTOR_HALVES // 2, "stale"
        if session.timeout_ns:
            limit = max(session.start_ns + session.timeout_ns, heard) + STOP_GRACE_NS
            if not due or limit < due:
                due, why = limit, "session-timeout"
        return due, why

    # Restart

    def _mark(self, at_ns: int) -> None:
        """Flags what is open when the first event after the restart comes, once."""
        if self._unmarked and at_ns >= self._restart_ns:
            self._unmarked = False
            for session in self._open.values():
                session.flags |= SESSION_OPEN_ACROSS_RESTART

    def snapshot(self) -> dict[str, object]:
        """JSON-able state without the rows, which are the tracker's."""
        return {
            "open": [session.to_json() for session in self._open.values()],
            "ended": [session.to_json() for session in self._ended.values()],
            "nas": self.nas.snapshot(),
            "released": self.bindings.snapshot(),
        }

    def restore(self, state: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot; no session was heard of until `now_ns`."""
        self.nas.restore(state["nas"])
        self._ended = OrderedDict(_keyed(state["ended"]))
        self._open = OrderedDict(_keyed(state["open"]))
        self.bindings.restore(state["released"], list(self._open.values()))
        self._restart_ns, self._unmarked = now_ns, True
        for key, session in self._open.items():
            self.nas[key[0]].open[key] = None
            if session.port_key:
                self._ports[session.port_key] = key
            self.arm(session)


def _keyed(states: list[dict[str, Any]]) -> Iterator[tuple[Key, Session]]:
    for state in states:
        session = Session.from_json(state)
        yield session.key, session
