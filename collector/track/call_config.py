"""The operator's choices for calls, and the limits that bound their memory."""

from __future__ import annotations

from dataclasses import dataclass

from collector.track.call_leg_state import SECOND_NS
from collector.track.call_parties import Prefix


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
    # Long calls are told of each hour, so that a bill or a court need not wait for their end.
    report_ns: int = 3600 * SECOND_NS
    # Calls remembered by what may link another to them; the oldest goes.
    max_links: int = 65_536
    max_losses: int = 1024
