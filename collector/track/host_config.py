"""Settings of the visit tracker: whose visits, in which detail, and how large its tables are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.track.safeguard.targets import Targets

_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class HostsConfig:
    """`access`: (base, prefix length in 128 bits) of the subscribers; others are ignored.
    `by_connection`: a row for each connection, not for each host and server.
    `targets`: of SafeGuard, to whose pages there are no visits.

    Tables: a flow's names cost about 500 bytes, an answer 32, each different host about 200.
    """

    access: tuple[tuple[bytes, int], ...]
    ipv6_prefix_len: int = 64
    by_connection: bool = False
    resolver_ports: tuple[int, ...] = (53,)
    targets: Targets | None = None
    max_flows: int = 262_144
    max_answers: int = 262_144
    max_answers_per_client: int = 2_048
    max_hosts: int = 262_144
    answer_life_ns: int = 7_200 * _SECOND_NS
    """systemd-resolved keeps an answer for two hours at most, browsers and unbound less or a day;
    an older one is more likely to name a stranger on a shared server."""
