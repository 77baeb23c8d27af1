"""What a RADIUS event does to the session it names, by its status and what is known.

Driven by `SessionRules.apply` for Start, Interim and Stop, as `RULES` says, by `reboot` for the
Accounting-On and -Off of a NAS, and by `granted` and `disconnected`. Each turns an event into
changes of the `SessionTable` and rows.
"""

from __future__ import annotations

from typing import Final

from collector.parse import radius
from collector.parse.radius import Access, Accounting, Disconnect
from collector.track.losses import Losses
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import Said, held_by
from collector.track.session_config import SessionsConfig
from collector.track.session_facts import add_octets, describe, directions, line_of
from collector.track.session_grants import Grants
from collector.track.session_index import port_key
from collector.track.session_nas import Nas
from collector.track.session_seen import SAME_NS
from collector.track.session_state import (
    ACCOUNTING,
    DERIVED,
    STATED,
    Key,
    Session,
    next_midnight,
    slice_of,
)
from collector.track.session_table import Known, SessionTable
from collector.track.versions import Versions
from collector.wire.records import SESSION_COUNTERS_DISAGREE, record_id

ACCEPT: Final = "accept"
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
"""Handler by (Acct-Status-Type, knowledge). Each returns True where the event changed a record,
False where a rule ignores it, and None where it was lost to a full table. `at` is when the event
happened; it became known at its `ts_ns`."""


class SessionRules:
    """The handlers; `counts` is the tracker's and added to."""

    def __init__(
        self,
        config: SessionsConfig,
        table: SessionTable,
        out: Versions,
        counts: dict[str, int],
        losses: Losses,
        grants: Grants,
    ) -> None:
        self._config = config
        self._table = table
        self._out = out
        self._counts = counts
        self._losses = losses
        self._grants = grants

    def apply(
        self, event: Accounting, at: int, key: Key, known: Known, session: Session | None
    ) -> bool | None:
        """Applies a Start, Interim or Stop to its session as `RULES` says."""
        handler = getattr(self, RULES[event.status, known])
        done: bool | None = handler(event, at, key, session)
        return done

    def reboot(self, nas: Nas, event: Accounting, at: int) -> bool:
        """Accounting-On or -Off: every session of the NAS is over. On, then On, is one reboot."""
        if event.verified == radius.BAD:
            return self.ignore("bad")
        if event.status == radius.ON and nas.quiet:
            return self.ignore("duplicates")
        if at < nas.on_ns:
            return self.ignore("late")
        reason = "accounting-on" if event.status == radius.ON else "accounting-off"
        for key in sorted(nas.open):
            if (session := self._table.opens(key)) is not None:
                self._table.infer(session, at, reason, event.ts_ns)
        if event.status == radius.ON:
            nas.epoch += 1
            nas.on_ns = at
            nas.quiet = True
            self._counts["reboots"] += 1
        return True

    def granted(self, name: str, event: Access) -> bool:
        """An Access-Accept: of an open session it is a re-authorisation, else of one to come."""
        if event.verified == radius.BAD:
            return self.ignore("bad")
        session = self._meant(name, event)
        if session is None:
            self._grants.put(name, event)
            self._counts["granted"] += 1
            return True
        describe(session, event, self._config.subscriber_from)
        session.heard(event.ts_ns)
        self._table.prove(session, max(session.proof_ns, event.ts_ns))
        said = Said(event.ts_ns, ACCEPT)
        self._table.bind(session, held_by(event.profile), session.proof_ns, said)
        self._table.arm(session)
        return True

    def disconnected(self, name: str, event: Disconnect) -> bool:
        """A Disconnect-ACK: the session is over; its Stop, which should follow, says how."""
        if event.verified == radius.BAD:
            return self.ignore("bad")
        session = self._meant(name, event)
        if session is None:
            return self.ignore("orphan_disconnects")
        session.ending_ns = max(event.ts_ns, session.proof_ns + 1)
        self._table.arm(session)
        return True

    def _meant(self, name: str, event: Access | Disconnect) -> Session | None:
        """The open session that a packet names: by its id, else by port and MAC."""
        nas = self._table.nas[name]
        said = event.profile
        if said.session_id:
            known, session = self._table.known((name, nas.epoch, said.session_id))
            return session if known is Known.OPEN else None
        return self._table.on_port(name, line_of(said), said.calling)

    def ignore(self, why: str) -> bool:
        """Counts the reason and says that nothing changed."""
        self._counts[why] += 1
        return False

    # Begin

    def _begin(self, event: Accounting, at: int, key: Key, old: Session | None) -> bool | None:
        """A session not seen before: by its Start, or derived from what it says of itself."""
        stated = event.status == radius.START
        back = min(event.session_s or 0, self._config.max_derived_s) * SECOND_NS
        start = at if stated else at - back
        if not self._table.make_room(event.ts_ns):
            self._losses.add(event.ts_ns, event.ts_ns + 1, "session-table-full")
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
            self._counts["derived"] += 1
        self._table.put(session)
        granted = self._grants.take(key[0], event)
        if granted is not None:
            describe(session, granted, self._config.subscriber_from)
        describe(session, event, self._config.subscriber_from)
        self._count(session, event, at)
        if event.verified != radius.BAD:
            session.port_key = port_key(session.nas, session.line, event.profile.calling)
        self._table.claim(session, at, event.ts_ns)
        session.write_open(self._out, event.ts_ns)
        session.roll(self._out, at)
        self._bind(session, event, start)
        if granted is not None:
            self._grant(session, granted, start, said_as=event)
        if event.status == radius.STOP:
            session.terminate_cause = _cause(event)
            self._table.end(session, at, at, STATED, event.ts_ns)
        else:
            self._table.arm(session)
        return True

    def _start_again(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A Start while open: late, or a new session under a reused id (its Stop was lost)."""
        if at <= session.proof_ns + SAME_NS:
            return self.ignore("late")
        self._table.infer(session, at, "session-id-reused", event.ts_ns)
        return self._begin(event, at, key, None)

    def _start_after_end(
        self, event: Accounting, at: int, key: Key, session: Session
    ) -> bool | None:
        """A Start after the end: late, or a new session under a reused id."""
        if at <= session.end_ns + SAME_NS:
            return self.ignore("late")
        return self._begin(event, at, key, None)

    def _after_end(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """An Interim after the Stop, unless it is of a later session whose Start was lost."""
        if not _began_after(event, at, session.end_ns + SAME_NS):
            return self.ignore("late")
        return self._begin(event, at, key, None)

    # While open

    def _alive(self, event: Accounting, at: int, key: Key, session: Session) -> bool:
        """An Interim: proof of life, counters, perhaps another address."""
        if at < session.proof_ns:
            return self.ignore("late")
        if session.seen and session.seen.status == radius.INTERIM:
            self._table.nas[session.nas].learn_interval(at - session.proof_ns)
        self._count(session, event, at)
        self._table.prove(session, at)
        # What was said before and is still so need not be compared again.
        is_settled = event.profile is session.settled and event.verified == session.verified
        if not is_settled:
            describe(session, event, self._config.subscriber_from)
        session.roll(self._out, at)
        session.write_open(self._out, event.ts_ns)
        if not is_settled:
            self._bind(session, event, at)
            if (
                session.holds(held_by(event.profile))
                and session.nas not in self._config.swap_octets
            ):
                session.settled = event.profile
        # A timer that waits for silence waits longer now; it looks for itself when it runs.
        if not is_settled or session.timer_ns >= next_midnight(session.slice_ns):
            self._table.arm(session)
        return True

    def _bind(self, session: Session, event: Accounting, at: int) -> None:
        is_stated, is_bad = event.status == radius.START, event.verified == radius.BAD
        said = Said(event.ts_ns, ACCOUNTING, is_stated, is_bad)
        self._table.bind(session, held_by(event.profile), at, said)

    def _grant(self, session: Session, granted: Access, at: int, said_as: Accounting) -> None:
        """Binds what the Access-Accept gave and the accounting event that follows does not name."""
        named = held_by(said_as.profile)
        held = {kind: each for kind, each in held_by(granted.profile).items() if kind not in named}
        said = Said(said_as.ts_ns, ACCEPT, said_as.status == radius.START)
        self._table.bind(session, held, at, said)

    def _count(self, session: Session, event: Accounting, at: int) -> None:
        session.heard(event.ts_ns, event.event_s)
        swapped = session.nas in self._config.swap_octets
        resets = add_octets(session, event, at, swapped, self._config.line_speed_bps)
        self._counts["counter_resets"] += resets

    # End

    def _stop(self, event: Accounting, at: int, key: Key, session: Session) -> bool:
        """The Stop: last counters, the cause, and every binding closed."""
        end = max(at, session.start_ns)
        if event.session_s is not None:
            stated = event.session_s * SECOND_NS
            if abs(end - session.start_ns - stated) > SAME_NS:
                self._counts["duration_disagree"] += 1
        self._count(session, event, at)
        session.proof_ns = end
        session.terminate_cause = _cause(event)
        describe(session, event, self._config.subscriber_from)
        session.roll(self._out, end - 1)
        if not session.bindings:
            self._bind(session, event, session.start_ns)
        self._table.end(session, end, end, STATED, event.ts_ns)
        return True

    def _stop_again(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A second Stop: of a new session whose Start was lost, or with other counters."""
        if _began_after(event, at, session.end_ns + SAME_NS):
            return self._begin(event, at, key, None)
        up, down = directions(event, key[0] in self._config.swap_octets)
        if (up or 0) <= session.up and (down or 0) <= session.down:
            return self.ignore("duplicates")
        session.up, session.down = max(session.up, up or 0), max(session.down, down or 0)
        session.heard(event.ts_ns, event.event_s)
        session.flags |= SESSION_COUNTERS_DISAGREE
        session.write_closed(self._out, event.ts_ns)
        return True

    def _revive(self, event: Accounting, at: int, key: Key, session: Session) -> bool | None:
        """A session whose end was inferred speaks again: the inference was wrong."""
        if at <= session.proof_ns:
            return self.ignore("late")
        if _began_after(event, at, session.end_max_ns or session.end_ns):
            return self._begin(event, at, key, None)
        self._counts["revived"] += 1
        session.slice_ns = slice_of(session.start_ns, session.slice_ns, session.end_ns)
        session.end_ns = session.end_max_ns = 0
        session.end_reason = ""
        self._table.put(session)
        self._table.bindings.reopen(session, event.ts_ns)
        handler = self._stop if event.status == radius.STOP else self._alive
        return handler(event, at, key, session)


def _began_after(event: Accounting, at: int, end_ns: int) -> bool:
    """Whether the Acct-Session-Time puts the begin of the event's session after `end_ns`."""
    return event.session_s is not None and at - event.session_s * SECOND_NS > end_ns


def _cause(event: Accounting) -> int:
    """Acct-Terminate-Cause; -1 where the event has none."""
    return -1 if event.terminate_cause is None else event.terminate_cause
