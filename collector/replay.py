"""Capture files in, observations and records out, by the very code that meters live traffic.

Time is that of the packets: windows close, timers run and tables forget by it, so that a replay
gives the same bytes whenever and wherever it is made. Kernel counters are not in a capture: usage
and NAT mappings are those of flow exports alone, and visits those of handshakes, without bytes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from collector.lines import Lines
from collector.parse.link import Frame
from collector.track.host_events import HostSeen, Resolution
from collector.track.journal_events import Control, control_event
from collector.track.observer import Observer, ObserverConfig, Ports, Role
from collector.track.trackers import Trackers, TrackersConfig
from collector.window import Window
from collector.wire.addr import pack, unpack

SECOND_NS: Final = 1_000_000_000
CLASSES: Final = ("binding", "session", "usage", "mapping", "visit", "call", "gap")
"""Record classes that a capture alone can give."""
EVERYTHING: Final = ((bytes(16), 0),)
EXPORTS: Final = (2055, 4739, 9995)
"""NetFlow by custom, IPFIX by RFC 7011 section 10.3.4."""
_STEPPED_NS: Final = 3600 * SECOND_NS
"""Of a longer silence the rest passes in one step: files may lie years apart, and what timers do
follows from when they were due, not from when they are looked at."""
_ROLES: Final[frozenset[Role]] = frozenset(("access", "control"))


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """What a live collector reads from its configuration. `linger_s` lets that much time pass
    after the last packet, so that what the capture left open ends by the rules for silence."""

    interface: int = 1
    ports: Ports = Ports(exports=EXPORTS)
    secrets: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    access: tuple[tuple[bytes, int], ...] = EVERYTHING
    trusted: tuple[tuple[bytes, int], ...] = ()
    region: str = "GB"
    ipv6_prefix_len: int = 64
    window_s: int = 300
    linger_s: int = 0
    lines: Mapping[str, str] = field(default_factory=dict)
    swapped: frozenset[str] = frozenset()


def prefix_of(text: str) -> tuple[bytes, int]:
    """(base address, length in 128 bits) of a prefix as text; raises ValueError for others."""
    network = ipaddress.ip_network(text)
    return pack(network.network_address), network.prefixlen + (96 if network.version == 4 else 0)


def observations(frames: Iterable[Frame], config: ReplayConfig) -> Iterator[dict[str, Any]]:
    """One line for each observed host: proto, client, server, host, and a look-up's answers."""
    observer = _observer(config)
    for frame in frames:
        for event in observer.frame(frame):
            if isinstance(event, HostSeen):
                yield _line(event.evidence, event.client, event.server, event.host, event.port)
            elif isinstance(event, Resolution):
                line = _line("dns", event.client, event.server, event.host)
                yield {**line, "answers": [unpack(each) for each in event.addresses]}


def records(
    frames: Iterable[Frame], classes: Iterable[str], config: ReplayConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(class, columns by name) of each record, window by window, in the order of a batch."""
    wanted = frozenset(classes)
    replay = _Replay(config)
    for frame in frames:
        for pieces in replay.frame(frame):
            yield from _rows(pieces, wanted)
    for pieces in replay.finish():
        yield from _rows(pieces, wanted)


class _Replay:
    """The service's loop with packets for a clock."""

    def __init__(self, config: ReplayConfig) -> None:
        self._config = config
        self._observer = _observer(config)
        self._lines = Lines(None, config.lines)
        self._window = Window(config.window_s * SECOND_NS, "replay")
        self._trackers: Trackers | None = None
        self._now = self._tick_at = 0

    def frame(self, frame: Frame) -> Iterator[list[Any]]:
        """Take one frame; gives the windows that its time closes."""
        if self._trackers is None:
            self._begin(frame.ts_ns)
        yield from self._advance(frame.ts_ns)
        for event in self._observer.frame(frame):
            self._take(event)

    def finish(self) -> Iterator[list[Any]]:
        """Let the silence after the last packet pass, and close the last window."""
        if self._trackers is None:
            return
        # A second at least, in which messages that wait for their order are acted on.
        yield from self._advance(self._now + max(self._config.linger_s, 1) * SECOND_NS)
        self._trackers.tick(self._now)
        self._trackers.calls.tell_open(self._now)
        yield self._close(self._now + 1)

    def _begin(self, now: int) -> None:
        config = self._config
        self._trackers = Trackers(
            TrackersConfig(
                access=config.access,
                window_ns=config.window_s * SECOND_NS,
                ipv6_prefix_len=config.ipv6_prefix_len,
                region=config.region,
                trusted=config.trusted,
                swap_octets=config.swapped,
                resolver_ports=config.ports.dns,
            ),
            now,
        )
        self._now = now
        self._window.open(now)
        self._tick_at = now + SECOND_NS

    def _advance(self, to: int) -> Iterator[list[Any]]:
        """Run timers and close windows until `to`; time within a file may go back a little."""
        near = self._now + _STEPPED_NS
        while min(self._tick_at, self._window.end_ns) <= min(to, near):
            yield from self._pass(min(self._tick_at, self._window.end_ns))
        if to > near:
            yield from self._pass(to)
        self._now = max(self._now, to)

    def _pass(self, at: int) -> Iterator[list[Any]]:
        assert self._trackers is not None
        self._now = max(self._now, at)
        for event in self._observer.tick(self._now):
            self._take(event)
        self._trackers.tick(self._now)
        if self._tick_at <= self._now:
            self._tick_at = self._now + SECOND_NS
        if self._window.end_ns <= self._now:
            yield self._close(self._now)

    def _take(self, event: Any) -> None:
        assert self._trackers is not None
        event = self._lines.resolved(event)
        if isinstance(event, Control):
            kind, payload = control_event(event)
            self._trackers.apply(kind, payload, self._now)
        else:
            self._trackers.observed(event)

    def _close(self, now: int) -> list[Any]:
        assert self._trackers is not None
        start, end = self._window.bounds(now)
        taken = self._trackers.take(start, end, now)
        losses = [*self._trackers.losses(), *self._observer.losses(now)]
        return self._window.close(start, end, now, taken, losses)


def _observer(config: ReplayConfig) -> Observer:
    roles = {config.interface: _ROLES}
    return Observer(ObserverConfig(roles, config.ports, config.secrets, unfiltered=True))


def _line(proto: str, client: bytes, server: bytes, host: str, port: str = "") -> dict[str, Any]:
    """A literal IPv6 address stands in brackets where an authority had it (RFC 3986 3.2.2)."""
    if proto != "dns" and ":" in host:
        host = f"[{host}]"
    return {"proto": proto, "client": unpack(client), "server": unpack(server), "host": host + port}


def _rows(pieces: list[Any], wanted: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for piece in pieces:
        for name, batch in piece.columns.items():
            if name in wanted:
                for row in batch.to_pylist():
                    yield name, {key: _plain(key, value) for key, value in row.items()}


def _plain(name: str, value: Any) -> Any:
    """Bytes as text: addresses as addresses, identities as hex."""
    if not isinstance(value, bytes):
        return value
    if name in ("address", "server") or name.endswith("_address"):
        return str(ipaddress.ip_address(unpack(value)))
    return value.hex()
