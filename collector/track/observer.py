"""Observer: routes captured frames to the parsers and gives the events they make.

frame -> IP packet -> datagram (fragments put together) -> protocol, by port and by the role of the
interface: host names and SIP on access interfaces, RADIUS and SIP on control interfaces, DHCP and
PPPoE on both and on those of lines. RADIUS on an access interface is never read: a subscriber could
forge the accounting of another. For the same reason what a DHCP server or access concentrator says
is believed on a control interface, or where the router itself sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from collector.parse import dns, ip, link, radius, sip, tls, tunnel
from collector.parse.ip import TCP, UDP, Fragment, Packet
from collector.parse.link import Frame
from collector.parse.quic_packet import is_long_header
from collector.parse.radius_repeats import Repeats
from collector.parse.reader import ParseError
from collector.parse.sip import SipEvent
from collector.track.blind import BlindConnections
from collector.track.exporters import Exported
from collector.track.followers import DnsFramer, Follower, Message
from collector.track.fragments import FragmentTable
from collector.track.host_events import HostSeen, Resolution
from collector.track.host_reader import HostReader
from collector.track.line_reader import LineReader
from collector.track.ports import Ports
from collector.track.radius_pairs import RadiusPairs
from collector.track.safeguard.domain import Blocked
from collector.track.safeguard.targets import Targets
from collector.track.sessions import SessionEvent
from collector.track.stage_counts import ignore, malformed, stage
from collector.wire.loss import Loss

__all__ = ["Event", "Observer", "ObserverConfig", "Ports", "Role"]

Event = HostSeen | Resolution | Blocked | SessionEvent | SipEvent | Exported
Role = Literal["access", "control", "lines"]

_STAGES: Final = ("frames", "tunnels", "packets", "dns", "radius", "sip")
_LOSSES: Final = (
    ("fragments", "fragment-incomplete", "packets", ("visit", "call", "session", "binding")),
    ("streams", "stream-incomplete", "packets", ("visit",)),
    ("initials", "quic-incomplete", "packets", ("visit",)),
    ("dns", "dns-cut", "events", ("visit",)),
    ("sip", "sip-cut", "events", ("call",)),
    ("sip", "sip-encrypted", "packets", ("call",)),
)
"""Stage, reason, unit and record classes of each loss. A cut message stands for its segments."""
_COUNTED: Final = {"sip-encrypted": "ignored.blind"}
"""Counter behind a reason, where it is not that of lost units: nothing unreadable was lost."""


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """`roles`: what each interface is read for, by its index as `Frame.interface` gives it.
    `secrets`: RADIUS shared secret by the sender's address in 16 bytes. `targets`: of SafeGuard.
    `unfiltered`: frames are all of a capture's and not what the filter passes, so that handshakes
    can be read on every port; who replays a capture knows where it was made, so tunnels in UDP are
    opened too."""

    roles: Mapping[int, frozenset[Role]]
    ports: Ports = Ports()
    secrets: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    targets: Targets | None = None
    unfiltered: bool = False


class Observer:
    """The state between frames: streams, fragments, QUIC handshakes and followed connections.

    Time is that of the frames. What cannot be parsed is counted, never raised.
    """

    def __init__(self, config: ObserverConfig) -> None:
        self._ports = config.ports
        self._secrets = config.secrets
        targets = self._targets = config.targets
        # Every answer is asked for them: at hand they cost less.
        self._sought = targets.may_name if targets else None
        self._endings = targets.endings if targets else ()
        self._are_apart = targets.are_apart if targets else None
        self._unfiltered = config.unfiltered
        self._roles = dict(config.roles)
        self._fragments = FragmentTable()
        self._hosts = HostReader()
        self._dns_tcp = Follower(DnsFramer)
        self._sip_tcp = Follower(sip.Framer)
        self._blind = BlindConnections()
        own = {name: stage("malformed") for name in _STAGES}
        self._lines = LineReader()
        self._pairs = RadiusPairs(config.secrets)
        self._repeats = Repeats()
        self._stages = {**own, **self._hosts.stages, **self._lines.stages}
        self._told: dict[str, int] = {}
        self._told_ns = 0

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by stage; in each, seen = recorded + ignored + lost + open.

        frames: recorded ones held a packet or fragment. tunnels: recorded ones were opened.
        fragments. packets: recorded ones were
        routed to a protocol. streams (segments of clients), initials (datagrams), dns-segments and
        sip-segments: what messages are put together from. dns, tls, http, quic, radius, sip,
        dhcp: messages, pppoe: frames of its control; recorded ones became an event. Malformed ones
        are among the ignored, which are also counted by rule as "ignored.RULE".
        """
        return {
            **{name: {**counts, "open": 0} for name, counts in self._stages.items()},
            "fragments": {**self._fragments.counts, "open": self._fragments.open},
            "streams": {**self._hosts.streams.counts, "open": self._hosts.streams.open},
            "initials": {**self._hosts.initials.counts, "open": self._hosts.initials.open},
            "dns-segments": {**self._dns_tcp.counts, "open": self._dns_tcp.open},
            "sip-segments": {**self._sip_tcp.counts, "open": self._sip_tcp.open},
        }

    def assign(self, interface: int, roles: frozenset[Role]) -> None:
        """Sets what an interface is read for, as its index changes when it is made anew; the empty
        set forgets it."""
        if roles:
            self._roles[interface] = roles
        else:
            self._roles.pop(interface, None)

    def frame(self, frame: Frame) -> list[Event]:
        """The events a frame completes, in order."""
        counts = self._stages["frames"]
        counts["seen"] += 1
        roles = self._roles.get(frame.interface)
        if roles is None:
            ignore(counts, "interface")
            return []
        is_trusted = "control" in roles or frame.outgoing
        steps = self._lines.pppoe(frame, is_trusted)
        if steps is not None:
            counts["recorded"] += 1
            return [*steps]
        try:
            found = link.unwrap(frame.data, frame.linktype)
            packet = ip.parse(frame.ts_ns, *found) if found else None
        except ParseError:
            malformed(counts)
            return []
        if packet is None:
            ignore(counts, "not-ip")
            return []
        counts["recorded"] += 1
        whole = self._whole(packet, roles)
        return [] if whole is None else self._route(whole, roles, is_trusted)

    def _whole(self, packet: Packet | Fragment, roles: frozenset[Role]) -> Packet | None:
        """The datagram of a packet, out of its tunnels; None where parts of it are to come."""
        for _ in range(tunnel.MAX_DEPTH + 1):
            try:
                if isinstance(packet, Fragment):
                    found = self._fragments.add(packet, packet.ts_ns)
                    if found is None:
                        return None
                    packet = found
            except ParseError:
                return None  # counted by the table
            try:
                # Subscribers can send tunnels too, and write into them what they like.
                inner = tunnel.inner_ip(packet) if "control" in roles else None
            except ParseError:
                self._stages["tunnels"]["seen"] += 1
                malformed(self._stages["tunnels"])
                return None
            if inner is None and self._unfiltered and packet.sport not in self._ports.dns:
                inner = tunnel.inner_udp(packet)
            if inner is None:
                return packet
            self._stages["tunnels"]["seen"] += 1
            self._stages["tunnels"]["recorded"] += 1
            packet = inner
        self._stages["tunnels"]["recorded"] -= 1
        ignore(self._stages["tunnels"], "depth")
        return None

    def tick(self, now_ns: int) -> list[Event]:
        """Forgets connections that fell silent, and gives what waited too long for a segment that
        was lost. The other tables do so with each packet."""
        return [
            *self._messages("dns", *self._dns_tcp.expire(now_ns)),
            *self._messages("sip", *self._sip_tcp.expire(now_ns)),
        ]

    def losses(self, now_ns: int) -> list[Loss]:
        """What was given up half-way since the last call."""
        counts = self.counts
        found = []
        for name, reason, unit, classes in _LOSSES:
            lost = counts[name].get(_COUNTED.get(reason, "lost"), 0)
            if lost > self._told.get(reason, 0):
                amount = lost - self._told.get(reason, 0)
                since = self._told_ns or now_ns
                found.append(Loss(since, now_ns, "track", reason, amount, unit, classes))
                self._told[reason] = lost
        self._told_ns = now_ns
        return found

    def _route(self, packet: Packet, roles: frozenset[Role], is_trusted: bool) -> list[Event]:
        ports = self._ports
        sport, dport = packet.sport, packet.dport
        counts = self._stages["packets"]
        counts["seen"] += 1
        counts["recorded"] += 1
        access = "access" in roles
        signals = access or "control" in roles
        # Servers' ports come before those of SIP, which a client may have picked for itself.
        if packet.proto == UDP:
            if access and sport in ports.dns:
                return self._dns(packet, packet.payload)
            if access and dport in ports.quic:
                return [*self._hosts.quic(packet)]
            if dport in ports.dhcp:
                return [*self._lines.dhcp(packet, is_trusted)]
            if "control" in roles and dport in ports.exports:
                return [Exported(packet.ts_ns, packet.src, packet.payload)]
            if "control" in roles and (sport in ports.radius or dport in ports.radius):
                return self._radius(packet)
            if signals and (sport in ports.sip or dport in ports.sip):
                return self._sip(packet, packet.payload)
            if self._unfiltered and access and ports.quic and is_long_header(packet.payload):
                return [*self._hosts.quic(packet)]
        elif packet.proto == TCP:
            if access and (dport in ports.tls or dport in ports.http):
                return [*self._hosts.stream(packet)]
            if access and sport in ports.dns:
                return self._dns_segment(packet)
            if signals and (sport in ports.sip or dport in ports.sip):
                return self._sip_segment(packet, access)
            if access and self._unfiltered:
                return [*self._hosts.stream(packet)]
            if access and ports.tls and tls.looks_like_client_hello(packet.payload):
                return [*self._hosts.elsewhere(packet)]
        counts["recorded"] -= 1
        ignore(counts, "no-route")
        return []

    def _dns(self, packet: Packet, message: bytes) -> list[Event]:
        counts = self._stages["dns"]
        counts["seen"] += 1
        try:
            answer = dns.parse_answer(message, self._sought)
        except ParseError:
            malformed(counts)
            return []
        if answer is None:
            ignore(counts, "no-answer")
            return []
        counts["recorded"] += 1
        host, addresses, are_apart = answer.host, answer.addresses, self._are_apart
        # Without addresses nothing is recorded, whatever was asked.
        if are_apart is not None and (
            answer.aliases
            or (addresses and (not are_apart(addresses) or host.endswith(self._endings)))
        ):
            targets = self._targets
            assert targets is not None, "whose these are"
            category = targets.category(answer)
            if category is not None:
                # Every counter takes a block for a look-up that led nowhere, of which are many.
                nowhere = Resolution(packet.ts_ns, packet.dst, packet.src, "", ())
                return [nowhere, Blocked(packet.ts_ns, packet.dst, category)]
            addresses = tuple([each for each in addresses if each not in targets.pages])
        return [Resolution(packet.ts_ns, packet.dst, packet.src, host, addresses)]

    def _dns_segment(self, packet: Packet) -> list[Event]:
        return self._messages("dns", *self._dns_tcp.feed(packet))

    def _sip(self, packet: Packet, message: bytes) -> list[Event]:
        counts = self._stages["sip"]
        counts["seen"] += 1
        try:
            event = sip.parse(
                message,
                packet.ts_ns,
                packet.src,
                packet.sport,
                packet.dst,
                packet.dport,
                packet.proto,
            )
        except ParseError:
            malformed(counts)
            return []
        if event is None:
            ignore(counts, "not-sip")
            return []
        counts["recorded"] += 1
        return [event]

    def _sip_segment(self, packet: Packet, is_access: bool) -> list[Event]:
        if self._blind.covers(packet):
            self._stages["sip"]["seen"] += 1
            ignore(self._stages["sip"], "blind")
            hello = is_access and tls.looks_like_client_hello(packet.payload)
            return [*self._hosts.elsewhere(packet)] if hello else []
        return self._messages("sip", *self._sip_tcp.feed(packet))

    def _messages(self, stage: str, messages: list[Message], broken: int) -> list[Event]:
        """Events of what a connection gave; a gap or an eviction cut `broken` messages in two."""
        self._stages[stage]["seen"] += broken
        self._stages[stage]["lost"] += broken
        read = self._dns if stage == "dns" else self._sip
        return [event for packet, message in messages for event in read(packet, message)]

    def _radius(self, packet: Packet) -> list[Event]:
        counts = self._stages["radius"]
        counts["seen"] += 1
        try:
            event = radius.parse(packet, self._secrets, self._repeats)
        except ParseError:
            malformed(counts)
            return []
        if isinstance(event, radius.Request):
            self._pairs.ask(event)
            ignore(counts, "request")
            return []
        whole = self._pairs.answer(event) if isinstance(event, radius.Answer) else event
        if whole is None:
            ignore(counts, "other-code")
            return []
        counts["recorded"] += 1
        return [whole]
