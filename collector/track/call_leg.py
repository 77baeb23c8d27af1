"""One subscriber's side of one call: turns the messages that pass it into one `call` row.

A state machine driven by `step` with an `Input`: what a message means to this leg is decided by
`meaning`, what it does by `collector.track.call_rules.RULES`. RFC 3261 sections 12 to 17; RFC 4028
for session timers. Times are packet times.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from collector.parse.sip import SipEvent
from collector.track import call_disposition as disposition
from collector.track.call_rules import RULES, Input, State
from collector.track.versions import Row

SECOND_NS: Final = 1_000_000_000
TRANSACTION_NS: Final = 32 * SECOND_NS
"""64 * T1: when a transaction gives up (RFC 3261 section 17.1.1.2, timers B, F and H)."""
MAX_SEEN: Final = 128
"""Messages remembered per leg to tell retransmissions, which stop after 32 s."""
MAX_BRANCHES: Final = 64
"""Forks and retries of one INVITE; proxies fork to the contacts of one line, a handful."""


_CHALLENGES: Final = frozenset((401, 407, 422, 494))


@dataclass(slots=True)
class Leg:
    """One side of a call; times in ns, 0 where not reached. `proof_ns` is the last evidence."""

    number: int
    call_id: str
    from_tag: str
    call_hash: bytes
    address: bytes
    prefix_len: int
    direction: str
    start_ns: int
    proof_ns: int
    idle_ns: int
    """How long a leg without a session timer may be silent."""
    ring_timeout_ns: int
    """How long a ringing leg may be silent."""
    a_raw: str = ""
    a_e164: str = ""
    b_raw: str = ""
    b_e164: str = ""
    presentation: str = "allowed"
    emergency: int = 0
    state: State = State.CALLING
    ring_ns: int = 0
    answer_ns: int = 0
    to_tag: str = ""
    end_min_ns: int = 0
    end_max_ns: int = 0
    disposition: str = ""
    sip_code: int = 0
    q850: int = 0
    released_by: str = ""
    provisional: bool = False
    refresh_ns: int = 0
    session_expires: int = 0
    retransmissions: int = 0
    flags: int = 0
    cseqs: list[int] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    """Branches of the INVITE without a final response."""
    branches: list[str] = field(default_factory=list)
    """All branches of the INVITE on this hop."""
    seen: list[str] = field(default_factory=list)
    ended_ns: int = 0
    """When the end became known, from which the leg lingers."""
    timer_ns: int = 0

    # What a message means

    def meaning(self, event: SipEvent) -> Input | None:
        """The input a message is to this leg; None where it does not concern it."""
        caller = event.from_tag == self.from_tag
        if event.status:
            return self._response(event, caller)
        first = caller and event.cseq in self.cseqs
        if event.method == "INVITE" and not event.to_tag:
            # After an answered call's end a straggler must not begin it anew.
            over = self.state is State.ENDED and self.answer_ns
            return Input.INVITE if caller and not over else None
        if event.method == "CANCEL":
            return Input.CANCEL if first and self._own_branch(event) else None
        if not self._in_dialog(event):
            return None
        if event.method == "ACK" and first:
            return Input.ACK
        return Input.BYE if event.method == "BYE" else Input.EVIDENCE

    def _response(self, event: SipEvent, caller: bool) -> Input | None:
        code = event.status
        if event.method == "INVITE" and caller and event.cseq in self.cseqs:
            if not self._own_branch(event):
                return None
            if code < 200:
                return Input.RINGING if code == 180 else Input.PROVISIONAL
            if code < 300:
                return Input.SUCCESS
            if event.cseq != self.cseqs[-1]:
                return None
            if code < 400:
                return Input.REDIRECT
            return Input.CHALLENGE if code in _CHALLENGES else Input.FAILURE
        if not self._in_dialog(event):
            return None
        if event.method in ("INVITE", "UPDATE") and 200 <= code < 300:
            return Input.REFRESH
        if event.method == "INVITE" and code in (408, 481):
            return Input.VANISHED
        return Input.EVIDENCE

    def _own_branch(self, event: SipEvent) -> bool:
        """Whether the transaction is of this hop: a line's calls to itself pass it twice."""
        return not event.branch or event.branch in self.branches

    def _in_dialog(self, event: SipEvent) -> bool:
        """Both tags are the dialog's, in either order; before the answer any To-tag may win."""
        if event.from_tag == self.from_tag:
            other = event.to_tag
        elif event.to_tag == self.from_tag:
            other = event.from_tag
        else:
            return False
        return not self.to_tag or other == self.to_tag

    # What it does

    def step(self, what: Input, event: SipEvent | None, at: int) -> bool:
        """Applies an input at time `at`; True where the table knows it."""
        rule = RULES.get((self.state, what))
        if rule is None:
            return False
        state, action = rule
        self.state = getattr(self, action)(event, at) or state
        if self.state is State.ENDED:
            self.ended_ns = at
        return True

    def repeated(self, event: SipEvent) -> bool:
        """Whether the message is a retransmission; remembers it otherwise.

        The key is the transaction's (RFC 3261 section 17.2.3); call and From-tag, which RFC 2543
        adds where the branch has no magic cookie, are the leg's own.
        """
        parts = (event.method, event.status, event.cseq, event.to_tag, event.sent_by, event.branch)
        key = "\0".join(map(str, parts))
        if key in self.seen:
            self.retransmissions += 1
            if event.status < 200:
                # A callee that still rings says so again (RFC 3261 section 13.3.1.1).
                self.proof_ns = max(self.proof_ns, event.ts_ns if event.status else 0)
            return True
        self.seen = [*self.seen[1 - MAX_SEEN :], key]
        return False

    @property
    def revivable(self) -> bool:
        """Ended only for want of a retry, so that a late retry goes on with the same call."""
        return self.state is State.ENDED and self.disposition in disposition.RETRIED.values()

    def _prove(self, event: SipEvent, at: int) -> None:
        self.proof_ns = max(self.proof_ns, at)
        self.provisional |= 100 <= event.status < 200

    def _try(self, event: SipEvent, at: int) -> State | None:
        """An INVITE without a To-tag: the first, a retry with a new CSeq, or a fork."""
        self.proof_ns = at
        if event.cseq not in self.cseqs:
            self.cseqs = [*self.cseqs[1 - MAX_BRANCHES :], event.cseq]
            self.live = []
            self.provisional = False
        self.live = [*self.live[1 - MAX_BRANCHES :], event.branch]
        self.branches = [*self.branches[1 - MAX_BRANCHES :], event.branch]
        self.disposition, self.released_by = "", ""
        self.sip_code = self.q850 = self.end_min_ns = self.end_max_ns = self.ended_ns = 0
        return None

    def _ring(self, event: SipEvent, at: int) -> None:
        self._prove(event, at)
        self.ring_ns = self.ring_ns or at

    def _answer(self, event: SipEvent, at: int) -> None:
        """The first 2xx to the INVITE is the answer, whatever was cancelled or challenged."""
        self.proof_ns = self.answer_ns = self.refresh_ns = at
        self.to_tag = event.to_tag
        self.sip_code = event.status
        self.session_expires = event.session_expires
        self.disposition = disposition.ANSWERED

    def _cancel(self, event: SipEvent, at: int) -> None:
        self.proof_ns = at
        self.q850 = event.q850

    def _fail(self, event: SipEvent, at: int) -> State | None:
        """A final response that is no answer ends the call when it was the last open branch."""
        self.proof_ns = at
        if event.branch in self.live:
            self.live = [branch for branch in self.live if branch != event.branch]
        self.sip_code = event.status
        self.q850 = event.q850 or self.q850
        if self.live:
            return self.state
        self.end_min_ns = self.end_max_ns = at
        cancelling = self.state is State.CANCELLING
        self.disposition, self.released_by = disposition.of_final(event.status, cancelling)
        return None

    def _give_up(self, event: SipEvent | None, at: int) -> None:
        """Nothing followed the challenge or the redirection, which so was the end."""
        self.disposition = disposition.RETRIED[self.state]

    def _no_final(self, event: SipEvent | None, at: int) -> None:
        """No final response came: the caller gave up, or nobody answered."""
        cancelled = self.state is State.CANCELLING
        self.disposition = disposition.CANCELLED if cancelled else disposition.NO_ANSWER
        self.released_by = "caller" if cancelled else ""
        self.end_min_ns, self.end_max_ns = self.proof_ns, at

    def _abort(self, event: SipEvent, at: int) -> None:
        """A BYE before the answer is the call's failure, not its end."""
        self._released(event, at)
        self.disposition = disposition.FAILED

    def _released(self, event: SipEvent, at: int) -> None:
        self.proof_ns = self.end_min_ns = self.end_max_ns = at
        self.released_by = "caller" if event.from_tag == self.from_tag else "callee"
        self.q850 = event.q850 or self.q850

    def _hang_up(self, event: SipEvent, at: int) -> None:
        """The first BYE of the dialog is the end, whatever is answered to it."""
        self._released(event, at)
        if self.state is not State.UNCONFIRMED:
            self.disposition = disposition.ANSWERED

    def _hang_up_late(self, event: SipEvent, at: int) -> None:
        """A BYE after an end that was only inferred: the call had gone on."""
        if self.answer_ns and not self.released_by:
            self._released(event, at)

    def _refresh(self, event: SipEvent, at: int) -> None:
        """A refresh restarts or ends the session timer (RFC 4028 section 7.2)."""
        self._prove(event, at)
        self.refresh_ns = at
        self.session_expires = event.session_expires

    def _unconfirmed(self, event: SipEvent | None, at: int) -> None:
        self.disposition = disposition.UNCONFIRMED

    def _confirm_late(self, event: SipEvent, at: int) -> None:
        self._prove(event, at)
        self.disposition = disposition.ANSWERED

    def _vanish(self, event: SipEvent, at: int) -> None:
        """408 or 481 to a re-INVITE: the other side has had no dialog since some time before."""
        self.end_min_ns, self.end_max_ns = self.proof_ns, at

    def _lose(self, event: SipEvent | None, at: int) -> None:
        """No BYE was seen: the call lasted to the last evidence, at most to the session timer."""
        self.end_min_ns = self.proof_ns
        expires = self.refresh_ns + self.session_expires * SECOND_NS
        self.end_max_ns = max(expires, self.proof_ns) if self.session_expires else 0

    # Time and rows

    def due_ns(self, linger_ns: int) -> int:
        """When the state's time is over, counted on packet time."""
        if self.state is State.ENDED:
            return self.ended_ns + linger_ns
        if self.state is State.CALLING and self.provisional:
            return self.proof_ns + self.ring_timeout_ns
        if self.state is State.ANSWERED:
            return self.answer_ns + TRANSACTION_NS
        if self.state is State.UNCONFIRMED:
            # The callee that misses the ACK sends its BYE at 32 s (RFC 3261 section 13.3.1.4).
            return self.answer_ns + 2 * TRANSACTION_NS
        if self.state is State.CONFIRMED:
            if self.session_expires:
                expires = self.refresh_ns + self.session_expires * SECOND_NS
                return max(expires + TRANSACTION_NS, self.proof_ns + TRANSACTION_NS)
            return self.proof_ns + self.idle_ns
        return self.proof_ns + TRANSACTION_NS

    def row(self) -> Row:
        """The leg as a `call` row; an end of 0 in a leg still open is its last evidence."""
        end = self.end_min_ns or self.proof_ns
        talk = max(end - self.answer_ns, 0) // 1_000_000 if self.answer_ns else 0
        return {
            "call_hash": self.call_hash,
            "address": self.address,
            "prefix_len": self.prefix_len,
            "direction": self.direction,
            "a_raw": self.a_raw,
            "a_e164": self.a_e164,
            "b_raw": self.b_raw,
            "b_e164": self.b_e164,
            "presentation": self.presentation,
            "start_ns": self.start_ns,
            "ring_ns": self.ring_ns,
            "answer_ns": self.answer_ns,
            "end_min_ns": end,
            "end_max_ns": self.end_max_ns,
            "talk_ms": talk,
            "disposition": self.disposition or disposition.PARTIAL,
            "sip_code": self.sip_code,
            "q850": self.q850,
            "released_by": self.released_by,
            "emergency": self.emergency,
            "retransmissions": self.retransmissions,
            "flags": self.flags,
        }

    def to_json(self) -> dict[str, object]:
        """JSON-able state, bytes as hex."""
        out: dict[str, object] = {name: getattr(self, name) for name in _FIELDS}
        out["call_hash"], out["address"] = self.call_hash.hex(), self.address.hex()
        out["state"] = self.state.value
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Leg:
        """The leg that `to_json` wrote, its timer not armed."""
        values = {name: data[name] for name in _FIELDS}
        values["call_hash"] = bytes.fromhex(data["call_hash"])
        values["address"] = bytes.fromhex(data["address"])
        values["state"] = State(data["state"])
        return cls(**values)


_FIELDS: Final = tuple(f.name for f in fields(Leg) if f.name != "timer_ns")
