"""Calls that belong together: turns what their messages say of each other into links, bounded.

A back-to-back agent, a transfer or a conference makes several calls of one conversation. They are
linked and never merged: each has its own start, end and price. By Session-ID (RFC 7989), Replaces
(RFC 3891), REFER with what follows it (RFC 3515, 3892), and the same session description (RFC 8866)
within five seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from collector.parse.sip import SipEvent
from collector.parse.sip_values import bare_uri
from collector.track.call_leg import Leg
from collector.track.call_leg_state import SECOND_NS, TRANSACTION_NS
from collector.track.call_rules import State

ORIGIN_NS: Final = 5 * SECOND_NS
"""How long the same session description means the same conversation."""

_Seen = tuple[str, str, int, str]
"""Call-ID, call_hash in hex, time, and for a REFER the address it was sent to, in hex."""


class CallLinks:
    """What was seen lately that may link a call to come; the oldest goes at `limit`."""

    def __init__(self, limit: int, legs_of: Callable[[str], list[Leg]]) -> None:
        self._limit = limit
        self._legs_of = legs_of
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def referred(self, leg: Leg, event: SipEvent) -> None:
        """A REFER in the leg's dialog: whoever got it may call its target now."""
        if event.refer_to:
            self._remember("refer", event.refer_to, leg, event.ts_ns, event.dst.hex())

    def begun(self, leg: Leg, event: SipEvent) -> None:
        """Links a call that just began to those it says, or shows, that it belongs to."""
        if event.replaces:
            for other in self._legs_of(event.replaces):
                self._join(leg, other.call_id, other.call_hash, "replaces")
        if event.session_id:
            self._same(leg, event, "session-id", event.session_id, 0)
        self.described(leg, event)
        found = self._seen.get(("refer", bare_uri(event.request_uri)))
        if found and event.ts_ns - found[2] <= TRANSACTION_NS:
            call_id, call_hash, _, party = found
            if event.referred or party == event.src.hex():
                self._join(leg, call_id, bytes.fromhex(call_hash), "refer")

    def described(self, leg: Leg, event: SipEvent) -> None:
        """Links a call to those with the same session description, which may come later."""
        if event.origin:
            self._same(leg, event, "origin", event.origin, ORIGIN_NS)

    def _same(self, leg: Leg, event: SipEvent, why: str, key: str, within_ns: int) -> None:
        found = self._seen.get((why, key))
        if found is None or (within_ns and event.ts_ns - found[2] > within_ns):
            self._remember(why, key, leg, event.ts_ns, "")
        else:
            self._join(leg, found[0], bytes.fromhex(found[1]), why)

    def _join(self, leg: Leg, call_id: str, call_hash: bytes, why: str) -> None:
        leg.link(why, call_hash)
        for other in self._legs_of(call_id):
            if other.state is not State.ENDED:
                other.link(why, leg.call_hash)

    def _remember(self, why: str, key: str, leg: Leg, at_ns: int, party: str) -> None:
        self._seen[why, key] = (leg.call_id, leg.call_hash.hex(), at_ns, party)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def snapshot(self) -> list[object]:
        """JSON-able state."""
        return [[*key, *seen] for key, seen in self._seen.items()]

    def restore(self, state: list[Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._seen = OrderedDict(
            ((why, key), (call_id, call_hash, at_ns, party))
            for why, key, call_id, call_hash, at_ns, party in state
        )
