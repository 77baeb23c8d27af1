"""What a DHCP message does: each lease of one address or prefix is a session with one binding.

An answer begins a lease and extends it, the end it names bounds it, and a Release, a Decline, a
NAK, a lifetime of zero or the same address for another closes it. A lease of an address that an
accounted session holds says nothing new and is left out; a delegated prefix beside such a session
takes the session's subscriber, found by hardware address or line.
"""

from __future__ import annotations

from typing import Final

from collector.parse.lease import FOREVER_S, Grant, Lease
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import Said
from collector.track.session_state import ACCOUNTING, STATED, Key, Session
from collector.track.session_table import Known, SessionTable
from collector.track.versions import Versions
from collector.wire.addr import MAPPED, unpack

DHCP: Final = "dhcp"
DHCPV6: Final = "dhcpv6"
DELEGATED: Final = "dhcpv6-pd"

_NEVER_NS: Final = 100 * 365 * 86_400 * SECOND_NS
_SAME_NS: Final = 2 * SECOND_NS
"""The same answer is seen twice where both sides of a relay are: within a relay's delay."""


class LeaseRules:
    """The handlers; `counts` is the tracker's and added to."""

    def __init__(self, table: SessionTable, out: Versions, counts: dict[str, int]) -> None:
        self._table = table
        self._out = out
        self._counts = counts

    def apply(self, event: Lease) -> bool | None:
        """Applies a message; True where it changed a record, None where a full table lost it."""
        match event.kind:
            case "ACK" | "REPLY":
                done = [self._answer(event, each, False) for each in event.addresses]
                done += [self._answer(event, each, True) for each in event.prefixes]
                return None if None in done else any(done)
            case "NAK":
                return self._refused(event)
            case "RELEASE":
                return self._all_over(event, STATED)
            case "DECLINE":
                return self._all_over(event, "inferred:declined")
        return False

    def _answer(self, event: Lease, grant: Grant, is_prefix: bool) -> bool | None:
        """One address or prefix that a server gives, for how long."""
        base, length, valid_s = grant
        key = _key(event, base, length)
        if not valid_s:
            return self._over(event, key, STATED)
        known, session = self._table.known(key)
        if known is Known.OPEN and session is not None:
            if self._is_other(session, event):
                self._table.infer(session, event.ts_ns, "line-changed", event.ts_ns)
            else:
                return self._extend(session, event, valid_s)
        return self._begin(event, key, (base, length), valid_s, is_prefix)

    def _is_other(self, session: Session, event: Lease) -> bool:
        """Whether the client speaks from another line, or the line is another's now."""
        subscriber = self._subscriber(event)
        other_line = bool(session.line and event.names) and session.line not in event.names
        return other_line or bool(
            session.subscriber and subscriber and subscriber != session.subscriber
        )

    def _extend(self, session: Session, event: Lease, valid_s: int) -> bool:
        at = event.ts_ns
        if at - session.proof_ns <= _SAME_NS and session.lease_xid == event.xid and session.line:
            self._counts["duplicates"] += 1
            return False
        session.lease_xid = event.xid
        session.heard(at)
        session.lease_ns = _end(at, valid_s)
        self._table.prove(session, max(at, session.proof_ns))
        was = session.subscriber
        self._describe(session, event)
        session.roll(self._out, at)
        session.write_open(self._out, at)
        if session.subscriber != was:
            for binding in session.bindings:
                session.write_binding(self._out, binding, 0, at)
        self._table.arm(session)
        return True

    def _begin(
        self, event: Lease, key: Key, prefix: tuple[bytes, int], valid_s: int, is_prefix: bool
    ) -> bool | None:
        at = event.ts_ns
        holder = self._table.holder(prefix)
        if holder is not None and holder.origin == ACCOUNTING:
            self._counts["held_by_accounting"] += 1
            return False
        before = self._table.on_line(DHCP, event.mac) if event.family == 4 else None
        if before is not None and before.key != key:
            self._table.infer(before, at, "new-lease", at)
        if not self._table.make_room(at):
            return None
        session = Session.begun(key, at, DHCP if event.family == 4 else DHCPV6)
        session.lease_ns, session.lease_xid = _end(at, valid_s), event.xid
        self._describe(session, event)
        self._table.put(session)
        self._table.claim(session, at, at)
        session.write_open(self._out, at)
        said = Said(at, DELEGATED if is_prefix else session.origin, is_stated=True)
        self._table.bind(session, {"lease": (prefix,)}, at, said)
        self._counts["leases"] += 1
        self._table.arm(session)
        return True

    def _describe(self, session: Session, event: Lease) -> None:
        session.mac = event.mac or session.mac
        session.line = session.line or next(iter(event.names), "")
        session.subscriber = session.subscriber or self._subscriber(event)

    def _subscriber(self, event: Lease) -> str:
        """Of the line, else of the accounted or dialled session of the same equipment or line."""
        if event.subscriber:
            return event.subscriber
        for origin in (ACCOUNTING, "pppoe"):
            beside = self._table.on_line(origin, event.mac, *event.names)
            if beside is not None and beside.subscriber:
                return beside.subscriber
        return ""

    def _refused(self, event: Lease) -> bool:
        """A NAK: the client must stop using the address that it asked for (RFC 2131 3.1)."""
        session = self._table.on_line(DHCP, event.mac)
        if session is None or not session.bindings:
            return False
        if event.requested and session.bindings[0].address != event.requested:
            return False
        self._table.infer(session, event.ts_ns, "nak", event.ts_ns)
        return True

    def _all_over(self, event: Lease, reason: str) -> bool:
        done = [self._over(event, key, reason) for key in _named(event)]
        return any(done)

    def _over(self, event: Lease, key: Key, reason: str) -> bool:
        """The client gave a lease back, or a server took it away."""
        known, session = self._table.known(key)
        if known is not Known.OPEN or session is None:
            self._counts["late"] += 1
            return False
        end = max(event.ts_ns, session.proof_ns)
        session.proof_ns = end
        session.heard(event.ts_ns)
        session.roll(self._out, end - 1)
        self._table.end(session, end, end, reason, event.ts_ns)
        return True


def _named(event: Lease) -> list[Key]:
    """The leases that a Release or Decline names."""
    if event.family == 4:
        return [_key(event, event.requested, 128)] if event.requested else []
    return [_key(event, base, length) for base, length, _ in (*event.addresses, *event.prefixes)]


def _key(event: Lease, base: bytes, length: int) -> Key:
    """A lease is known by its client and what was leased."""
    text = unpack(base) if base[:12] == MAPPED or length == 128 else f"{unpack(base)}/{length}"
    return (DHCP if event.family == 4 else DHCPV6), 0, f"{event.client}/{text}"


def _end(at_ns: int, valid_s: int) -> int:
    return at_ns + (_NEVER_NS if valid_s == FOREVER_S else valid_s * SECOND_NS)
