"""DHCP and PPPoE packets into what sessions and bindings are made of, with the line they are of.

Answers do not always say which line they are for: a server need not echo a relay's Remote-Id, and
an access concentrator's PADS does not repeat the tag of the PADR. So what was asked is remembered
for a while. Answers are believed from where only the operator sends: a subscriber who plays DHCP
server or concentrator could take another's address.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

from collector.parse import dhcp, dhcpv6, pppoe
from collector.parse.ip import Packet
from collector.parse.lease import Lease
from collector.parse.link import Frame
from collector.parse.pppoe import Ppp
from collector.parse.reader import ParseError
from collector.track.stage_counts import ignore, malformed, stage

MAX_ASKED: Final = 65_536
"""Clients whose last question is remembered."""
ASKED_NS: Final = 120 * 1_000_000_000
"""RFC 2131 section 4.1 has clients repeat themselves after up to 64 s."""
DHCPV6_PORTS: Final = frozenset((546, 547))

_TOLD: Final = frozenset(("ACK", "REPLY", "NAK", "RELEASE", "DECLINE"))
"""Messages that begin, extend or end a lease."""
_STEPS: Final = frozenset(("PADS", "PADT", "USER", "ADDRESS"))


class LineReader:
    """`stages`: messages of "dhcp" and frames of "pppoe"; recorded ones became an event."""

    def __init__(self) -> None:
        self.stages = {name: stage("malformed") for name in ("dhcp", "pppoe")}
        self._asked: OrderedDict[tuple[Any, ...], tuple[int, tuple[str, ...], bytes | None]]
        self._asked = OrderedDict()

    def dhcp(self, packet: Packet, is_trusted: bool) -> list[Lease]:
        """A datagram to a port of DHCP; `is_trusted` where only the operator can have sent it."""
        counts = self.stages["dhcp"]
        counts["seen"] += 1
        six = packet.dport in DHCPV6_PORTS
        try:
            parse = dhcpv6.parse if six else dhcp.parse
            lease = parse(packet.ts_ns, packet.payload)
        except ParseError:
            malformed(counts)
            return []
        if lease is None or not lease.client:
            ignore(counts, "no-lease")
            return []
        from_server = lease.kind in (dhcpv6.FROM_SERVER if six else dhcp.FROM_SERVER)
        key = (lease.family, lease.client)
        if not from_server:
            self._ask(key, lease.ts_ns, lease.names, lease.requested)
        elif not is_trusted:
            ignore(counts, "not-from-the-operator")
            return []
        if lease.kind not in _TOLD or not (
            lease.kind in ("NAK", "RELEASE", "DECLINE") or lease.addresses or lease.prefixes
        ):
            ignore(counts, "no-lease")
            return []
        counts["recorded"] += 1
        names, requested = self._remembered(key, lease.ts_ns)
        if lease.kind == "NAK":  # which does not say what it refuses
            lease = replace(lease, requested=requested)
        return [replace(lease, names=lease.names or names, server="")]

    def pppoe(self, frame: Frame, is_trusted: bool) -> list[Ppp] | None:
        """A frame that may be of PPPoE's control; None where it is none and somebody else's."""
        counts = self.stages["pppoe"]
        try:
            step = pppoe.parse(frame.ts_ns, frame.data, frame.linktype)
        except ParseError:
            counts["seen"] += 1
            malformed(counts)
            return []
        if step is None:
            return None
        counts["seen"] += 1
        if step.kind in ("PADI", "PADR"):
            self._ask(("pppoe", step.sender), step.ts_ns, step.names, None)
        if step.kind not in _STEPS or step.failed or (step.kind == "PADS" and not step.session):
            ignore(counts, "no-session")
            return []
        if step.kind in pppoe.FROM_SERVER and not is_trusted:
            ignore(counts, "not-from-the-operator")
            return []
        counts["recorded"] += 1
        if step.kind == "PADS":
            names, _ = self._remembered(("pppoe", step.receiver), step.ts_ns)
            step = replace(step, names=names or step.names)
        return [step]

    def _ask(
        self, key: tuple[Any, ...], ts_ns: int, names: tuple[str, ...], requested: bytes | None
    ) -> None:
        """Remembers what a client asked and from which line; the copy on the client's own side of
        the relay names none, and takes away nothing."""
        before = self._asked.pop(key, None)
        if before is not None and ts_ns - before[0] <= ASKED_NS:
            names, requested = names or before[1], requested or before[2]
        self._asked[key] = (ts_ns, names, requested)
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)

    def _remembered(self, key: tuple[Any, ...], ts_ns: int) -> tuple[tuple[str, ...], bytes | None]:
        asked_ns, names, requested = self._asked.get(key, (0, (), None))
        return (names, requested) if ts_ns - asked_ns <= ASKED_NS else ((), None)
