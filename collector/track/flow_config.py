"""The operator's choices for flows, and the limits that bound their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MAX_FLOWS: Final = 1 << 20
"""Default limit of open flows; the kernel's own, nf_conntrack_max, is 262,144 by default. An entry
takes 140 bytes."""
TOMBSTONE_NS: Final = 60 * 1_000_000_000
"""Default for how long an ended flow's key is kept: a dump of a million entries takes 3 s, and the
rest is for a service that is slow to take it in."""
MAPPING_REFRESH_NS: Final = 3600 * 1_000_000_000
"""Default for how often an open flow's mapping is told again, which moves its proven end."""


BLOCK_IDLE_NS: Final = 120 * 1_000_000_000
"""RFC 4787 REQ-5: a UDP mapping lives two minutes at least, so a port is not free before."""


@dataclass(frozen=True, slots=True)
class MappingConfig:
    """What to record of NAT: a mapping for each `flow`, for each `block` of ports, or none, `off`.

    block_ports, block_first: the NAT gives ports in blocks of so many, from that port on.
    block_idle_ns: the longest pause within one holding of a block.
    """

    detail: Literal["flow", "block", "off"] = "flow"
    block_first: int = 1024
    block_ports: int = 1024
    block_idle_ns: int = BLOCK_IDLE_NS

    def __post_init__(self) -> None:
        if not (1 <= self.block_first <= 65_535 and 1 <= self.block_ports <= 65_535):
            raise ValueError("block_first and block_ports are 1 to 65535")
        if self.block_idle_ns < 1:
            raise ValueError("block_idle_ns is at least 1")


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """Whose flows to track, and how many.

    access: subscribers' prefixes, each (network of 16 bytes, length in 128 bits: IPv4 /24 is 120).
    usage_prefix_len: of an IPv6 subscriber, by which ended flows are counted; IPv4 counts by
    address.
    """

    access: tuple[tuple[bytes, int], ...]
    usage_prefix_len: int = 64
    mappings: MappingConfig = MappingConfig()
    mapping_refresh_ns: int = MAPPING_REFRESH_NS
    max_flows: int = MAX_FLOWS
    max_tombstones: int = MAX_FLOWS
    tombstone_ns: int = TOMBSTONE_NS

    def __post_init__(self) -> None:
        if not 0 <= self.usage_prefix_len <= 128:
            raise ValueError("usage_prefix_len is 0 to 128")
        if min(self.max_flows, self.max_tombstones, self.tombstone_ns) < 1:
            raise ValueError("max_flows, max_tombstones and tombstone_ns are at least 1")
