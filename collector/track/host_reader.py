"""Packets of clients into the host names that their handshakes and requests hold."""

from __future__ import annotations

from typing import Final, Literal

from collector.parse import http, tls
from collector.parse.ip import Packet
from collector.parse.quic import QuicInitials
from collector.parse.reader import Incomplete, ParseError
from collector.track.host_events import HostSeen
from collector.track.reassembly import FlowKey, StreamTable, flow_key
from collector.track.stage_counts import ignore, malformed, stage

_HANDSHAKE: Final = 0x16
_MAX_PIPELINED: Final = 64
"""Requests read at once; 64 KiB could hold 2,000 of the shortest, all for one host."""


class HostReader:
    """Reads TLS, HTTP and QUIC, put together from as many packets as it takes.

    `stages`: handshakes and requests by protocol, "tls", "http" and "quic"; recorded ones named a
    host. `streams` counts the segments and `initials` the datagrams that they are made from.
    """

    def __init__(self) -> None:
        self.streams = StreamTable()
        self.initials = QuicInitials()
        self.stages = {name: stage("malformed") for name in ("tls", "http", "quic")}

    def quic(self, packet: Packet) -> list[HostSeen]:
        """A datagram towards a port of QUIC that may be an Initial."""
        try:
            hello = self.initials.datagram(packet)
        except ParseError:
            return []  # counted by `initials`
        if hello is None:
            return []
        self.stages["quic"]["seen"] += 1
        return self._name(packet, "quic", hello.host, hello.ech, hello.port)

    def stream(self, packet: Packet) -> list[HostSeen]:
        """A segment towards a port of TLS or HTTP; which of them it is the first byte says."""
        stream = self.streams.feed(packet, packet.ts_ns)
        if stream is None:
            return []
        is_tls = stream[0] == _HANDSHAKE
        return self._hello(packet, stream) if is_tls else self._requests(packet, stream)

    def _hello(self, packet: Packet, stream: bytes) -> list[HostSeen]:
        """The beginning of a TLS connection."""
        key = flow_key(packet)
        try:
            hello = tls.parse_client_hello(stream)
        except ParseError:
            self._broken(key, "tls")
            return []
        if isinstance(hello, Incomplete):
            self.streams.expect(key, hello.need)
            return []
        self.streams.finish(key)
        self.stages["tls"]["seen"] += 1
        return self._name(packet, "tls", hello.host, hello.ech, hello.port)

    def _requests(self, packet: Packet, stream: bytes) -> list[HostSeen]:
        """The requests that a client wrote without waiting for answers, the last one perhaps in
        part. Those on one stream mostly name the host of the first."""
        key = flow_key(packet)
        events: list[HostSeen] = []
        for _ in range(_MAX_PIPELINED):
            try:
                host = http.parse_request_host(stream)
            except ParseError:
                self._broken(key, "http")
                return events
            if isinstance(host, Incomplete):
                self.streams.expect(key, host.need)
                return events
            self.stages["http"]["seen"] += 1
            events += self._name(packet, "http", host, False, "")
            end = http.request_end(stream)
            rest = stream[end:] if end else b""
            if not http.looks_like_request(rest):
                break
            self.streams.advance(key, end)
            stream = rest
        self.streams.finish(key, end)
        return events

    def _broken(self, key: FlowKey, evidence: Literal["tls", "http"]) -> None:
        self.streams.finish(key)
        self.stages[evidence]["seen"] += 1
        malformed(self.stages[evidence])

    def elsewhere(self, packet: Packet) -> list[HostSeen]:
        """A ClientHello to a port that is not listed. The filter passes no tail there, so only one
        that is whole can be read."""
        counts = self.stages["tls"]
        counts["seen"] += 1
        try:
            hello = tls.parse_client_hello(packet.payload)
        except ParseError:
            malformed(counts)
            return []
        if isinstance(hello, Incomplete):
            ignore(counts, "unlisted-port")
            return []
        return self._name(packet, "tls", hello.host, hello.ech, hello.port)

    def _name(
        self,
        packet: Packet,
        evidence: Literal["tls", "quic", "http"],
        host: str,
        ech: bool,
        port: str,
    ) -> list[HostSeen]:
        """The event of a name, where there is one; the stage has it as seen."""
        counts = self.stages[evidence]
        if not host:
            ignore(counts, "no-name")
            return []
        counts["recorded"] += 1
        return [
            HostSeen(
                packet.ts_ns,
                evidence,
                packet.src,
                packet.dst,
                packet.proto,
                packet.sport,
                packet.dport,
                host,
                ech,
                port,
            )
        ]
