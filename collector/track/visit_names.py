"""Names of a flow: the hosts seen on one connection, and which of them are of which flow there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.track.host_events import HostSeen
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


def repeated(names: list[Name], event: HostSeen) -> bool:
    """Whether the flow already has the event's host, of which a repeat is then noted."""
    for name in reversed(names):
        if name.host == event.host and name.evidence != "dns":
            if name.evidence != "http" and event.ts_ns - name.last_ns >= REPEAT_NS:
                return False
            name.last_ns = max(name.last_ns, event.ts_ns)
            name.ech |= event.ech
            name.pending = True
            return True
    return False


def claim(held: list[Name], flow: VisitFlow) -> tuple[list[Name], list[Name]]:
    """The names on a flow's 5-tuple that stay, and those of them that are the flow's own.

    What was joined to an earlier flow on these ports outlived it, as its end was missed, and goes.
    """
    start_ns = flow.start_ns
    kept, own = [], []
    for name in held:
        if name.start_ns == UNJOINED:
            early = name.ts_ns < start_ns - SLACK_NS
            if not early and name.ts_ns <= flow.end_ns and name.ts_ns < flow.next_ns:
                name.start_ns = start_ns
        elif name.start_ns < start_ns:
            continue
        kept.append(name)
        if name.start_ns == start_ns:
            own.append(name)
    if len(own) > 1 and any(name.evidence != "dns" for name in own):
        kept = [name for name in kept if name.evidence != "dns"]
        own = [name for name in own if name.evidence != "dns"]
    return kept, own
