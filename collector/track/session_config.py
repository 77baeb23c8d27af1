"""The operator's choices for access sessions, and the limits that bound their memory."""

from __future__ import annotations

from dataclasses import dataclass

from collector.track.nastime import SECOND_NS


@dataclass(frozen=True, slots=True)
class SessionsConfig:
    """Rules and limits; every limit bounds memory, the reason is with each.

    subscriber_from: first of these attributes that is present names the subscriber: cui, class,
    user_name, calling, line. ipv6_prefix_len: length by which volume counters key IPv6.
    interim_interval_s: 0 to learn it. swap_octets: NAS names that report from their own view.
    """

    subscriber_from: tuple[str, ...] = ("cui", "user_name")
    ipv6_prefix_len: int = 56
    interim_interval_s: int = 0
    line_speed_bps: int = 10_000_000_000
    swap_octets: frozenset[str] = frozenset()
    # Sixty-four thousand lines with an IPv4 and IPv6 session each, twice over.
    max_sessions: int = 262_144
    # Ended sessions are kept to tell resends from new ones; servers give up within minutes.
    max_ended: int = 65_536
    ended_ns: int = 3600 * SECOND_NS
    # RFC 5080 section 2.2.1 ends retransmission after 30 s; requests seen in that time.
    max_requests: int = 65_536
    request_ns: int = 120 * SECOND_NS
    max_nas: int = 4096
    # An event older than a day says more about a broken clock than about a session.
    max_delay_s: int = 86_400
    # A lost Start is derived at most this far back: each day of it is a row.
    max_derived_s: int = 31 * 86_400
    # A wider prefix than an ISP's own allocation (RIPE-738: /29 to an LIR) is no customer's.
    min_ipv6_prefix_len: int = 29
    max_losses: int = 1024
