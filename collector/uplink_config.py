"""What the uplink needs: where to send and how patient to be, and the spool as it sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from collector.uplink_tls import Identity
from collector.wire.batch import Header


class Batches(Protocol):
    """What the uplink needs of the spool."""

    def oldest(self) -> tuple[Header, Path] | None:
        """The batch to send next and its file."""

    def acknowledge(self, batch: str) -> bool:
        """Free a batch."""

    def reject(self, batch: str, reason: str) -> bool:
        """Set a batch aside that can never be taken."""


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """Where to send and how patient to be.

    An upload may take request_timeout_s and its size at min_rate_bytes a second, answer included.
    Waits double from backoff_min_s to backoff_max_s, each shortened by up to half at random so
    that collectors do not come back together. idle_s: how often an empty spool is looked at;
    reconnect_s: longest use of one connection, so that rotated certificates come into use.
    """

    url: str
    identity: Identity
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 60.0
    min_rate_bytes: int = 16 * 1024
    backoff_min_s: float = 0.2
    backoff_max_s: float = 60.0
    idle_s: float = 1.0
    reconnect_s: float = 3600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("the url of the aggregator must begin with https:// and have a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the url of the aggregator is only https://host:port/path")
        _ = parts.port  # raises ValueError where it is none
        times = (self.connect_timeout_s, self.request_timeout_s, self.idle_s, self.reconnect_s)
        if min(times) <= 0 or self.min_rate_bytes < 1:
            raise ValueError("times and rates of the uplink must be positive")
        if not 0 < self.backoff_min_s <= self.backoff_max_s:
            raise ValueError("backoff_min_s must be positive and at most backoff_max_s")
