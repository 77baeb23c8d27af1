"""Who holds which address now: opens and closes bindings and says which counters to read for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collector.parse.radius_attributes import Profile
from collector.track.session_state import (
    ACCOUNTING,
    Binding,
    Key,
    Prefix,
    Session,
    next_midnight,
    slice_of,
)
from collector.track.versions import Versions
from collector.wire.addr import MAPPED, network


@dataclass(frozen=True, slots=True)
class BindingChange:
    """An address began or ceased to be a subscriber's at `ts_ns`: read its volume counter now.

    `address` and `prefix_len` are as the counters are keyed; `kind` is "open" or "close".
    """

    ts_ns: int
    address: bytes
    prefix_len: int
    kind: str


Held = Mapping[str, tuple[Prefix, ...]]
"""Addresses and prefixes held, by kind."""


@dataclass(frozen=True, slots=True)
class Said:
    """How something held was said: when it was heard, by whom, as the begin of a session or not,
    and whether its authenticator was bad."""

    ts_ns: int
    source: str = ACCOUNTING
    is_stated: bool = False
    is_forged: bool = False


def held_by(profile: Profile) -> dict[str, tuple[Prefix, ...]]:
    """Addresses that a packet names, by kind; a kind it does not mention is absent."""
    said: dict[str, tuple[Prefix, ...]] = {
        "framed6": profile.framed_prefixes,
        "delegated6": profile.delegated_prefixes,
        "address6": profile.framed_ipv6,
    }
    if profile.framed_ipv4 is not None:
        said["framed4"] = ((profile.framed_ipv4, 128),)
    return {kind: prefixes for kind, prefixes in said.items() if prefixes}


class BindingTable:
    """Holders by prefix, and for how long the last holder of a free one had it.

    `max_released` bounds the memory of free prefixes, which only keeps a derived start from
    reaching into another's time.
    """

    def __init__(self, out: Versions, ipv6_prefix_len: int, max_released: int) -> None:
        self._out = out
        self._ipv6_prefix_len = ipv6_prefix_len
        self._max_released = max_released
        self._holders: dict[Prefix, Key] = {}
        self._released: OrderedDict[Prefix, tuple[bytes, int]] = OrderedDict()
        self._changes: list[BindingChange] = []

    def drain(self) -> list[BindingChange]:
        """Changes since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def holder(self, prefix: Prefix) -> Key | None:
        """The session that holds a prefix now."""
        return self._holders.get(prefix)

    def drop_others(
        self, session: Session, kind: str, prefixes: tuple[Prefix, ...], end: int, at: int
    ) -> None:
        """Closes what the session held of that kind and holds no longer."""
        kept = []
        for binding in session.bindings:
            if binding.kind == kind and binding.prefix not in prefixes:
                self.close(session, binding, end, at)
            else:
                kept.append(binding)
        session.bindings = kept

    def open(
        self,
        session: Session,
        kind: str,
        prefix: Prefix,
        start: int,
        certainty: str,
        source: str,
        at: int,
    ) -> None:
        """A binding from `start` on, or from where another session last held the prefix."""
        last = self._released.get(prefix)
        if last is not None and last[0] != session.session_id:
            start = max(start, last[1])
        binding = Binding(kind, *prefix, start, start, certainty, source)
        session.bindings = [*session.bindings, binding]
        self._hold(session, binding, at)
        while (midnight := next_midnight(binding.slice_ns)) <= session.slice_ns:
            session.write_binding(self._out, binding, midnight, midnight)
            binding.slice_ns = midnight
            session.write_binding(self._out, binding, 0, midnight)

    def close(self, session: Session, binding: Binding, end: int, at: int) -> None:
        """The end of a binding; `at` is when it became known."""
        if self._holders.get(binding.prefix) == session.key:
            del self._holders[binding.prefix]
        end = max(end, binding.from_ns)
        session.write_binding_closed(self._out, binding, end, at)
        self._released.pop(binding.prefix, None)
        self._released[binding.prefix] = (session.session_id, end)
        if len(self._released) > self._max_released:
            self._released.popitem(last=False)
        self._changed(binding, end, "close")

    def reopen(self, session: Session, at: int) -> None:
        """Gives a revived session back what nobody else has held since."""
        held = []
        for binding in session.bindings:
            last = self._released.get(binding.prefix)
            if binding.prefix not in self._holders and last and last[0] == session.session_id:
                binding.slice_ns = slice_of(binding.from_ns, binding.slice_ns, last[1])
                self._hold(session, binding, at)
                held.append(binding)
        session.bindings = held

    def _hold(self, session: Session, binding: Binding, at: int) -> None:
        self._holders[binding.prefix] = session.key
        session.write_binding(self._out, binding, 0, at)
        self._changed(binding, binding.from_ns, "open")

    def held(self) -> list[Prefix]:
        """What is held now, as counters are keyed."""
        return [self._keyed(*prefix) for prefix in self._holders]

    def _changed(self, binding: Binding, ts_ns: int, kind: str) -> None:
        self._changes.append(BindingChange(ts_ns, *self._keyed(*binding.prefix), kind))

    def _keyed(self, address: bytes, prefix_len: int) -> Prefix:
        """As counters are keyed: a single IPv6 address counts under its delegated prefix."""
        if address[:12] != MAPPED:
            prefix_len = min(prefix_len, self._ipv6_prefix_len)
        return network(address, prefix_len), prefix_len

    def snapshot(self) -> list[object]:
        """JSON-able memory of free prefixes; holders are in the sessions."""
        return [
            [base.hex(), length, ident.hex(), at]
            for (base, length), (ident, at) in self._released.items()
        ]

    def restore(self, state: list[Any], sessions: list[Session]) -> None:
        """Takes over a snapshot, and who holds what from the open sessions."""
        self._released = OrderedDict(
            ((bytes.fromhex(base), length), (bytes.fromhex(ident), at))
            for base, length, ident, at in state
        )
        self._holders = {b.prefix: s.key for s in sessions for b in s.bindings}
