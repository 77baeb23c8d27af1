"""What a step of PPPoE does: a session from PADS to PADT, its user, and its IPv4 address.

A session is known by the concentrator, the host's hardware address and the session id (RFC 2516
section 4). Where the same line is accounted for by RADIUS, the accounted session takes its place as
soon as it names the address. A PADT that is lost leaves the end open until the address, the id or
the line is used anew.
"""

from __future__ import annotations

from typing import Final

from collector.parse.pppoe import Ppp
from collector.track.nastime import SECOND_NS
from collector.track.session_bindings import Said
from collector.track.session_index import port_key
from collector.track.session_state import ACCOUNTING, STATED, Key, Session
from collector.track.session_table import Known, SessionTable
from collector.track.versions import Versions

PPPOE: Final = "pppoe"
_SAME_NS: Final = 2 * SECOND_NS


class PppoeRules:
    """The handlers; `counts` is the tracker's and added to."""

    def __init__(
        self,
        table: SessionTable,
        out: Versions,
        counts: dict[str, int],
        subscriber_from: tuple[str, ...],
    ) -> None:
        self._table = table
        self._out = out
        self._counts = counts
        self._is_named_by_user = "user_name" in subscriber_from

    def apply(self, event: Ppp) -> bool | None:
        """Applies a step; True where it changed a record, None where a full table lost it."""
        if event.kind == "PADS":
            return self._begin(event)
        session = self._session(event)
        if session is None:
            self._counts["late"] += 1
            return False
        match event.kind:
            case "PADT":
                return self._end(session, event)
            case "USER" if event.sender == session.mac:
                return self._user(session, event)
            case "ADDRESS" if event.receiver == session.mac:
                return self._address(session, event)
        return False

    def _session(self, event: Ppp) -> Session | None:
        """The open session of a step, whichever end sent it."""
        for concentrator, host in (
            (event.sender, event.receiver),
            (event.receiver, event.sender),
        ):
            known, session = self._table.known(_key(concentrator, host, event.session))
            if known is Known.OPEN:
                return session
        return None

    def _begin(self, event: Ppp) -> bool | None:
        at = event.ts_ns
        key = _key(event.sender, event.receiver, event.session)
        known, old = self._table.known(key)
        if known is Known.OPEN and old is not None:
            if at - old.start_ns <= _SAME_NS:
                self._counts["duplicates"] += 1
                return False
            self._table.infer(old, at, "session-id-reused", at)
        if self._table.nas.obtain(key[0]) is None or not self._table.make_room(at):
            return None
        line = next(iter(event.names), "")
        session = Session.begun(key, at, PPPOE)
        session.mac, session.line, session.subscriber = event.receiver, line, event.subscriber
        session.port_key = port_key(key[0], line, event.receiver)
        self._table.put(session)
        self._table.claim(session, at, at)
        session.write_open(self._out, at)
        self._table.arm(session)
        return True

    def _user(self, session: Session, event: Ppp) -> bool:
        user, _, realm = event.user_name.rpartition("@")
        session.user_name, session.realm = (user, realm) if user else (event.user_name, "")
        if self._is_named_by_user and not session.subscriber:
            session.subscriber = event.user_name
        self._proven(session, event)
        return True

    def _address(self, session: Session, event: Ppp) -> bool:
        assert event.address is not None
        holder = self._table.holder((event.address, 128))
        if holder is not None and holder.origin == ACCOUNTING:
            self._counts["held_by_accounting"] += 1
            self._table.supersede(session, session.start_ns, event.ts_ns)
            return True
        self._proven(session, event)
        said = Said(event.ts_ns, PPPOE, is_stated=True)
        self._table.bind(session, {"framed4": ((event.address, 128),)}, event.ts_ns, said)
        return True

    def _proven(self, session: Session, event: Ppp) -> None:
        session.heard(event.ts_ns)
        self._table.prove(session, max(event.ts_ns, session.proof_ns))
        session.roll(self._out, event.ts_ns)
        session.write_open(self._out, event.ts_ns)
        self._table.arm(session)

    def _end(self, session: Session, event: Ppp) -> bool:
        end = max(event.ts_ns, session.proof_ns)
        session.proof_ns = end
        session.heard(event.ts_ns)
        session.roll(self._out, end - 1)
        self._table.end(session, end, end, STATED, event.ts_ns)
        return True


def _key(concentrator: str, host: str, session: int) -> Key:
    return f"pppoe:{concentrator}", 0, f"{session:04x}/{host}"
