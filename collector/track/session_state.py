"""One access session and its bindings as state: their day slices, their rows and their snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from collector.parse.radius_attributes import Profile
from collector.track.nastime import SECOND_NS
from collector.track.session_seen import Seen
from collector.track.versions import Row, Versions
from collector.wire.records import record_id

DAY_NS: Final = 86_400 * 1_000_000_000
MAX_UNPROVEN: Final = 32
"""Closed slices that wait for a proof of life past their midnight; a session that gives none for
a month ends as stale long before."""

STATED: Final = "stated"
DERIVED: Final = "derived"
CERTAIN: Final = "certain"
BOUNDED: Final = "bounded"

ACCOUNTING: Final = "accounting"
"""What a session or binding is known from: accounting, accept, dhcp, dhcpv6, dhcpv6-pd or pppoe."""

Key = tuple[str, int, str]
"""NAS, its boot epoch, Acct-Session-Id."""
Prefix = tuple[bytes, int]
"""Base address and length in 128 bits."""


def next_midnight(at_ns: int) -> int:
    """The first UTC midnight after `at_ns`."""
    return at_ns // DAY_NS * DAY_NS + DAY_NS


def closing_slices(start_ns: int, current_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each slice that an end at `end_ns` closes, newest first.

    Slices that had begun only because the end was heard late come out with no length, which
    withdraws them; the last one holds the end.
    """
    at = current_ns
    while at > start_ns and at >= end_ns:
        yield at, at
        at = max(start_ns, (at - 1) // DAY_NS * DAY_NS)
    yield at, max(at, end_ns)


def slice_of(start_ns: int, current_ns: int, end_ns: int) -> int:
    """Start of the slice that holds `end_ns`, where slices up to `current_ns` had begun."""
    return current_ns if end_ns >= current_ns else max(start_ns, end_ns // DAY_NS * DAY_NS)


@dataclass(slots=True)
class Binding:
    """One address or prefix held; `slice_ns` is the start of the current day's slice."""

    kind: str
    address: bytes
    prefix_len: int
    from_ns: int
    slice_ns: int
    certainty: str
    source: str = ACCOUNTING

    @property
    def prefix(self) -> Prefix:
        return self.address, self.prefix_len


@dataclass(slots=True)
class Session:
    """One session; times in ns, `proof_ns` is the last proof of life."""

    nas: str
    epoch: int
    acct_session_id: str
    session_id: bytes
    start_ns: int
    start_source: str
    slice_ns: int
    proof_ns: int
    subscriber: str = ""
    line: str = ""
    port_key: str = ""
    user_name: str = ""
    realm: str = ""
    cui: str = ""
    up: int = 0
    down: int = 0
    raw_up: int = 0
    raw_down: int = 0
    terminate_cause: int = -1
    verified: str = ""
    acked: int = 0
    flags: int = 0
    timeout_ns: int = 0
    interval_ns: int = 0
    origin: str = ACCOUNTING
    mac: str = ""
    """Hardware address of the line's equipment as twelve hex digits; empty where unknown."""
    lease_ns: int = 0
    """When the last lease granted runs out; 0 where the session is none."""
    lease_xid: int = -1
    """The DHCP transaction that extended it last."""
    ending_ns: int = 0
    """When the NAS was seen to end it on command; 0 where it was not, or lived on."""
    end_ns: int = 0
    end_max_ns: int = 0
    end_reason: str = ""
    start_seen_ns: int = 0
    start_stamp_ns: int = 0
    last_seen_ns: int = 0
    last_stamp_ns: int = 0
    """When the packets came that say how it began and what is last known, and the NAS's own times
    of them; 0 where they have none."""
    seen: Seen | None = None
    """The last event."""
    settled: Profile | None = None
    """What was said last of it, where all of that is in its fields and bindings as they stand."""
    unproven: list[list[int]] = field(default_factory=list)
    """(slice start, slice end, up, down) of slices closed at a midnight without later proof."""
    bindings: list[Binding] = field(default_factory=list)
    row_id: bytes = b""
    row: list[Any] | None = None
    """The version that `write_open` last made, of which the next may be made."""
    row_slice_ns: int = -1
    """The slice that `write_open` last made `row_id` of."""
    timer_ns: int = 0
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.nas, self.epoch, self.acct_session_id)

    @classmethod
    def begun(cls, key: Key, at: int, origin: str) -> Session:
        """A session that was seen to begin at `at`, of a source that uses its keys again."""
        nas, epoch, name = key
        ident = record_id("session-key", *key, at)
        session = cls(nas, epoch, name, ident, at, STATED, at, at, origin=origin)
        session.heard(at)
        return session

    def heard(self, ts_ns: int, stamp_s: int | None = None) -> None:
        """A packet came that says something new of the session; the first says how it began."""
        stamp_ns = (stamp_s or 0) * SECOND_NS
        self.last_seen_ns, self.last_stamp_ns = ts_ns, stamp_ns
        if not self.start_seen_ns:
            self.start_seen_ns, self.start_stamp_ns = ts_ns, stamp_ns

    def holds(self, held: Mapping[str, tuple[Prefix, ...]]) -> bool:
        """Whether its bindings of each kind named are these."""
        return all(
            [b.prefix for b in self.bindings if b.kind == kind] == [*prefixes]
            for kind, prefixes in held.items()
        )

    def _row(self, slice_ns: int, slice_end: int, end_min: int, end_max: int, reason: str) -> Row:
        return {
            "session_id": self.session_id,
            "subscriber": self.subscriber,
            "nas": self.nas,
            "acct_session_id": self.acct_session_id,
            "nas_epoch": self.epoch,
            "line": self.line,
            "user_name": self.user_name,
            "realm": self.realm,
            "cui": self.cui,
            "start_ns": self.start_ns,
            "start_source": self.start_source,
            "slice_start_ns": slice_ns,
            "slice_end_ns": slice_end,
            "end_min_ns": end_min,
            "end_max_ns": end_max,
            "end_reason": reason,
            "up_octets": self.up,
            "down_octets": self.down,
            "terminate_cause": self.terminate_cause,
            "verified": self.verified,
            "acked": self.acked,
            "flags": self.flags,
            "start_seen_ns": self.start_seen_ns,
            "start_stamp_ns": self.start_stamp_ns,
            "last_seen_ns": self.last_seen_ns,
            "last_stamp_ns": self.last_stamp_ns,
        }

    def write_open(self, out: Versions, at_ns: int) -> None:
        """The current slice as it stands; slices before it once this proof covers them."""
        if self.unproven:
            for slice_ns, end_ns, up, down in self.unproven:
                if self.proof_ns >= end_ns:
                    row = self._row(slice_ns, end_ns, end_ns, end_ns, "")
                    out.add("session", {**row, "up_octets": up, "down_octets": down}, at_ns)
            self.unproven = [part for part in self.unproven if part[1] > self.proof_ns]
        proof = max(self.slice_ns, self.proof_ns)
        known = self.row_id if self.row_slice_ns == self.slice_ns else b""
        row = self._row(self.slice_ns, 0, proof, 0, "")
        self.row_id, self.row_slice_ns = out.add("session", row, at_ns, known), self.slice_ns
        self.row = out.newest(self.row_id)

    def write_closed(self, out: Versions, at_ns: int) -> None:
        """The slices that the end, already in `end_ns`, closes or withdraws."""
        parts = list(closing_slices(self.start_ns, self.slice_ns, self.end_ns))
        for slice_ns, end_ns in reversed(parts):
            end_max = max(end_ns, self.end_max_ns) if self.end_max_ns else 0
            row = self._row(slice_ns, end_ns, end_ns, end_max, self.end_reason)
            self.row_id, self.row_slice_ns = out.add("session", row, at_ns), -1
        self.row = None
        closed = parts[-1][0]
        for slice_ns, end_ns, up, down in self.unproven:
            if slice_ns < closed:
                row = self._row(slice_ns, end_ns, end_ns, end_ns, "")
                out.add("session", {**row, "up_octets": up, "down_octets": down}, at_ns)
        self.unproven = []

    def write_binding(self, out: Versions, binding: Binding, to_ns: int, at_ns: int) -> None:
        """The current slice of a binding; `to_ns` is 0 while it is open."""
        self._binding_row(out, binding, binding.slice_ns, to_ns, at_ns)

    def write_binding_closed(self, out: Versions, binding: Binding, end_ns: int, at: int) -> None:
        """The slices of a binding that an end at `end_ns` closes or withdraws."""
        for slice_ns, to_ns in closing_slices(binding.from_ns, binding.slice_ns, end_ns):
            self._binding_row(out, binding, slice_ns, to_ns, at)

    def _binding_row(
        self, out: Versions, binding: Binding, from_ns: int, to_ns: int, at_ns: int
    ) -> None:
        row: Row = {
            "session_id": self.session_id,
            "subscriber": self.subscriber,
            "address": binding.address,
            "prefix_len": binding.prefix_len,
            "valid_from_ns": from_ns,
            "valid_to_ns": to_ns,
            "certainty": binding.certainty,
            "source": binding.source,
        }
        out.add("binding", row, at_ns)

    def roll(self, out: Versions, upto_ns: int) -> None:
        """Closes the slices whose midnight is not after `upto_ns` and opens the next ones."""
        while (midnight := next_midnight(self.slice_ns)) <= upto_ns:
            proof = min(max(self.proof_ns, self.slice_ns), midnight)
            out.add("session", self._row(self.slice_ns, midnight, proof, midnight, ""), midnight)
            if proof < midnight:
                self.unproven = [
                    *self.unproven[1 - MAX_UNPROVEN :],
                    [self.slice_ns, midnight, self.up, self.down],
                ]
            self.slice_ns = midnight
            self.write_open(out, midnight)
            for binding in self.bindings:
                if binding.slice_ns < midnight:
                    self.write_binding(out, binding, midnight, midnight)
                    binding.slice_ns = midnight
                    self.write_binding(out, binding, 0, midnight)

    def to_json(self) -> dict[str, object]:
        """JSON-able state, bytes as hex."""
        out: dict[str, object] = {name: getattr(self, name) for name in _PLAIN}
        out["session_id"] = self.session_id.hex()
        out["row_id"] = self.row_id.hex()
        out["seen"] = self.seen.to_json() if self.seen else []
        out["bindings"] = [
            [b.kind, b.address.hex(), b.prefix_len, b.from_ns, b.slice_ns, b.certainty, b.source]
            for b in self.bindings
        ]
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Session:
        """The session that `to_json` wrote, its timer not armed."""
        values = {name: data[name] for name in _PLAIN if name in data}
        values["session_id"] = bytes.fromhex(data["session_id"])
        values["row_id"] = bytes.fromhex(data["row_id"])
        values["seen"] = Seen.from_json(data["seen"]) if data["seen"] else None
        values["bindings"] = [
            Binding(kind, bytes.fromhex(base), *rest) for kind, base, *rest in data["bindings"]
        ]
        return cls(**values)


_PLAIN: Final = tuple(
    f.name
    for f in fields(Session)
    if f.name
    not in ("session_id", "row_id", "bindings", "seen", "settled", "row", "timer_ns", "key")
)
