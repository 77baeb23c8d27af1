"""What rules of all tables do that matters to metering: which expressions they use, and flowtables.

Read over netlink (linux/netfilter/nf_tables.h), so that neither `nft` nor its output is needed and
no set is dumped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from collector.capture.nftsets import GETRULE, NftLink
from collector.capture.rawnl import attributes, walk

TRACKING: Final = frozenset(("ct", "nat", "masq", "redir", "connlimit", "flow_offload"))
"""Expressions that make the kernel track connections in the namespace of their rule."""
_GETFLOWTABLE: Final = 10 << 8 | 23
_ALL_FAMILIES: Final = bytes(4)
_RULE_EXPRESSIONS: Final = 4
_EXPRESSION_NAME: Final = 1
_EXPRESSION_DATA: Final = 2
_FLOWTABLE_NAME, _FLOWTABLE_HOOK, _FLOWTABLE_FLAGS = 2, 3, 7
_HOOK_DEVICES: Final = 3
_HARDWARE: Final = 1


@dataclass(frozen=True, slots=True)
class Flowtable:
    """One flowtable: the devices between which it forwards past all hooks, in hardware perhaps."""

    name: str
    devices: tuple[str, ...]
    hardware: bool


def expressions() -> frozenset[str]:
    """Names of the expressions that the rules of this network namespace use, matches of iptables
    with "xt:" before them. Raises NftUnavailable."""
    found = set()
    with NftLink() as link:
        for payload in link.dump(GETRULE, _ALL_FAMILIES).payloads:
            rule = attributes(payload[4:]).get(_RULE_EXPRESSIONS, b"")
            for _, start, end in walk(rule):
                expression = attributes(rule[start:end])
                name = _text(expression.get(_EXPRESSION_NAME, b""))
                if name in ("match", "target"):  # NFTA_MATCH_NAME and NFTA_TARGET_NAME are 1
                    name = "xt:" + _text(
                        attributes(expression.get(_EXPRESSION_DATA, b"")).get(1, b"")
                    )
                found.add(name)
    return frozenset(found)


def flowtables() -> tuple[Flowtable, ...]:
    """The flowtables of this network namespace. Raises NftUnavailable."""
    with NftLink() as link:
        return tuple(map(flowtable, link.dump(_GETFLOWTABLE, _ALL_FAMILIES).payloads))


def flowtable(payload: bytes) -> Flowtable:
    """One NFT_MSG_NEWFLOWTABLE after its netlink header."""
    found = attributes(payload[4:])
    devices = attributes(found.get(_FLOWTABLE_HOOK, b"")).get(_HOOK_DEVICES, b"")
    names = tuple(_text(devices[start:end]) for _, start, end in walk(devices))
    flags = found.get(_FLOWTABLE_FLAGS, bytes(4))
    (bits,) = struct.unpack_from(">I", flags) if len(flags) >= 4 else (0,)
    return Flowtable(_text(found.get(_FLOWTABLE_NAME, b"")), names, bool(bits & _HARDWARE))


def tracks(used: frozenset[str]) -> bool:
    """Whether rules that use these expressions turn connection tracking on."""
    return bool(used & TRACKING) or any(
        name.startswith("xt:") and ("conntrack" in name or "state" in name or "NAT" in name)
        for name in used
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii", "replace")
