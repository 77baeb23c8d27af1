"""The sessions known, open and lately ended: turns ends, silence and reuse into their last rows.

`advance` runs their timers: a midnight closes a day's slice, and a session silent for too long, or
past the time it was given, ends as inferred. The rows go to the `Versions` given.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from collector.track.losses import Losses
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import BindingTable, Held, Said
from collector.track.session_config import SessionsConfig
from collector.track.session_index import SessionIndex
from collector.track.session_nas import NasTable
from collector.track.session_state import (
    ACCOUNTING,
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


BEGIN_NS: Final = 120 * SECOND_NS
"""A lease is given just before the session that it is part of is accounted for: seconds with
IPoE, within which a DHCP client repeats itself (RFC 2131 section 4.1: up to 64 s)."""

_NOBODY: Final = ("", 0, "")


class Known(StrEnum):
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
        self._index = SessionIndex()
        self._timers: list[tuple[int, Key]] = []
        self._trim_ns = 0
        """When the first of the ended is past its time, at the earliest."""
        self._restart_ns = 0
        self._unmarked = False

    def __len__(self) -> int:
        """Sessions open now."""
        return len(self._open)

    def get(self, key: Key) -> Session | None:
        """The session of that key, open or lately ended."""
        return self._open.get(key) or self._ended.get(key)

    def opens(self, key: Key) -> Session | None:
        """The open session of that key."""
        return self._open.get(key)

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
        if self._ended.pop(key, None):
            self._trim_ns = 0
        session.settled = None
        self._open[key] = session
        self.nas[session.nas].open[key] = None

    def prove(self, session: Session, at: int) -> None:
        """A proof of life, which makes it the last to give way."""
        session.proof_ns = at
        self._open.move_to_end(session.key)

    def on_port(self, nas: str, line: str, calling: str) -> Session | None:
        """The open session of a port and MAC."""
        return self._open.get(self._index.on_port(nas, line, calling) or _NOBODY)

    def holder(self, prefix: Prefix) -> Session | None:
        """The open session that holds a prefix now."""
        return self._open.get(self.bindings.holder(prefix) or _NOBODY)

    def on_line(self, origin: str, *names: str) -> Session | None:
        """The open session of that origin by MAC or line: the first of `names` that one has."""
        return self._open.get(self._index.on_line(origin, names) or _NOBODY)

    def claim(self, session: Session, at: int, ts_ns: int) -> None:
        """Lets a session be found by its names; on its port and MAC it ends the one before it."""
        before = self._open.get(self._index.claim(session) or _NOBODY)
        if before is not None and before.proof_ns <= at:
            self.infer(before, at, "port-reused", ts_ns)

    def bind(self, session: Session, held: Held, at: int, said: Said) -> None:
        """Compares what is said to be held with what was; each kind of address for itself."""
        session.settled = None
        for kind, prefixes in held.items():
            if session.holds({kind: prefixes}):
                continue
            self.bindings.drop_others(session, kind, prefixes, at, said.ts_ns)
            for prefix in prefixes:
                if all(b.prefix != prefix for b in session.bindings):
                    self._open_binding(session, kind, prefix, at, said)

    def _open_binding(
        self, session: Session, kind: str, prefix: Prefix, at: int, said: Said
    ) -> None:
        """Opens a binding; whoever held the prefix until now lost it without saying so."""
        address, length = prefix
        if address[:12] != MAPPED and length < self._config.min_ipv6_prefix_len:
            self._counts["wide_prefixes"] += 1
            return
        proven = session.proof_ns
        key = self.bindings.holder(prefix)
        if key is not None and not self._give_way(self._open[key], session, prefix, said):
            self._counts["held_elsewhere"] += 1
            return
        certainty = CERTAIN if at == proven or said.is_stated else BOUNDED
        self.bindings.open(session, kind, prefix, at, certainty, said.source, said.ts_ns)

    def _give_way(self, holder: Session, session: Session, prefix: Prefix, said: Said) -> bool:
        """Ends the holder of a prefix for a session that has it now; False where the holder stays.

        Accounting knows of more than leases do, so beside it a lease of the same address says
        nothing new, and a lease that was followed at once by a session was the session's begin.
        """
        proven = session.proof_ns
        theirs = next(b for b in holder.bindings if b.prefix == prefix)
        if said.is_forged or proven < max(theirs.from_ns, holder.proof_ns):
            return False
        if holder.origin != ACCOUNTING and session.origin == ACCOUNTING:
            is_begin = proven - holder.start_ns <= BEGIN_NS
            self.supersede(holder, holder.start_ns if is_begin else proven, said.ts_ns)
        elif holder.origin == ACCOUNTING and session.origin != ACCOUNTING:
            return False
        else:
            self.infer(holder, proven, "address-reused", said.ts_ns)
        return True

    # Ends

    def supersede(self, session: Session, end: int, at: int) -> None:
        """Ends a lease that an accounted session took the place of, at its start as if it had never
        been where the two began together."""
        self.end(session, end, end, "inferred:superseded", at)

    def infer(self, session: Session, end_max: int, why: str, at: int) -> None:
        """Ends a session that did not say so: it lasted at least until its last proof of life.

        What a lease granted stays its holder's until the lease or `end_max` ends it.
        """
        for binding in session.bindings:
            binding.certainty = BOUNDED
        self._counts["inferred_ends"] += 1
        proof = session.proof_ns
        held = max(proof, min(session.lease_ns, end_max or at)) if session.lease_ns else proof
        self.end(session, proof, end_max, "inferred:" + why, at, held)

    def end(
        self, session: Session, end: int, end_max: int, reason: str, at: int, held: int = 0
    ) -> None:
        """Ends a session between `end` and `end_max` (0: unknown), and its bindings at `held` where
        that is given, else at `end`; it became known at `at`."""
        session.end_ns, session.end_max_ns = end, max(end, end_max) if end_max else 0
        session.end_reason = reason
        for binding in session.bindings:
            self.bindings.close(session, binding, held or end, at)
        session.write_closed(self._out, at)
        key = session.key
        session.timer_ns = 0
        self._open.pop(key, None)
        self.nas[session.nas].open.pop(key, None)
        self._index.release(session)
        self._ended[key] = session
        if len(self._ended) > self._config.max_ended:
            self._ended.popitem(last=False)
            self._trim_ns = 0

    def trim(self, now_ns: int) -> None:
        """Forgets ended sessions that are past their time."""
        while self._ended and now_ns > self._trim_ns:
            first = next(iter(self._ended.values()))
            self._trim_ns = max(first.end_ns, first.end_max_ns) + self._config.ended_ns
            if now_ns > self._trim_ns:
                self._ended.popitem(last=False)
                self._trim_ns = 0

    # Timers

    def arm(self, session: Session) -> None:
        """Sets the timer to the next midnight or to when silence will count as the end."""
        self._set(session, self._silence(session)[0])

    def _set(self, session: Session, silent: int) -> None:
        due = next_midnight(session.slice_ns)
        if silent:
            due = min(due, silent)
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
            silent, end_max, why = self._silence(session)
            if silent and silent <= due:
                self.infer(session, end_max, why, due)
            else:
                session.roll(self._out, due)
                self._set(session, silent)
        if self._unmarked:
            self._mark(now_ns)

    def _silence(self, session: Session) -> tuple[int, int, str]:
        """When a silent session counts as ended, its latest end, and why; 0 where nothing says so.

        The first of several reasons counts.
        """
        if session.lease_ns:
            return session.lease_ns, session.lease_ns, "lease-expired"
        interval = session.interval_ns or self._config.interim_interval_s * SECOND_NS
        interval = interval or self.nas[session.nas].learned_ns
        # While no collector ran, silence meant nothing.
        heard = max(session.proof_ns, self._restart_ns)
        found = []
        if interval and session.origin == ACCOUNTING:
            stale = heard + interval * STALE_FACTOR_HALVES // 2
            if not session.timeout_ns and session.ending_ns <= session.proof_ns:
                return stale, stale, "stale"
            found.append((stale, stale, "stale"))
        if session.timeout_ns:
            limit = session.start_ns + session.timeout_ns
            due = max(limit, heard) + STOP_GRACE_NS
            found.append((due, max(limit, session.proof_ns), "session-timeout"))
        if session.ending_ns > session.proof_ns:
            found.append((session.ending_ns + STOP_GRACE_NS, session.ending_ns, "disconnect-ack"))
        return min(found, default=(0, 0, ""))

    # Restart

    def _mark(self, at_ns: int) -> None:
        """Flags what is open when the first event after the restart comes, once."""
        if at_ns >= self._restart_ns:
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
        self._ended, self._trim_ns = OrderedDict(_keyed(state["ended"])), 0
        self._open = OrderedDict(_keyed(state["open"]))
        self.bindings.restore(state["released"], list(self._open.values()))
        self._index.restore(self._open)
        self._restart_ns, self._unmarked = now_ns, True
        for key, session in self._open.items():
            self.nas[key[0]].open[key] = None
            self.arm(session)


def _keyed(states: list[dict[str, Any]]) -> Iterator[tuple[Key, Session]]:
    for state in states:
        session = Session.from_json(state)
        yield session.key, session
