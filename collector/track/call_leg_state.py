"""What is known of one side of a call: when its time is over, its `call` row and its snapshot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from collector.track import call_disposition
from collector.track.call_parties import fitting
from collector.track.call_rules import State
from collector.track.versions import Row

SECOND_NS: Final = 1_000_000_000
TRANSACTION_NS: Final = 32 * SECOND_NS
"""64 * T1: when a transaction gives up (RFC 3261 section 17.1.1.2, timers B, F and H)."""


@dataclass(slots=True)
class LegState:
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
    report_ns: int
    """How often a call that goes on is told of."""
    a_raw: str = ""
    a_e164: str = ""
    a_kind: str = ""
    a_source: str = ""
    a_asserted: str = ""
    b_raw: str = ""
    b_e164: str = ""
    b_kind: str = ""
    b_source: str = ""
    b_parameters: str = ""
    connected_raw: str = ""
    connected_e164: str = ""
    diversions: str = ""
    charged: str = "caller"
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
    forks: dict[str, list[int]] = field(default_factory=dict)
    """By To-tag: its last status, and ms from the start to its first response."""
    linked: list[list[str]] = field(default_factory=list)
    """(why, call_hash in hex) of other calls."""
    partial: int = 0
    """Hourly versions written."""
    ended_ns: int = 0
    """When the end became known, from which the leg lingers."""
    timer_ns: int = 0

    def due_ns(self, linger_ns: int) -> int:
        """When the leg's timer must run: for its hourly version or as its state's time is over."""
        over = self._over_ns(linger_ns)
        return min(over, self.next_report_ns) if self.state is State.CONFIRMED else over

    @property
    def next_report_ns(self) -> int:
        """When the next hourly version of a confirmed call is due."""
        return self.answer_ns + (self.partial + 1) * self.report_ns

    def _over_ns(self, linger_ns: int) -> int:
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
        return {
            "call_hash": self.call_hash,
            "address": self.address,
            "prefix_len": self.prefix_len,
            "direction": self.direction,
            "a_raw": self.a_raw,
            "a_e164": self.a_e164,
            "a_kind": self.a_kind,
            "a_source": self.a_source,
            "a_asserted": self.a_asserted,
            "b_raw": self.b_raw,
            "b_e164": self.b_e164,
            "b_kind": self.b_kind,
            "b_source": self.b_source,
            "b_parameters": self.b_parameters,
            "connected_raw": self.connected_raw,
            "connected_e164": self.connected_e164,
            "diversions": self.diversions,
            "charged": self.charged,
            "presentation": self.presentation,
            "start_ns": self.start_ns,
            "ring_ns": self.ring_ns,
            "answer_ns": self.answer_ns,
            "end_min_ns": end,
            "end_max_ns": self.end_max_ns,
            "setup_ms": _ms(self.start_ns, self.answer_ns or end),
            "ring_ms": _ms(self.ring_ns, self.answer_ns or end) if self.ring_ns else 0,
            "talk_ms": _ms(self.answer_ns, end) if self.answer_ns else 0,
            "disposition": self.disposition or call_disposition.PARTIAL,
            "sip_code": self.sip_code,
            "q850": self.q850,
            "released_by": self.released_by,
            "session_expires_s": self.session_expires,
            "emergency": self.emergency,
            "branches": fitting([[_tag(tag), *told] for tag, told in self.forks.items()]),
            "linked": fitting(self.linked),
            "partial": 0 if self.state is State.ENDED else self.partial,
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
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The leg that `to_json` wrote, its timer not armed."""
        values = {name: data[name] for name in _FIELDS}
        values["call_hash"] = bytes.fromhex(data["call_hash"])
        values["address"] = bytes.fromhex(data["address"])
        values["state"] = State(data["state"])
        return cls(**values)


def _ms(start_ns: int, end_ns: int) -> int:
    return max(end_ns - start_ns, 0) // 1_000_000


def _tag(tag: str) -> str:
    """A To-tag hashed: some phones put their address or serial number into it."""
    return hashlib.blake2b(tag.encode(), digest_size=4).hexdigest()


_FIELDS: Final = tuple(f.name for f in fields(LegState) if f.name != "timer_ns")
