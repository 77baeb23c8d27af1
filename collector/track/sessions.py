"""Access sessions: turns accounting events into session rows, binding rows and binding changes.

Driven by `apply` (one event of `collector.parse.radius`), `tick` (time passed without one) and
`take` (a window closes). Timers run on the capture time of events, so a replay gives the same rows.
What an event does depends on its status and on what is known of its session: `RULES`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from collector.parse import radius
from collector.parse.radius import Accounting, AccountingAck
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import BindingChange, BindingTable, Key, held_by
from collector.track.session_facts import (
    SAME_NS,
    add_octets,
    describe,
    directions,
    fingerprint,
    same,
)
from collector.track.session_nas import Nas, NasTable, nas_name
from collector.track.session_state import (
    BOUNDED,
    CERTAIN,
    DERIVED,
    STATED,
    Prefix,
    Session,
    next_midnight,
    slice_of,
)
from collector.track.versions import Columns, Versions
from collector.wire.addr import MAPPED
from collector.wire.loss import Loss
from collector.wire.records import (
    SESSION_COUNTERS_DISAGREE,
    SESSION_OPEN_ACROSS_RESTART,
    record_id,
)

__all__ = ["RULES", "BindingChange", "Known", "Sessions", "SessionsConfig"]


class Known(Enum):
    """What is known of the session an event names."""

    NONE = "none"
    OPEN = "open"
    ENDED = "ended"
    INFERRED = "inferred"


RULES: Final[dict[tuple[int, Known], str]] = {
    (radius.START, Known.NONE): "_begin",
    (radius.START, Known.OPEN): "_start_again",
    (radius.START, Known.ENDED): "_start_after_end",
    (radius.START, Known.INFERRED): "_start_after_end",
    (radius.INTERIM, Known.NONE): "_begin",
    (radius.INTERIM, Known.OPEN): "_alive",
    (radius.INTERIM, Known.ENDED): "_after_end",
    (radius.INTERIM, Known.INFERRED): "_revive",
    (radius.STOP, Known.NONE): "_begin",
    (radius.STOP, Known.OPEN): "_stop",
    (radius.STOP, Known.ENDED): "_stop_again",
    (radius.STOP, Known.INFERRED): "_revive",
}
"""Handler by (Acct-Status-Type, knowledge). Each returns True where the event changed a record and
False where a rule ignores it. Accounting-On and -Off concern a NAS and go to `_reboot`."""

STALE_FACTOR_HALVES: Final = 5
"""A session is stale after 2.5 interim intervals: two lost in a row and half of jitter."""


@dataclass(frozen=True, slots=True)
class SessionsConfig:
    """Rules and limits; every limit bounds memory, the reason is with each.

    subscriber_from: first of these attributes that is present names the subscriber: cui, class,
    user_name, calling, line. ipv6_prefix_len: length by which volume counters key IPv6.
    interim_interval_s: 0 to learn it. swap_octets: NAS names that report from their own view.
    """

    subscriber_from: tuple[str, ...] = ("cui", "user_name")
    ipv6_prefix_len: int = 56
    interim_interval_s: int = 0
    line_speed_bps: int = 10_000_000_000
    swap_octets: frozenset[str] = frozenset()
    # Sixty-four thousand lines with an IPv4 and IPv6 session each, twice over.
    max_sessions: int = 262_144
    # Ended sessions are kept to tell resends from new ones; servers give up within minutes.
    max_ended: int = 65_536
    ended_ns: int = 3600 * SECOND_NS
    # RFC 5080 section 2.2.1 ends retransmission after 30 s; requests seen in that time.
    max_requests: int = 65_536
    request_ns: int = 120 * SECOND_NS
    max_nas: int = 4096
    # An event older than a day says more about a broken clock than about a session.
    max_delay_s: int = 86_400
    # A lost Start is derived at most this far back: each day of it is a row.
    max_derived_s: int = 31 * 86_400
    # A wider prefix than an ISP's own allocation (RIPE-738: /29 to an LIR) is no customer's.
    min_ipv6_prefix_len: int = 29
    max_losses: int = 1024


class Sessions:
    """The session table. `counts`: seen = recorded + ignored + lost, the rest explain them."""

    def __init__(self, config: SessionsConfig | None = None) -> None:
        self.config = config or SessionsConfig()
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "retransmissions", "duplicates", "bad")
            + ("late", "orphan_acks", "acked", "derived", "inferred_ends", "revived", "reboots")
            + ("held_elsewhere", "wide_prefixes", "duration_disagree", "counter_resets", "evicted"),
            0,
        )
        self._out = Versions("session", "binding")
        self._open: OrderedDict[Key, Session] = OrderedDict()
        self._ended: OrderedDict[Key, Session] = OrderedDict()
        self._nas = NasTable(self.config.max_nas)
        self._bindings = BindingTable(self._out, self.config.ipv6_prefix_len, self.config.max_ended)
        self._ports: dict[str, Key] = {}
        self._requests: OrderedDict[bytes, int] = OrderedDict()
        self._unacked: OrderedDict[tuple[bytes, int, int], Key] = OrderedDict()
        self._timers: list[tuple[int, Key]] = []
        self._losses: list[Loss] = []
        self._restart_ns = 0
        self._unmarked = False

    # Input

    def apply(self, event: Accounting | AccountingAck, now_ns: int) -> list[BindingChange]:
        """Takes one event; returns the bindings that changed, in order.

        All rules use the event's own time, so that a replay at another `now_ns` is the same.
        """
        self._advance(event.ts_ns)
        self._mark(event.ts_ns)
        self.counts["seen"] += 1
        done = self._ack(event) if isinstance(event, AccountingAck) else self._account(event)
        if done is not None:
            self.counts["recorded" if done else "ignored"] += 1
        return self._bindings.drain()

    def tick(self, now_ns: int) -> list[BindingChange]:
        """Lets time pass: midnights, stale sessions. Returns the bindings that changed."""
        self._advance(now_ns)
        self._mark(now_ns)
        return self._bindings.drain()

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows observed before `end_ns` that no earlier call returned."""
        return self._out.take(end_ns)

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    @property
    def open_sessions(self) -> int:
        """Sessions open now."""
        return len(self._open)

    def _mark(self, at_ns: int) -> None:
        """Flags what is open when the first event after the restart comes, once."""
        if self._unmarked and at_ns >= self._restart_ns:
            self._unmarked = False
            for session in self._open.values():
                session.flags |= SESSION_OPEN_ACROSS_RESTART

    # Events

    def _ack(self, event: AccountingAck) -> bool:
        """The server answered (RFC 2866 section 4.2)."""
        key = self._unacked.pop((event.client, event.client_port, event.identifier), None)
        session = None if key is None else self._open.get(key) or self._ended.get(key)
        if session is None:
            self.counts["orphan_acks"] += 1
            return False
        session.acked = 1
        self._out.amend(session.row_id, "acked", 1)
        self.counts["acked"] += 1
        return True

    def _account(self, event: Accounting) -> bool | None:
        """Deduplicates and dispatches a request; None where it was lost to a full table."""
        if event.transport in self._requests:
            return self._ignore("retransmissions")
        self._requests[event.transport] = event.ts_ns
        self._trim(event.ts_ns)
        name = nas_name(event)
        nas = self._nas.obtain(name)
        if nas is None:
            self._lose(event.ts_ns, event.ts_ns + 1, "nas-table-full")
            return None
        delay = min(event.delay_s or 0, self.config.max_delay_s)
        at = nas.clock.event_ns(event.ts_ns, delay, event.event_s)
        if event.status in (radius.ON, radius.OFF):
            return self._reboot(name, nas, event, at)
        if event.status not in (radius.START, radius.STOP, radius.INTERIM):
            return False
        # An event from before the reboot that was sent after it belongs to the epoch before.
        epoch = nas.epoch if at >= nas.on_ns else nas.epoch - 1
        key = (name, epoch, event.session_id)
        if not event.session_id:
            return False
        session = self._open.get(key)
        known = Known.OPEN
        if session is None:
            session = self._ended.get(key)
            known = Known.NONE
            if session is not None:
                known = Known.ENDED if session.end_reason == STATED else Known.INFERRED
        if event.verified == radius.BAD and (
            event.status == radius.STOP or known is not Known.NONE
        ):
            return self._ignore("bad")
        nas.quiet = False
        seen = [event.status, at, fingerprint(event)]
        if session is not None and same(session.seen, seen):
            self._expect_ack(event, key)
            return self._ignore("duplicates")
        handler = getattr(self, RULES[event.status, known])
        done: bool | None = handler(event, at, key, session)
        current = self._open.get(key) or self._ended.get(key)
        if current is not None:
            if done:
                current.seen = seen
            self._expect_ack(event, key)
        return done

    def _ignore(self, why: str) -> bool:
        self.counts[why] += 1
        return False

    def _expect_ack(self, event: Accounting, key: Key) -> None:
        self._unacked[event.client, event.client_port, event.identifier] = key
        if len(self._unacked) > self.config.max_requests:
            self._unacked.popitem(last=False)

    def _begin(self, event: Accounting, at: int, key: Key, old: Session | None) -> bool | None:
        """A session not seen before: by its Start, or derived from what it says of itself."""
        stated = event.status == radius.START
        back = min(event.session_s or 0, self.config.max_derived_s) * SECOND_NS
        start = at if stated else at - back
        if len(self._open) >= self.config.max_sessions and not self._evict(event.ts_ns):
            self._lose(event.ts_ns, event.ts_ns + 1, "session-table-full")
            return None
        session = Session(
            nas=key[0],
            epoch=key[1],
            acct_session_id=key[2],
            session_id=record_id("session-key", *key),
            start_ns=start,
            start_source=STATED if stated else DERIVED,
            slice_ns=start,
            proof_ns=at,
        )
        if not stated:
            self.counts["derived"] += 1
        self._ended.pop(key, None)
        self._open[key] = session
        self._nas[key[0]].open[key] = None
        describe(session, event, self.config.subscriber_from)
        self._count(session, event, at)
        self._claim_port(session, event, at)
        session.write_open(self._out, event.ts_ns)
        session.roll(self._out, at)
        self._bind(session, event, start)
        if event.status == radius.STOP:
            session.terminate_cause = -1 if event.terminate_cause is None else event.terminate_cause
            self._end(session, at, at, STATED, event.ts_ns)
        else:
            self._arm(session)
        return True

    def _start_again(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A Start while open: late, or a new session under a reused id (its Stop was lost)."""
        if at <= session.proof_ns + SAME_NS:
            return self._ignore("late")
        self._infer(session, at, "session-id-reused", event.ts_ns)
        return self._begin(event, at, key, None)

    def _start_after_end(
        self, event: Accounting, at: int, key: Key, session: Session
    ) -> bool | None:
        if at <= session.end_ns + SAME_NS:
            return self._ignore("late")
        return self._begin(event, at, key, None)

    def _after_end(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """An Interim after the Stop, unless it is of a later session whose Start was lost."""
        if event.session_s is None or at - event.session_s * SECOND_NS <= session.end_ns + SAME_NS:
            return self._ignore("late")
        return self._begin(event, at, key, None)

    def _alive(self, event: Accounting, at: int, key: Key, session: Session) -> bool:
        """An Interim: proof of life, counters, perhaps another address."""
        if at < session.proof_ns:
            return self._ignore("late")
        if session.seen and session.seen[0] == radius.INTERIM:
            self._nas[session.nas].learn_interval(at - session.proof_ns)
        self._count(session, event, at)
        session.proof_ns = at
        self._open.move_to_end(key)
        describe(session, event, self.config.subscriber_from)
        session.roll(self._out, at)
        session.write_open(self._out, event.ts_ns)
        self._bind(session, event, at)
        self._arm(session)
        return True

    def _stop(self, event: Accounting, at: int, key: Key, session: Session) -> bool:
        end = max(at, session.start_ns)
        if event.session_s is not None:
            stated = event.session_s * SECOND_NS
            if abs(end - session.start_ns - stated) > SAME_NS:
                self.counts["duration_disagree"] += 1
        self._count(session, event, at)
        session.proof_ns = end
        session.terminate_cause = -1 if event.terminate_cause is None else event.terminate_cause
        describe(session, event, self.config.subscriber_from)
        session.roll(self._out, end - 1)
        if not session.bindings:
            self._bind(session, event, session.start_ns)
        self._end(session, end, end, STATED, event.ts_ns)
        return True

    def _stop_again(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A second Stop: of a new session whose Start was lost, or with other counters."""
        if (
            event.session_s is not None
            and at - event.session_s * SECOND_NS > session.end_ns + SAME_NS
        ):
            return self._begin(event, at, key, None)
        up, down = directions(event, key[0] in self.config.swap_octets)
        if (up or 0) <= session.up and (down or 0) <= session.down:
            return self._ignore("duplicates")
        session.up, session.down = max(session.up, up or 0), max(session.down, down or 0)
        session.flags |= SESSION_COUNTERS_DISAGREE
        session.write_closed(self._out, event.ts_ns)
        return True

    def _revive(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A session whose end was inferred speaks again: the inference was wrong."""
        if at <= session.proof_ns:
            return self._ignore("late")
        if event.session_s is not None and at - event.session_s * SECOND_NS > (
            session.end_max_ns or session.end_ns
        ):
            return self._begin(event, at, key, None)
        self.counts["revived"] += 1
        del self._ended[key]
        session.slice_ns = slice_of(session.start_ns, session.slice_ns, session.end_ns)
        session.end_ns = session.end_max_ns = 0
        session.end_reason = ""
        self._open[key] = session
        self._nas[key[0]].open[key] = None
        self._bindings.reopen(session, event.ts_ns)
        handler = self._stop if event.status == radius.STOP else self._alive
        return handler(event, at, key, session)

    def _reboot(self, name: str, nas: Nas, event: Accounting, at: int) -> bool:
        """Accounting-On or -Off: every session of the NAS is over. On, then On, is one reboot."""
        if event.verified == radius.BAD:
            return self._ignore("bad")
        if event.status == radius.ON and nas.quiet:
            return self._ignore("duplicates")
        if at < nas.on_ns:
            return self._ignore("late")
        reason = "accounting-on" if event.status == radius.ON else "accounting-off"
        for key in sorted(nas.open):
            self._infer(self._open[key], at, reason, event.ts_ns)
        if event.status == radius.ON:
            nas.epoch += 1
            nas.on_ns = at
            nas.quiet = True
            self.counts["reboots"] += 1
        return True

    # What an event says

    def _count(self, session: Session, event: Accounting, at: int) -> None:
        swapped = session.nas in self.config.swap_octets
        resets = add_octets(session, event, at, swapped, self.config.line_speed_bps)
        self.counts["counter_resets"] += resets

    def _claim_port(self, session: Session, event: Accounting, at: int) -> None:
        """A new session on the same port and MAC ends the one before it."""
        if not session.line or not event.calling or event.verified == radius.BAD:
            return
        session.port_key = f"{session.nas}\0{session.line}\0{event.calling}"
        before = self._open.get(self._ports.get(session.port_key, ("", 0, "")))
        if before is not None and before is not session and before.proof_ns <= at:
            self._infer(before, at, "port-reused", event.ts_ns)
        self._ports[session.port_key] = session.key

    def _bind(self, session: Session, event: Accounting, at: int) -> None:
        """Compares what the event says is held with what was; each kind of address for itself."""
        for kind, prefixes in held_by(event).items():
            self._bindings.drop_others(session, kind, prefixes, at, event.ts_ns)
            for prefix in prefixes:
                if all(b.prefix != prefix for b in session.bindings):
                    self._open_binding(session, event, kind, prefix, at)

    def _open_binding(
        self, session: Session, event: Accounting, kind: str, prefix: Prefix, at: int
    ) -> None:
        """Opens a binding; whoever held the prefix until now lost it without saying so."""
        address, length = prefix
        if address[:12] != MAPPED and length < self.config.min_ipv6_prefix_len:
            self.counts["wide_prefixes"] += 1
            return
        proven = session.proof_ns
        key = self._bindings.holder(prefix)
        if key is not None:
            holder = self._open[key]
            theirs = next(b for b in holder.bindings if b.prefix == prefix)
            if event.verified == radius.BAD or proven < max(theirs.from_ns, holder.proof_ns):
                self.counts["held_elsewhere"] += 1
                return
            self._infer(holder, proven, "address-reused", event.ts_ns)
        certainty = CERTAIN if at == proven or event.status == radius.START else BOUNDED
        self._bindings.open(session, kind, prefix, at, certainty, event.ts_ns)

    # Ends and timers

    def _infer(self, session: Session, end_max: int, why: str, at: int) -> None:
        """Ends a session that did not say so: it lasted at least until its last proof of life."""
        for binding in session.bindings:
            binding.certainty = BOUNDED
        self.counts["inferred_ends"] += 1
        self._end(session, session.proof_ns, end_max, "inferred:" + why, at)

    def _end(self, session: Session, end: int, end_max: int, reason: str, at: int) -> None:
        session.end_ns, session.end_max_ns = end, max(end, end_max) if end_max else 0
        session.end_reason = reason
        for binding in session.bindings:
            self._bindings.close(session, binding, end, at)
        session.write_closed(self._out, at)
        key = session.key
        session.timer_ns = 0
        self._open.pop(key, None)
        self._nas[session.nas].open.pop(key, None)
        if self._ports.get(session.port_key) == key:
            del self._ports[session.port_key]
        self._ended[key] = session
        if len(self._ended) > self.config.max_ended:
            self._ended.popitem(last=False)

    def _stale_ns(self, session: Session) -> tuple[int, str]:
        """When a silent session counts as ended, and why; 0 where nothing says so."""
        nas = self._nas[session.nas]
        interval = session.interval_ns or self.config.interim_interval_s * SECOND_NS
        interval = interval or nas.learned_ns
        # While no collector ran, silence meant nothing.
        heard = max(session.proof_ns, self._restart_ns)
        due, why = 0, ""
        if interval:
            due, why = heard + interval * STALE_FACTOR_HALVES // 2, "stale"
        if session.timeout_ns:
            # A minute for the Stop of the timeout itself to arrive.
            limit = max(session.start_ns + session.timeout_ns, heard) + 60 * SECOND_NS
            if not due or limit < due:
                due, why = limit, "session-timeout"
        return due, why

    def _arm(self, session: Session) -> None:
        due = next_midnight(session.slice_ns)
        stale, _ = self._stale_ns(session)
        if stale:
            due = min(due, stale)
        if not session.timer_ns or due < session.timer_ns:
            session.timer_ns = due
            heapq.heappush(self._timers, (due, session.key))

    def _advance(self, now_ns: int) -> None:
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
                self._infer(session, end_max, why, due)
            else:
                session.roll(self._out, due)
                self._arm(session)

    def _trim(self, now_ns: int) -> None:
        """Forgets requests and ended sessions that are past their time or over the bound."""
        table = self._requests
        while table and (
            len(table) > self.config.max_requests
            or next(iter(table.values())) < now_ns - self.config.request_ns
        ):
            table.popitem(last=False)
        while self._ended:
            first = next(iter(self._ended.values()))
            if max(first.end_ns, first.end_max_ns) >= now_ns - self.config.ended_ns:
                break
            self._ended.popitem(last=False)

    def _evict(self, now_ns: int) -> bool:
        """Ends the session that was silent longest to make room."""
        if not self._open:
            return False
        session = next(iter(self._open.values()))
        self._loss(session.proof_ns, now_ns, "session-evicted")
        self.counts["evicted"] += 1
        self._infer(session, 0, "evicted", now_ns)
        return True

    def _lose(self, start_ns: int, end_ns: int, reason: str) -> None:
        self.counts["lost"] += 1
        self._loss(start_ns, end_ns, reason)

    def _loss(self, start_ns: int, end_ns: int, reason: str) -> None:
        classes = ("session", "binding")
        loss = Loss(start_ns, max(end_ns, start_ns + 1), "track", reason, 1, "events", classes)
        if len(self._losses) >= self.config.max_losses:
            # Joined with the last: the interval grows, the amount stays exact.
            last = self._losses.pop()
            loss = Loss(
                min(last.start_ns, start_ns),
                max(last.end_ns, end_ns),
                "track",
                reason,
                last.amount + 1,
                "events",
                classes,
            )
        self._losses.append(loss)

    # Restart

    def snapshot(self) -> dict[str, object]:
        """JSON-able state: everything that an event after it may depend on."""
        return {
            "version": 1,
            "open": [session.to_json() for session in self._open.values()],
            "ended": [session.to_json() for session in self._ended.values()],
            "nas": self._nas.snapshot(),
            "released": self._bindings.snapshot(),
            "requests": [[ident.hex(), at] for ident, at in self._requests.items()],
            "unacked": [
                [client.hex(), port, ident, list(key)]
                for (client, port, ident), key in self._unacked.items()
            ],
            "rows": self._out.snapshot(),
            "counts": dict(self.counts),
        }

    def restore(self, snapshot: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot. Events journalled after it are then applied again; sessions that
        are open when the first event from `now_ns` on comes are marked as open across the restart.

        Raises ValueError, KeyError or TypeError where the snapshot is not of this version.
        """
        if snapshot["version"] != 1:
            raise ValueError("unknown snapshot version")
        self._out.restore(snapshot["rows"])
        self.counts.update(snapshot["counts"])
        self._nas.restore(snapshot["nas"])
        self._ended = OrderedDict(_keyed(snapshot["ended"]))
        self._open = OrderedDict(_keyed(snapshot["open"]))
        self._bindings.restore(snapshot["released"], list(self._open.values()))
        self._requests = OrderedDict(
            (bytes.fromhex(ident), at) for ident, at in snapshot["requests"]
        )
        self._unacked = OrderedDict(
            ((bytes.fromhex(client), port, ident), (key[0], key[1], key[2]))
            for client, port, ident, key in snapshot["unacked"]
        )
        self._restart_ns, self._unmarked = now_ns, True
        for key, session in self._open.items():
            self._nas[key[0]].open[key] = None
            if session.port_key:
                self._ports[session.port_key] = key
            self._arm(session)


def _keyed(states: list[dict[str, Any]]) -> Iterator[tuple[Key, Session]]:
    for state in states:
        session = Session.from_json(state)
        yield session.key, session
