"""One subscriber's side of one call: turns the messages that pass it into the state of a `Leg`.

A state machine driven by `step` with an `Input`: what a message means to this leg is decided by
`meaning`, what it does by `collector.track.call_rules.RULES`. RFC 3261 sections 12 to 17; RFC 4028
for session timers. Times are packet times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.parse.sip import SipEvent
from collector.track import call_disposition
from collector.track.call_leg_state import SECOND_NS, LegState
from collector.track.call_rules import RULES, Input, State
from collector.wire.records import CALL_FINAL_MISSING

MAX_SEEN: Final = 128
"""Messages remembered per leg to tell retransmissions, which stop after 32 s."""
MAX_BRANCHES: Final = 64
"""Forks and retries of one INVITE; proxies fork to the contacts of one line, a handful."""
MAX_FORKS: Final = 16
"""To-tags in the branch table: more phones than a line has ring at once."""
MAX_LINKED: Final = 8
_CHALLENGES: Final = frozenset((401, 407, 422, 494))
_BRANCHING: Final = frozenset((Input.PROVISIONAL, Input.RINGING, Input.SUCCESS, Input.FAILURE))
"""Responses by which a To-tag becomes, or stays, a branch of the call."""


@dataclass(slots=True)
class Leg(LegState):
    """The machine: `repeated`, `meaning` and `step` for each message, `step` for its timer."""

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
        if event.method == "BYE" or (event.method == "INVITE" and code in (408, 481)):
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
        if event is not None and event.status >= 101 and event.to_tag and what in _BRANCHING:
            self._fork(event, at)
        self.state = getattr(self, action)(event, at) or state
        if self.state is State.ENDED:
            self.ended_ns = at
        return True

    def _fork(self, event: SipEvent, at: int) -> None:
        """Enters a response to the INVITE in the branch table."""
        told = self.forks.get(event.to_tag)
        if told is not None:
            told[0] = event.status
        elif len(self.forks) < MAX_FORKS:
            self.forks[event.to_tag] = [event.status, max(at - self.start_ns, 0) // 1_000_000]

    def link(self, why: str, call_hash: bytes) -> None:
        """Notes that another call belongs to the same people's conversation."""
        entry = [why, call_hash.hex()]
        if call_hash != self.call_hash and entry not in self.linked:
            self.linked = [*self.linked, entry][:MAX_LINKED]

    def has_seen(self, event: SipEvent) -> bool:
        """Whether the message was here before."""
        return _transaction(event) in self.seen

    def repeated(self, event: SipEvent) -> bool:
        """Whether the message is a retransmission; remembers it otherwise."""
        key = _transaction(event)
        if key in self.seen:
            self.retransmissions += 1
            if event.status < 200:
                # A callee that still rings says so again (RFC 3261 section 13.3.1.1).
                self.proof_ns = max(self.proof_ns, event.ts_ns if event.status else 0)
            return True
        if len(self.seen) >= MAX_SEEN:
            del self.seen[0]
        self.seen.append(key)
        return False

    @property
    def revivable(self) -> bool:
        """Ended only for want of a retry, so that a late retry goes on with the same call."""
        return self.state is State.ENDED and self.disposition in call_disposition.RETRIED.values()

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
        self.disposition = call_disposition.ANSWERED

    def _lose_branch(self, event: SipEvent, at: int) -> None:
        """Another phone answered too: it stands in the branch table and is never billed."""

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
        self.disposition, self.released_by = call_disposition.of_final(event.status, cancelling)
        return None

    def _give_up(self, event: SipEvent | None, at: int) -> None:
        """Nothing followed the challenge or the redirection, which so was the end."""
        self.disposition = call_disposition.RETRIED[self.state]

    def _no_final(self, event: SipEvent | None, at: int) -> None:
        """No final response came: the caller gave up, or nobody answered."""
        cancelled = self.state is State.CANCELLING
        self.disposition = call_disposition.CANCELLED if cancelled else call_disposition.NO_ANSWER
        self.released_by = "caller" if cancelled else ""
        self.flags |= CALL_FINAL_MISSING if cancelled else 0
        self.end_min_ns, self.end_max_ns = self.proof_ns, at

    def _abort(self, event: SipEvent, at: int) -> None:
        """A BYE before the answer is the call's failure, not its end."""
        self._released(event, at)
        self.disposition = call_disposition.FAILED

    def _released(self, event: SipEvent, at: int) -> None:
        self.proof_ns = self.end_min_ns = self.end_max_ns = at
        self.released_by = "caller" if event.from_tag == self.from_tag else "callee"
        self.q850 = event.q850 or self.q850

    def _hang_up(self, event: SipEvent, at: int) -> None:
        """The first BYE of the dialog is the end, whatever is answered to it."""
        self._released(event, at)
        if self.state is not State.UNCONFIRMED:
            self.disposition = call_disposition.ANSWERED

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
        self.disposition = call_disposition.UNCONFIRMED

    def _confirm_late(self, event: SipEvent, at: int) -> None:
        self._prove(event, at)
        self.disposition = call_disposition.ANSWERED

    def _vanish(self, event: SipEvent, at: int) -> None:
        """The dialog is over since some time before: the other side has none, or hung up unseen."""
        self.end_min_ns, self.end_max_ns = self.proof_ns, at

    def _report(self, event: SipEvent | None, at: int) -> None:
        """The call goes on: another version of its row, whose end is its last evidence."""
        self.partial += 1

    def _lose(self, event: SipEvent | None, at: int) -> None:
        """No BYE was seen: the call lasted to the last evidence, at most to the session timer."""
        self.end_min_ns = self.proof_ns
        expires = self.refresh_ns + self.session_expires * SECOND_NS
        self.end_max_ns = max(expires, self.proof_ns) if self.session_expires else 0


def _transaction(event: SipEvent) -> str:
    """What all copies of a message have alike: the transaction's key (RFC 3261 section 17.2.3);
    call and From-tag, which RFC 2543 adds where the branch has no magic cookie, are the leg's own.
    """
    key = f"{event.method}\0{event.status}\0{event.cseq}\0"
    return key + f"{event.to_tag}\0{event.sent_by}\0{event.branch}"
