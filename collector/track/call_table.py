"""The legs of all calls by Call-ID, bounded: turns ends, silence and a full table into `call` rows.

`advance` runs their timers: a leg whose state's time is over goes on to the next state, and one
that has ended is forgotten once nothing of it can come any more.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Any, Final

from collector.parse.sip import SipEvent
from collector.track.call_config import CallsConfig
from collector.track.call_leg import Leg
from collector.track.call_links import CallLinks
from collector.track.call_parties import Parties, Prefix, parameters, parties_of
from collector.track.call_rules import Input, State
from collector.track.losses import Losses
from collector.track.versions import Versions
from collector.wire.records import CALL_INTERRUPTED, record_id

_ANSWERED: Final = frozenset((State.ANSWERED, State.UNCONFIRMED, State.CONFIRMED))


MAX_INTERRUPTS: Final = 64
"""Interruptions that wait for their time: they come once a second and wait a fifth of one."""


def _named(parties: Parties) -> dict[str, Any]:
    """The columns of a leg that name its parties."""
    return {
        "a_raw": parties.caller.raw,
        "a_e164": parties.caller.e164,
        "a_kind": parties.caller.kind,
        "a_source": parties.caller_source,
        "a_asserted": parties.asserted,
        "b_raw": parties.callee.raw,
        "b_e164": parties.callee.e164,
        "b_kind": parties.callee.kind,
        "b_source": parties.callee_source,
        "b_parameters": parameters(parties.callee),
        "diversions": parties.diversions,
        "charged": parties.charged,
        "presentation": "restricted" if parties.withheld else "allowed",
        "emergency": int(parties.emergency),
    }


MAX_SPARED: Final = 8
"""Emergency calls passed over in one eviction, so that it takes no longer for a flood of them."""
MAX_STALE: Final = 4
"""Timers a leg, of which all but one are of legs that are gone or were set anew."""


class CallTable:
    """Legs by number and by Call-ID; `counts` is the tracker's and added to."""

    def __init__(
        self, config: CallsConfig, out: Versions, counts: dict[str, int], losses: Losses
    ) -> None:
        self._config = config
        self._out = out
        self._counts = counts
        self._losses = losses
        self._legs: dict[int, Leg] = {}
        self._by_call: dict[str, list[int]] = {}
        self._loose: OrderedDict[int, None] = OrderedDict()
        self._timers: list[tuple[int, int]] = []
        self._number = 0
        self._interrupts: list[int] = []
        self.links = CallLinks(config.max_links, self.of_call)

    @property
    def open_legs(self) -> int:
        """Legs whose call has not ended."""
        return sum(leg.state is not State.ENDED for leg in self._legs.values())

    def of_call(self, call_id: str) -> list[Leg]:
        """The legs with that Call-ID, oldest first."""
        return [self._legs[number] for number in self._by_call.get(call_id, [])]

    def interrupt(self, at_ns: int) -> None:
        """Marks every call open at that time as one that may lack a message, once time is there."""
        if len(self._interrupts) >= MAX_INTERRUPTS:
            self._flag()  # too many calls rather than too few
        else:
            heapq.heappush(self._interrupts, at_ns)

    def new(self, event: SipEvent, side: Prefix, direction: str) -> Leg | None:
        """A leg in the table; None, and a loss, where there is no room."""
        beside = self._by_call.get(event.call_id, [])
        if len(beside) >= self._config.max_legs_per_call or (
            len(self._legs) >= self._config.max_legs and not self._evict(event.ts_ns)
        ):
            self._losses.add(event.ts_ns, event.ts_ns + 1, "call-table-full")
            return None
        self._number += 1
        address, length = side
        parties = parties_of(event, direction, self._config.region, self._config.trusted)
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
            idle_ns=self._config.idle_ns,
            ring_timeout_ns=self._config.ring_timeout_ns,
            report_ns=self._config.report_ns,
            **_named(parties),
        )
        self._legs[leg.number] = leg
        self._by_call.setdefault(event.call_id, []).append(leg.number)
        self._loose[leg.number] = None
        self._counts["calls"] += 1
        if direction:
            self.links.begun(leg, event)
        return leg

    def settle(self, leg: Leg, at: int) -> None:
        """After a step: writes the row of a leg that ended, arms the timer."""
        if leg.number not in self._legs:
            return  # put out by the other leg of the same INVITE
        if leg.state is State.ENDED:
            self._out.add("call", leg.row(), at)
        if leg.state in _ANSWERED:
            self._loose.pop(leg.number, None)
        else:
            self._loose[leg.number] = None
        self.arm(leg)

    def tell_open(self, now_ns: int) -> None:
        """Writes a version of every call that has not ended and that its last version, of some
        full hour, does not tell as it stands."""
        for leg in self._legs.values():
            told_ns = leg.next_report_ns - leg.report_ns if leg.partial else 0
            if leg.state is not State.ENDED and leg.proof_ns > told_ns:
                leg.partial += 1
                self._out.add("call", leg.row(), now_ns)

    def _forget(self, leg: Leg) -> None:
        del self._legs[leg.number]
        self._loose.pop(leg.number, None)
        beside = self._by_call[leg.call_id]
        beside.remove(leg.number)
        if not beside:
            del self._by_call[leg.call_id]

    def _evict(self, now_ns: int) -> bool:
        """Makes room by the oldest leg that is not an answered call; False where all are. Emergency
        calls go last, but a flood of them does not fill the table for good."""
        if not self._loose:
            return False
        for _ in range(MAX_SPARED):
            leg = self._legs[next(iter(self._loose))]
            if not leg.emergency:
                break
            self._loose.move_to_end(leg.number)
        if leg.state is not State.ENDED:
            self._counts["evicted"] += 1
            self._losses.add(leg.start_ns, now_ns, "call-evicted")
            self._out.add("call", leg.row(), now_ns)
        self._forget(leg)
        return True

    # Timers

    def arm(self, leg: Leg) -> None:
        """Sets the leg's timer; one that is due earlier stays, and is then set again."""
        due = leg.due_ns(self._config.linger_ns)
        if not leg.timer_ns or due < leg.timer_ns:
            leg.timer_ns = due
            heapq.heappush(self._timers, (due, leg.number))
            if len(self._timers) > MAX_STALE * len(self._legs) + 1024:
                # Those of evicted legs would stay until they are due, 32 s of a flood.
                self._timers = [(leg.timer_ns, leg.number) for leg in self._legs.values()]
                heapq.heapify(self._timers)

    def advance(self, now_ns: int) -> None:
        """Runs the timers and interruptions that are due, in order of their time."""
        while self._interrupts and self._interrupts[0] <= now_ns:
            self._run_timers(heapq.heappop(self._interrupts))
            self._flag()
        self._run_timers(now_ns)

    def _run_timers(self, now_ns: int) -> None:
        while self._timers and self._timers[0][0] <= now_ns:
            due, number = heapq.heappop(self._timers)
            leg = self._legs.get(number)
            if leg is None or leg.timer_ns != due:
                continue
            leg.timer_ns = 0
            if leg.due_ns(self._config.linger_ns) > due:
                self.arm(leg)
            elif leg.state is State.ENDED:
                self._forget(leg)
            elif leg.state is State.CONFIRMED and leg.next_report_ns <= due:
                leg.step(Input.HOUR, None, due)
                self._out.add("call", leg.row(), due)
                self.arm(leg)
            else:
                leg.step(Input.TIMER, None, due)
                self.settle(leg, due)

    def _flag(self) -> None:
        for leg in self._legs.values():
            if leg.state is not State.ENDED:
                leg.flags |= CALL_INTERRUPTED

    # Restart

    def snapshot(self) -> dict[str, object]:
        """JSON-able state without the rows, which are the tracker's."""
        return {
            "legs": [leg.to_json() for leg in self._legs.values()],
            "loose": list(self._loose),
            "number": self._number,
            "interrupts": sorted(self._interrupts),
            "links": self.links.snapshot(),
        }

    def restore(self, state: dict[str, Any], now_ns: int) -> None:
        """Takes over a snapshot; no message was seen from it until `now_ns`."""
        self._number = state["number"]
        self._legs, self._by_call, self._timers = {}, {}, []
        for data in state["legs"]:
            leg = Leg.from_json(data)
            self._legs[leg.number] = leg
            self._by_call.setdefault(leg.call_id, []).append(leg.number)
            self.arm(leg)
        self._loose = OrderedDict.fromkeys(state["loose"])
        self.links.restore(state["links"])
        self._interrupts = sorted([*state.get("interrupts", []), now_ns])
