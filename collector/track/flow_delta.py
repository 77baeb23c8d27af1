"""What a flow carried since it was last told: entries of two times into rows of `DELTA`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.track.flow_table import COUNTERS, Entries, begin_of

DELTA: Final = np.dtype(
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        *((name, "u8") for name in COUNTERS),
        ("start_ns", "i8"),
        ("seen_ns", "i8"),
        ("ended", "?"),
        ("first", "?"),
        ("flow_id", "u4"),
        ("inbound", "?"),
    ]
)
"""What a flow carried since its last delta. Addresses are 16 bytes, IPv4 mapped; for ICMP the
client's port is the query identifier and the server's is type * 256 + code. Bytes count whole IP
packets. start_ns: begin of the flow; first sight of it where the kernel does not say. seen_ns: when
the counters were read, or when the flow ended. first: nothing was told of this flow before, and it
began since the collector did. ended: it is told once a flow. flow_id: conntrack id. inbound:
somebody outside opened the flow."""

Rows = npt.NDArray[Any]
"""A structured array: of `collector.parse.conntrack.COLUMNS` in, of `DELTA` out."""


def difference(
    after: Entries, before: Entries
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Counters gained, uint64[n, 4], and which flows have one that fell (their gains are void)."""
    now = np.stack([after[name] for name in COUNTERS], axis=1)
    then = np.stack([before[name] for name in COUNTERS], axis=1)
    return now - then, np.logical_or.reduce(now < then, axis=1)


def deltas_of(
    entries: Entries,
    amounts: npt.NDArray[np.uint64],
    first: bool | npt.NDArray[np.bool_],
    ended: bool | npt.NDArray[np.bool_],
) -> Rows:
    """Deltas of entries by the amounts they gained, uint64[n, 4] in the order of COUNTERS."""
    deltas = np.zeros(len(entries), DELTA)
    for name in ("client", "server", "protocol", "client_port", "server_port", "seen_ns"):
        deltas[name] = entries[name]
    for index, name in enumerate(COUNTERS):
        deltas[name] = amounts[:, index]
    deltas["start_ns"] = begin_of(entries)
    deltas["flow_id"] = entries["key"] >> np.uint64(32)
    deltas["first"] = first
    deltas["ended"] = ended
    deltas["inbound"] = entries["inbound"]
    return deltas
