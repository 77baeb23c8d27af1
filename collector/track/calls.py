"""Calls: turns SIP messages into call rows, one for each subscriber that called or was called.

Driven by `apply` (one event of `collector.parse.sip`), `tick` (time passed without one) and `take`
(a window closes). Here messages are matched to their legs by Call-ID, tags and address; before,
`call_order` puts them in order; `call_table` keeps the legs; what a message does to one is in
`call_leg`. Timers run on packet time, so replaying a capture gives the same rows.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Final

from collector.parse.ip import TCP
from collector.parse.sip import SipEvent
from collector.track.call_config import CallsConfig
from collector.track.call_leg import Leg
from collector.track.call_order import EventOrder
from collector.track.call_parties import Prefix, best, diverted, within
from collector.track.call_rules import Input, State
from collector.track.call_table import CallTable
from collector.track.losses import Losses
from collector.track.versions import Columns, Versions
from collector.wire.addr import MAPPED, network
from collector.wire.loss import Loss

__all__ = ["Calls", "CallsConfig"]

MAX_SIDES: Final = 16_384
"""Addresses of which it is remembered whose they are."""

Sides = tuple[Prefix | None, Prefix | None]
"""The subscribers that a message comes from and goes to; None outside the access network."""


class Calls:
    """The call tracker. `counts`: seen = recorded + ignored + lost + waiting for order."""

    def __init__(self, config: CallsConfig | None = None) -> None:
        self.config = config or CallsConfig()
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "retransmissions", "transit", "orphans")
            + ("unmoved", "late", "losing_branches", "partial", "evicted", "calls"),
            0,
        )
        self._out = Versions("call")
        self._losses = Losses(("call",), self.config.max_losses)
        self._order = EventOrder(self.config.reorder_ns, self.config.max_reorder)
        self._table = CallTable(self.config, self._out, self.counts, self._losses)
        self._side = lru_cache(MAX_SIDES)(partial(_side, self.config))

    # Input

    def apply(self, event: SipEvent, now_ns: int) -> None:
        """Takes one message; it is acted on once nothing earlier can still come.

        All rules use the event's own time, so that a replay at another `now_ns` is the same.
        """
        self.counts["seen"] += 1
        if not self._order.add(event):
            self.counts["late"] += 1
        self._drain()

    def tick(self, now_ns: int) -> None:
        """Lets time pass: what waited for order is acted on, timers run."""
        self._drain(now_ns)
        self._table.advance(now_ns - self.config.reorder_ns)

    def tell_open(self, now_ns: int) -> None:
        """Nothing will be known after `now_ns`: what has not ended is told as it stands."""
        self._table.tell_open(now_ns)

    def interrupt(self, at_ns: int) -> None:
        """Packets were lost until then: every call open at that time may lack a message, and is
        marked once nothing earlier can still come."""
        self._table.interrupt(at_ns)

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows of calls whose end became known before `end_ns` that no earlier call returned."""
        return self._out.take(end_ns)

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        return self._losses.take()

    @property
    def open_legs(self) -> int:
        """Legs whose call has not ended."""
        return self._table.open_legs

    @property
    def waiting(self) -> int:
        """Messages held back for order."""
        return len(self._order)

    def _drain(self, now_ns: int | None = None) -> None:
        """Acts on the messages whose turn has come."""
        for event in self._order.due(now_ns):
            self._table.advance(event.ts_ns)
            done = self._message(event)
            self.counts["lost" if done is None else "recorded" if done else "ignored"] += 1

    # Messages

    def _message(self, event: SipEvent) -> bool | None:
        """Gives a message to the legs it concerns; None where it was lost to a full table."""
        sides = (self._side(event.src), self._side(event.dst))
        if sides == (None, None):
            return self._ignore("transit")
        legs = [leg for leg in self._table.of_call(event.call_id) if _concerns(leg, event, sides)]
        if _is_first(event):
            legs = self._invited(event, sides, legs)
            if not legs:
                return None
        if not legs:
            if event.method == "BYE" and not event.status:
                return self._orphan_bye(event, sides)
            return self._ignore("orphans")
        # Every leg is to see the message, whatever it did to the one before.
        moved = [self._step(leg, event) for leg in legs]
        return True if any(moved) else self._ignore("unmoved")

    def _step(self, leg: Leg, event: SipEvent) -> bool:
        """Gives a message to one leg; True where it changed it."""
        if event.protocol == TCP and event.origin and leg.has_seen(event):
            # TCP repeats nothing (RFC 3261 section 17.1.1.2): this is what a later segment said.
            if _is_first(event):
                self._table.links.described(leg, event)
            return False
        if leg.repeated(event):
            self.counts["retransmissions"] += 1
            self._table.arm(leg)
            return False
        what = leg.meaning(event)
        if what is None:
            return False
        if what is Input.SUCCESS and leg.to_tag and event.to_tag != leg.to_tag:
            self.counts["losing_branches"] += 1
        # A message later than the reordering allows must not turn the leg's time back.
        at = max(event.ts_ns, leg.proof_ns)
        if what is Input.SUCCESS and not leg.answer_ns:
            self._connected(leg, event)
        if what is Input.REDIRECT and event.diversions:
            leg.diversions = diverted(event, self.config.region, leg.diversions)
        if event.method == "REFER" and not event.status:
            self._table.links.referred(leg, event)
        if not leg.step(what, event, at):
            return False
        self._table.settle(leg, at)
        return True

    def _connected(self, leg: Leg, event: SipEvent) -> None:
        """Who answered, as a trusted peer says (RFC 3325) and nobody asked to withhold."""
        if event.p_asserted and not event.privacy and within(event.src, self.config.trusted):
            number = best(event.p_asserted, self.config.region)
            leg.connected_raw, leg.connected_e164 = number.raw, number.e164

    def _ignore(self, why: str) -> bool:
        self.counts[why] += 1
        return False

    def _invited(self, event: SipEvent, sides: Sides, known: list[Leg]) -> list[Leg]:
        """The legs of an INVITE, new ones made: one for the caller inside, one for the callee."""
        legs = []
        for side, direction in zip(sides, ("out", "in"), strict=True):
            if side is None:
                continue
            mine = [leg for leg in known if leg.direction == direction]
            # After its end the same Call-ID with a higher CSeq is another call, unless it only
            # ended for want of this retry.
            current = mine[-1] if mine else None
            if current is not None and (
                current.state is not State.ENDED
                or event.cseq <= max(current.cseqs, default=0)
                or current.revivable
            ):
                legs.append(current)
            else:
                leg = self._table.new(event, side, direction)
                if leg is not None:
                    legs.append(leg)
        return legs

    def _orphan_bye(self, event: SipEvent, sides: Sides) -> bool | None:
        """A BYE whose INVITE was not seen: there was a call, of which only the end is known.

        Who called is not known, so `direction` is empty; A is who hung up.
        """
        done: bool | None = None
        for side in dict.fromkeys(side for side in sides if side is not None):
            leg = self._table.new(event, side, "")
            if leg is None:
                continue
            leg.state = State.ENDED
            leg.end_min_ns = leg.end_max_ns = leg.ended_ns = event.ts_ns
            leg.q850 = event.q850
            leg.repeated(event)
            self.counts["partial"] += 1
            self._table.settle(leg, event.ts_ns)
            done = True
        return done

    # Restart

    def snapshot(self) -> dict[str, object]:
        """JSON-able state: everything that a message after it may depend on."""
        return {
            "version": 3,
            **self._table.snapshot(),
            **self._order.snapshot(),
            "rows": self._out.snapshot(),
            "counts": dict(self.counts),
        }

    def restore(self, snapshot: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot. Messages journalled after it are then applied again; calls that
        are open when the first time from `now_ns` on comes are marked as interrupted.

        Raises ValueError, KeyError or TypeError where the snapshot is not of this version.
        """
        if snapshot["version"] != 3:
            raise ValueError("unknown snapshot version")
        self._out.restore(snapshot["rows"])
        self.counts.update(snapshot["counts"])
        self._order.restore(snapshot)
        self._table.restore(snapshot, now_ns)


def _side(config: CallsConfig, address: bytes) -> Prefix | None:
    """The subscriber an address belongs to; None outside the access network."""
    if not within(address, config.access):
        return None
    length = 128 if address[:12] == MAPPED else config.ipv6_prefix_len
    return network(address, length), length


def _is_first(event: SipEvent) -> bool:
    """Whether the message is an INVITE that begins a call, or tries again to."""
    return event.method == "INVITE" and not event.status and not event.to_tag


def _concerns(leg: Leg, event: SipEvent, sides: Sides) -> bool:
    """Whether the message passed this leg's subscriber within this leg's call."""
    if leg.from_tag not in (event.from_tag, event.to_tag) and leg.direction:
        return False
    here = (leg.address, leg.prefix_len)
    if _is_first(event):
        # The caller's side sends the INVITE, the callee's side receives it.
        return sides[0 if leg.direction == "out" else 1] == here
    return here in sides
