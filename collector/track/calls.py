"""Calls: turns SIP messages into call rows, one for each subscriber that called or was called.

Driven by `apply` (one event of `collector.parse.sip`), `tick` (time passed without one) and `take`
(a window closes). The state machine of one side is `collector.track.call_leg`; here messages are
put in order, matched to their legs by Call-ID, tags and address, and the table is kept bounded.
Timers run on packet time, so replaying a capture gives the same rows.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from collector.parse.sip import SipEvent
from collector.track import numbers
from collector.track.call_leg import SECOND_NS, Input, Leg, State
from collector.track.numbers import Number
from collector.track.versions import Columns, Versions
from collector.wire.addr import MAPPED, network
from collector.wire.loss import Loss
from collector.wire.records import CALL_INTERRUPTED, record_id

Prefix = tuple[bytes, int]
"""Base and length in 128 bits of a prefix, as `collector.wire.addr.network` gives it."""

_WITHHELD: Final = frozenset(("id", "user", "header"))
"""Privacy values that withhold the caller (RFC 3323 section 4.2, RFC 3325 section 9.3)."""
_OPEN: Final = frozenset((State.ANSWERED, State.UNCONFIRMED, State.CONFIRMED))


@dataclass(frozen=True, slots=True)
class CallsConfig:
    """Rules and limits; every limit bounds memory, the reason is with each.

    access: prefixes of subscribers. trusted: prefixes of peers whose P-Asserted-Identity counts.
    region: country whose numbering plan dialled numbers follow.
    """

    access: tuple[Prefix, ...] = ()
    trusted: tuple[Prefix, ...] = ()
    region: str = "GB"
    ipv6_prefix_len: int = 56
    # Four times as many as 64,000 lines hold in a busy hour at 0.2 Erlang.
    max_legs: int = 65_536
    # Forks of one call to one subscriber stay in one leg; more than this is a flood.
    max_legs_per_call: int = 32
    # Two interfaces and their queues differ by less; later is a different message.
    reorder_ns: int = SECOND_NS // 5
    max_reorder: int = 65_536
    # Retransmissions stop after 32 s (RFC 3261 timer J); a late retry is one slow answer later.
    linger_ns: int = 64 * SECOND_NS
    # Callees repeat 18x each minute while they ring (RFC 3261 section 13.3.1.1).
    ring_timeout_ns: int = 300 * SECOND_NS
    # Calls without a session timer: nobody is billed for it, as the end is the last evidence.
    idle_ns: int = 86_400 * SECOND_NS
    max_losses: int = 1024


class Calls:
    """The table of calls. `counts`: seen = recorded + ignored + lost + waiting for order."""

    def __init__(self, config: CallsConfig | None = None) -> None:
        self.config = config or CallsConfig()
        self.counts: dict[str, int] = dict.fromkeys(
            ("seen", "recorded", "ignored", "lost", "retransmissions", "transit", "orphans")
            + ("unmoved", "late", "losing_branches", "partial", "evicted", "calls"),
            0,
        )
        self._out = Versions("call")
        self._legs: dict[int, Leg] = {}
        self._by_call: dict[str, list[int]] = {}
        self._loose: OrderedDict[int, None] = OrderedDict()
        self._timers: list[tuple[int, int]] = []
        self._waiting: list[tuple[int, int, SipEvent]] = []
        self._losses: list[Loss] = []
        self._number = 0
        self._arrivals = 0
        self._newest_ns = 0
        self._drained_ns = 0
        self._restart_ns = 0
        self._unmarked = False

    # Input

    def apply(self, event: SipEvent, now_ns: int) -> None:
        """Takes one message; it is acted on once nothing earlier can still come.

        All rules use the event's own time, so that a replay at another `now_ns` is the same.
        """
        self.counts["seen"] += 1
        self._arrivals += 1
        if event.ts_ns < self._drained_ns:
            self.counts["late"] += 1
        heapq.heappush(self._waiting, (event.ts_ns, self._arrivals, event))
        self._newest_ns = max(self._newest_ns, event.ts_ns)
        self._drain(self._newest_ns - self.config.reorder_ns)

    def tick(self, now_ns: int) -> None:
        """Lets time pass: what waited for order is acted on, timers run."""
        self._drain(now_ns - self.config.reorder_ns)
        self._advance(now_ns - self.config.reorder_ns)
        self._mark(now_ns - self.config.reorder_ns)

    def interrupt(self) -> None:
        """Packets were lost: every call open now may lack a message, and is marked."""
        for leg in self._legs.values():
            if leg.state is not State.ENDED:
                leg.flags |= CALL_INTERRUPTED

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Rows of calls whose end became known before `end_ns` that no earlier call returned."""
        return self._out.take(end_ns)

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    @property
    def open_legs(self) -> int:
        """Legs whose call has not ended."""
        return sum(leg.state is not State.ENDED for leg in self._legs.values())

    @property
    def waiting(self) -> int:
        """Messages held back for order."""
        return len(self._waiting)

    def _drain(self, upto_ns: int) -> None:
        """Acts on messages up to that time in order; a full queue gives the oldest early."""
        while self._waiting and (
            self._waiting[0][0] <= upto_ns or len(self._waiting) > self.config.max_reorder
        ):
            at, _, event = heapq.heappop(self._waiting)
            self._drained_ns = max(self._drained_ns, at)
            self._advance(at)
            self._mark(at)
            done = self._message(event)
            outcome = "lost" if done is None else "recorded" if done else "ignored"
            self.counts[outcome] += 1

    def _mark(self, at_ns: int) -> None:
        """Flags what is open when the first time after the restart comes, once."""
        if self._unmarked and at_ns >= self._restart_ns:
            self._unmarked = False
            self.interrupt()

    # Messages

    def _message(self, event: SipEvent) -> bool | None:
        """Gives a message to the legs it concerns; None where it was lost to a full table."""
        sides = (self._side(event.src), self._side(event.dst))
        if sides == (None, None):
            return self._ignore("transit")
        first = event.method == "INVITE" and not event.status and not event.to_tag
        numbered = self._by_call.get(event.call_id, [])
        legs = [self._legs[n] for n in numbered if self._concerns(self._legs[n], event, sides)]
        if first:
            legs = self._invited(event, sides, legs)
            if not legs:
                return None
        if not legs:
            if event.method == "BYE" and not event.status:
                return self._orphan_bye(event, sides)
            return self._ignore("orphans")
        moved = False
        for leg in legs:
            if leg.repeated(event):
                self.counts["retransmissions"] += 1
                self._arm(leg)
                continue
            what = leg.meaning(event)
            if what is None:
                continue
            if what is Input.SUCCESS and leg.to_tag and event.to_tag != leg.to_tag:
                self.counts["losing_branches"] += 1
            # A message later than the reordering allows must not turn the leg's time back.
            at = max(event.ts_ns, leg.proof_ns)
            if leg.step(what, event, at):
                moved = True
                self._settle(leg, at)
        return True if moved else self._ignore("unmoved")

    def _ignore(self, why: str) -> bool:
        self.counts[why] += 1
        return False

    def _side(self, address: bytes) -> Prefix | None:
        """The subscriber an address belongs to; None outside the access network."""
        if not _within(address, self.config.access):
            return None
        length = 128 if address[:12] == MAPPED else self.config.ipv6_prefix_len
        return network(address, length), length

    def _concerns(
        self, leg: Leg, event: SipEvent, sides: tuple[Prefix | None, Prefix | None]
    ) -> bool:
        """Whether the message passed this leg's subscriber within this leg's call."""
        if leg.from_tag not in (event.from_tag, event.to_tag) and leg.direction:
            return False
        here = (leg.address, leg.prefix_len)
        if event.method == "INVITE" and not event.status and not event.to_tag:
            # The caller's side sends the INVITE, the callee's side receives it.
            return sides[0 if leg.direction == "out" else 1] == here
        return here in sides

    def _invited(
        self, event: SipEvent, sides: tuple[Prefix | None, Prefix | None], known: list[Leg]
    ) -> list[Leg]:
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
                leg = self._new(event, side, direction)
                if leg is not None:
                    legs.append(leg)
        return legs

    def _new(self, event: SipEvent, side: Prefix, direction: str) -> Leg | None:
        """A leg in the table; None, and a loss, where there is no room."""
        beside = self._by_call.get(event.call_id, [])
        if len(beside) >= self.config.max_legs_per_call or (
            len(self._legs) >= self.config.max_legs and not self._evict(event.ts_ns)
        ):
            self._loss(event.ts_ns, event.ts_ns + 1, "call-table-full")
            return None
        self._number += 1
        address, length = side
        leg = Leg(
            number=self._number,
            call_id=event.call_id,
            from_tag=event.from_tag,
            call_hash=record_id("call-hash", event.call_id, event.from_tag),
            address=address,
            prefix_len=length,
            direction=direction,
            start_ns=event.ts_ns,
            proof_ns=event.ts_ns,
            idle_ns=self.config.idle_ns,
            ring_timeout_ns=self.config.ring_timeout_ns,
        )
        self._name(leg, event)
        self._legs[leg.number] = leg
        self._by_call.setdefault(event.call_id, []).append(leg.number)
        self._loose[leg.number] = None
        self.counts["calls"] += 1
        return leg

    def _name(self, leg: Leg, event: SipEvent) -> None:
        """Numbers of both parties, and whether the caller's is withheld (rules 15 to 17)."""
        region = self.config.region
        caller = numbers.from_uri(event.from_uri, region)
        if event.p_asserted and _within(event.src, self.config.trusted):
            stated = [numbers.from_uri(uri, region) for uri in event.p_asserted]
            caller = next((n for n in stated if n.e164), stated[0])
        withheld = event.anonymous or bool(_WITHHELD.intersection(event.privacy))
        called = [numbers.from_uri(uri, region) for uri in (event.request_uri, event.to_uri) if uri]
        callee = _dialled(called, leg.direction)
        leg.a_raw, leg.a_e164 = caller.raw, caller.e164
        leg.b_raw, leg.b_e164 = callee.raw, callee.e164
        leg.presentation = "restricted" if withheld else "allowed"
        leg.emergency = int(any(n.kind == "emergency" for n in called))

    def _orphan_bye(
        self, event: SipEvent, sides: tuple[Prefix | None, Prefix | None]
    ) -> bool | None:
        """A BYE whose INVITE was not seen: there was a call, of which only the end is known.

        Who called is not known, so `direction` is empty; A is who hung up.
        """
        done: bool | None = None
        for side in dict.fromkeys(side for side in sides if side is not None):
            leg = self._new(event, side, "")
            if leg is None:
                continue
            leg.state = State.ENDED
            leg.end_min_ns = leg.end_max_ns = leg.ended_ns = event.ts_ns
            leg.q850 = event.q850
            leg.repeated(event)
            self.counts["partial"] += 1
            self._settle(leg, event.ts_ns)
            done = True
        return done

    # Ends and timers

    def _settle(self, leg: Leg, at: int) -> None:
        """After a step: writes the row of a leg that ended, arms the timer."""
        if leg.number not in self._legs:
            return  # put out by the other leg of the same INVITE
        if leg.state is State.ENDED:
            self._out.add("call", leg.row(), at)
        if leg.state in _OPEN:
            self._loose.pop(leg.number, None)
        else:
            self._loose[leg.number] = None
        self._arm(leg)

    def _arm(self, leg: Leg) -> None:
        due = leg.due_ns(self.config.linger_ns)
        if not leg.timer_ns or due < leg.timer_ns:
            leg.timer_ns = due
            heapq.heappush(self._timers, (due, leg.number))

    def _advance(self, now_ns: int) -> None:
        """Runs the timers that are due, in order of their time."""
        while self._timers and self._timers[0][0] <= now_ns:
            due, number = heapq.heappop(self._timers)
            leg = self._legs.get(number)
            if leg is None or leg.timer_ns != due:
                continue
            leg.timer_ns = 0
            if leg.due_ns(self.config.linger_ns) > due:
                self._arm(leg)
            elif leg.state is State.ENDED:
                self._forget(leg)
            else:
                leg.step(Input.TIMER, None, due)
                self._settle(leg, due)

    def _forget(self, leg: Leg) -> None:
        del self._legs[leg.number]
        self._loose.pop(leg.number, None)
        beside = self._by_call[leg.call_id]
        beside.remove(leg.number)
        if not beside:
            del self._by_call[leg.call_id]

    def _evict(self, now_ns: int) -> bool:
        """Makes room by the oldest leg that is not an answered call; False where all are."""
        if not self._loose:
            return False
        leg = self._legs[next(iter(self._loose))]
        if leg.state is not State.ENDED:
            self.counts["evicted"] += 1
            self._loss(leg.start_ns, now_ns, "call-evicted")
            self._out.add("call", leg.row(), now_ns)
        self._forget(leg)
        return True

    def _loss(self, start_ns: int, end_ns: int, reason: str) -> None:
        amount = 1
        if len(self._losses) >= self.config.max_losses:
            # Joined with the last: the interval grows, the amount stays exact.
            last = self._losses.pop()
            start_ns, end_ns = min(last.start_ns, start_ns), max(last.end_ns, end_ns)
            amount += last.amount
        end_ns = max(end_ns, start_ns + 1)
        self._losses.append(Loss(start_ns, end_ns, "track", reason, amount, "events", ("call",)))

    # Restart

    def snapshot(self) -> dict[str, object]:
        """JSON-able state: everything that a message after it may depend on."""
        return {
            "version": 1,
            "legs": [leg.to_json() for leg in self._legs.values()],
            "loose": list(self._loose),
            "waiting": [[n, event.to_json()] for _, n, event in sorted(self._waiting, key=_order)],
            "number": self._number,
            "arrivals": self._arrivals,
            "newest_ns": self._newest_ns,
            "drained_ns": self._drained_ns,
            "rows": self._out.snapshot(),
            "counts": dict(self.counts),
        }

    def restore(self, snapshot: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot. Messages journalled after it are then applied again; calls that
        are open when the first time from `now_ns` on comes are marked as interrupted.

        Raises ValueError, KeyError or TypeError where the snapshot is not of this version.
        """
        if snapshot["version"] != 1:
            raise ValueError("unknown snapshot version")
        self._out.restore(snapshot["rows"])
        self.counts.update(snapshot["counts"])
        self._number, self._arrivals = snapshot["number"], snapshot["arrivals"]
        self._newest_ns, self._drained_ns = snapshot["newest_ns"], snapshot["drained_ns"]
        self._waiting = []
        for arrival, data in snapshot["waiting"]:
            event = SipEvent.from_json(data)
            heapq.heappush(self._waiting, (event.ts_ns, arrival, event))
        self._legs, self._by_call, self._timers = {}, {}, []
        for data in snapshot["legs"]:
            leg = Leg.from_json(data)
            self._legs[leg.number] = leg
            self._by_call.setdefault(leg.call_id, []).append(leg.number)
            self._arm(leg)
        self._loose = OrderedDict.fromkeys(snapshot["loose"])
        self._restart_ns, self._unmarked = now_ns, True


def _order(item: tuple[int, int, SipEvent]) -> tuple[int, int]:
    return item[0], item[1]


def _within(address: bytes, prefixes: tuple[Prefix, ...]) -> bool:
    return any(network(address, length) == base for base, length in prefixes)


def _dialled(called: list[Number], direction: str) -> Number:
    """Who was called: the Request-URI as the caller sent it, the To as the callee got it, where
    the Request-URI is the phone's own contact; a number before a name."""
    ordered = called if direction == "out" else called[::-1]
    named = [n for n in ordered if n.kind in ("e164", "emergency", "short", "invalid")]
    named += [n for n in ordered if n.raw]
    return named[0] if named else numbers.NONE
