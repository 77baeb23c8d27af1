"""Names of a flow: the hosts seen on one connection, and which of them are of which flow there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.track.visit_flows import VisitFlow

SLACK_NS: Final = 1_000_000_000
"""A handshake may be stamped before its flow: conntrack stamps a flow once its first packet, which
for QUIC is the handshake, has crossed the router. One second also covers a small clock step."""
REPEAT_NS: Final = 60 * 1_000_000_000
"""The same name on the same ports within this time is a retransmission, later a new connection:
a port rests 60 s in TIME_WAIT (Linux) before it is used again."""

UNJOINED: Final = -1
"""`start_ns` of a name that belongs to no flow yet."""


@dataclass(slots=True)
class Name:
    """A host on a flow; `start_ns` is the flow's start once joined, `last_ns` the last sight."""

    ts_ns: int
    last_ns: int
    host: str
    evidence: str
    ech: bool
    start_ns: int = UNJOINED
    counted: bool = False
    pending: bool = True
    """Seen since its last row."""


def repeated(names: list[Name], ts_ns: int, host: str, evidence: str, ech: bool) -> bool:
    """Whether a handshake's host is already among the flow's names, which then note the repeat."""
    for name in reversed(names):
        if name.host == host and name.evidence != "dns":
            if evidence != "http" and ts_ns - name.last_ns >= REPEAT_NS:
                return False
            name.last_ns = max(name.last_ns, ts_ns)
            name.ech |= ech
            name.pending = True
            return True
    return False


def claim(held: list[Name], flow: VisitFlow) -> tuple[list[Name], list[Name]]:
    """The names on a flow's 5-tuple that stay, and those of them that are the flow's own.

    What was joined to an earlier flow on these ports outlived it, as its end was missed, and goes.
    """
    first_ns = flow.start_ns - SLACK_NS
    last_ns = min(flow.end_ns, flow.next_ns - 1)
    kept, own = [], []
    for name in held:
        if UNJOINED < name.start_ns < flow.start_ns:
            continue
        kept.append(name)
        if name.start_ns == flow.start_ns:
            own.append(name)
        elif name.start_ns == UNJOINED and first_ns <= name.ts_ns <= last_ns:
            name.start_ns = flow.start_ns
            own.append(name)
    if any(name.evidence != "dns" for name in own):
        kept = [name for name in kept if name.evidence != "dns"]
        own = [name for name in own if name.evidence != "dns"]
    return kept, own
