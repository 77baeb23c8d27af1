"""Access sessions: turns RADIUS, DHCP and PPPoE into session rows, binding rows and their changes.

Driven by `apply` (one event of `EVENTS`), `tick` (time passed without one) and
`take` (a window closes). Timers run on the capture time of events, so a replay gives the same rows.
Here an event is told from its resends, timed, and given to the session it names: what it does there
is in `session_rules`, `lease_rules` and `pppoe_rules`, what it then goes through by itself in
`session_table`.
"""

from __future__ import annotations

from typing import Any, Final

from collector.parse import radius
from collector.parse.lease import Lease
from collector.parse.pppoe import Ppp
from collector.parse.radius import Access, Accounting, AccountingAck, Disconnect
from collector.track.lease_rules import DHCP, DHCPV6, LeaseRules
from collector.track.losses import Losses
from collector.track.pppoe_rules import PppoeRules
from collector.track.session_bindings import BindingChange
from collector.track.session_config import SessionsConfig
from collector.track.session_grants import Grants
from collector.track.session_nas import nas_name
from collector.track.session_reports import goes_on
from collector.track.session_requests import Requests
from collector.track.session_rules import SessionRules
from collector.track.session_seen import Seen
from collector.track.session_state import Prefix
from collector.track.session_table import Known, SessionTable
from collector.track.versions import Columns, Versions
from collector.wire.loss import Loss

__all__ = ["BindingChange", "Sessions", "SessionsConfig"]


SessionEvent = Accounting | AccountingAck | Access | Disconnect | Lease | Ppp
EVENTS: Final[dict[str, type[SessionEvent]]] = {
    "accounting": Accounting,
    "ack": AccountingAck,
    "access": Access,
    "disconnect": Disconnect,
    "lease": Lease,
    "ppp": Ppp,
}
"""Events by their name in the journal."""


class Sessions:
    """The session tracker. `counts`: seen = recorded + ignored + lost, the rest explain them."""

    def __init__(self, config: SessionsConfig | None = None) -> None:
        self.config = config or SessionsConfig()
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "retransmissions", "duplicates", "bad")
            + ("granted", "orphan_disconnects", "leases", "held_by_accounting")
            + ("late", "orphan_acks", "acked", "derived", "inferred_ends", "revived", "reboots")
            + ("held_elsewhere", "wide_prefixes", "duration_disagree", "counter_resets", "evicted"),
            0,
        )
        self._out = Versions("session", "binding")
        self._losses = Losses(("session", "binding"), self.config.max_losses)
        self._requests = Requests(self.config.max_requests, self.config.request_ns)
        self._table = SessionTable(self.config, self._out, self.counts, self._losses)
        self._grants = Grants(self.config.max_requests)
        self._rules = SessionRules(
            self.config, self._table, self._out, self.counts, self._losses, self._grants
        )
        self._leases = LeaseRules(self._table, self._out, self.counts)
        self._ppp = PppoeRules(self._table, self._out, self.counts, self.config.subscriber_from)

    def apply(self, event: SessionEvent, now_ns: int) -> list[BindingChange]:
        """Takes one event; returns the bindings that changed, in order.

        All rules use the event's own time, so that a replay at another `now_ns` is the same.
        """
        self._table.advance(event.ts_ns)
        self.counts["seen"] += 1
        match event:
            case Accounting():
                done = self._account(event)
            case AccountingAck():
                done = self._ack(event)
            case Access() | Disconnect():
                done = self._exchanged(event)
            case Lease():
                done = self._leased(event)
            case Ppp():
                done = self._ppp.apply(event)
        self.counts["lost" if done is None else "recorded" if done else "ignored"] += 1
        return self._table.bindings.drain()

    def tick(self, now_ns: int) -> list[BindingChange]:
        """Lets time pass: midnights, stale sessions. Returns the bindings that changed."""
        self._table.advance(now_ns)
        return self._table.bindings.drain()

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows observed before `end_ns` that no earlier call returned."""
        return self._out.take(end_ns)

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        return self._losses.take()

    @property
    def open_sessions(self) -> int:
        """Sessions open now."""
        return len(self._table)

    def held(self) -> list[Prefix]:
        """Prefixes that a binding holds now, as counters are keyed; some more than once."""
        return self._table.bindings.held()

    def _ack(self, event: AccountingAck) -> bool:
        """The server answered (RFC 2866 section 4.2)."""
        key = self._requests.answered(event)
        session = None if key is None else self._table.get(key)
        if session is None:
            return self._rules.ignore("orphan_acks")
        session.acked = 1
        self._out.amend("session", session.row_id, "acked", 1)
        self.counts["acked"] += 1
        return True

    def _exchanged(self, event: Access | Disconnect) -> bool | None:
        """What a NAS was told by its server."""
        name = nas_name(event)
        if self._table.nas.obtain(name) is None:
            self._losses.add(event.ts_ns, event.ts_ns + 1, "nas-table-full")
            return None
        if isinstance(event, Access):
            return self._rules.granted(name, event)
        return self._rules.disconnected(name, event)

    def _leased(self, event: Lease) -> bool | None:
        """DHCP has no NAS to reboot, so all leases of a family are under one name."""
        if self._table.nas.obtain(DHCP if event.family == 4 else DHCPV6) is None:
            return None
        return self._leases.apply(event)

    def _account(self, event: Accounting) -> bool | None:
        """Deduplicates and dispatches a request; None where it was lost to a full table."""
        if self._requests.repeated(event):
            return self._rules.ignore("retransmissions")
        self._table.trim(event.ts_ns)
        name = nas_name(event)
        nas = self._table.nas.obtain(name)
        if nas is None:
            self._losses.add(event.ts_ns, event.ts_ns + 1, "nas-table-full")
            return None
        delay = min(event.delay_s or 0, self.config.max_delay_s)
        at = nas.clock.event_ns(event.ts_ns, delay, event.event_s)
        if event.status in (radius.ON, radius.OFF):
            return self._rules.reboot(nas, event, at)
        session_id = event.profile.session_id
        if event.status not in (radius.START, radius.STOP, radius.INTERIM) or not session_id:
            return False
        # An event from before the reboot that was sent after it belongs to the epoch before.
        epoch = nas.epoch if at >= nas.on_ns else nas.epoch - 1
        key = (name, epoch, session_id)
        session = self._table.opens(key)
        if session is not None and goes_on(session, event, at, nas, self._out):
            nas.quiet = False
            self._table.prove(session, at)
            self._requests.expect_ack(event, key)
            return True
        known, session = self._table.known(key)
        if event.verified == radius.BAD and (
            event.status == radius.STOP or known is not Known.NONE
        ):
            return self._rules.ignore("bad")
        nas.quiet = False
        seen = Seen(event.status, at, event)
        if session is not None and session.seen and session.seen.same(seen):
            self._requests.expect_ack(event, key)
            return self._rules.ignore("duplicates")
        done = self._rules.apply(event, at, key, known, session)
        current = self._table.get(key)
        if current is not None:
            if done:
                current.seen = seen
            self._requests.expect_ack(event, key)
        return done

    def snapshot(self) -> dict[str, object]:
        """JSON-able state: everything that an event after it may depend on."""
        return {
            "version": 2,
            **self._table.snapshot(),
            **self._requests.snapshot(),
            "grants": self._grants.snapshot(),
            "rows": self._out.snapshot(),
            "counts": dict(self.counts),
        }

    def restore(self, snapshot: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot. Events journalled after it are then applied again; sessions that
        are open when the first event from `now_ns` on comes are marked as open across the restart.

        Raises ValueError, KeyError or TypeError where the snapshot is not of this version.
        """
        if snapshot["version"] != 2:
            raise ValueError("unknown snapshot version")
        self._out.restore(snapshot["rows"])
        self.counts.update(snapshot["counts"])
        self._table.restore(snapshot, now_ns)
        self._requests.restore(snapshot)
        self._grants.restore(snapshot.get("grants", []))
