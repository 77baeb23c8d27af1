"""Conntrack rows turned to the subscriber's side: the client, which way is up, what NAT showed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.track.flow_table import ENTRY, Entries, key_of, pick, put
from collector.track.inside import Prefixes, halves

_ICMP: Final = (1, 58)
"""ICMP and ICMPv6: the query identifier takes the place of the port (RFC 5508 section 1.2), and
`sport` has it in both tuples."""

Rows = npt.NDArray[Any]
"""A structured array of `collector.parse.conntrack.COLUMNS`."""


def subscriber_side(rows: Rows, seen_ns: int | npt.NDArray[np.int64], access: Prefixes) -> Entries:
    """One entry for each row that has a subscriber, in the order of the rows.

    seen_ns: one for all rows, or int64[n]. first_ns, mapped_ns and missed are left 0.
    """
    outbound = access.contains(rows["orig_src"])
    inbound = ~outbound & access.contains(rows["reply_src"])
    entries = np.zeros(len(rows), ENTRY)
    entries["key"] = key_of(rows["id"], rows["start_ns"])
    entries["seen_ns"] = seen_ns
    for name in ("start_ns", "protocol", "counted"):
        entries[name] = rows[name]
    _fill_outbound(entries, rows)
    if inbound.any():
        swapped = pick(entries, inbound)
        _fill_inbound(swapped, rows[inbound])
        put(entries, inbound, swapped)
    inside = outbound | inbound
    return entries if inside.all() else pick(entries, inside)


def _fill_outbound(entries: Entries, rows: Rows) -> None:
    """Sides of flows that the subscriber opened; the public side is where replies go."""
    _count(entries, rows, "orig", "reply")
    entries["client"], entries["client_port"] = rows["orig_src"], rows["orig_sport"]
    entries["server"], entries["server_port"] = rows["orig_dst"], rows["orig_dport"]
    entries["public"] = rows["reply_dst"]
    # The query identifier of ICMP takes the place of the port on both sides (RFC 5508).
    query = np.isin(rows["protocol"], _ICMP)
    entries["public_port"] = np.where(query, rows["reply_sport"], rows["reply_dport"])
    entries["translated"] = _differ(rows["reply_dst"], rows["orig_src"])


def _fill_inbound(entries: Entries, rows: Rows) -> None:
    """Sides of flows opened from outside; the public side is what was called."""
    _count(entries, rows, "reply", "orig")
    query = np.isin(rows["protocol"], _ICMP)
    entries["client"], entries["client_port"] = rows["reply_src"], rows["reply_sport"]
    entries["server"] = rows["orig_src"]
    entries["server_port"] = np.where(query, rows["orig_dport"], rows["orig_sport"])
    entries["public"] = rows["orig_dst"]
    entries["public_port"] = np.where(query, rows["orig_sport"], rows["orig_dport"])
    entries["translated"] = _differ(rows["orig_dst"], rows["reply_src"])
    entries["inbound"] = True


def _count(entries: Entries, rows: Rows, up: str, down: str) -> None:
    for unit in ("bytes", "packets"):
        entries[f"up_{unit}"] = rows[f"{up}_{unit}"]
        entries[f"down_{unit}"] = rows[f"{down}_{unit}"]


def _differ(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    differs: npt.NDArray[np.bool_] = (halves(one) != halves(other)).any(axis=1)
    return differs
