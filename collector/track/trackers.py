"""All trackers of one collector as one: events and readings in, rows of a window out.

Everything that a restart must not lose goes through `apply`, as (kind, payload) of the journal:
the live path and the replay after a crash are the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from collector.parse.sip import SipEvent
from collector.track.calls import Calls, CallsConfig
from collector.track.exports import Exported, Exports, ExportsConfig
from collector.track.flows import FlowConfig, Flows, MappingConfig, Rows
from collector.track.hosts import Hosts, HostsConfig, HostSeen, Resolution
from collector.track.journal_events import reading_of, sample_of
from collector.track.links import Links, LinksConfig
from collector.track.safeguard.domain import Blocked, SafeguardConfig
from collector.track.safeguard.targets import Targets
from collector.track.safeguard.tracker import Randomness, SafeGuard
from collector.track.sessions import EVENTS, BindingChange, Sessions, SessionsConfig
from collector.track.volume import Volume, VolumeConfig
from collector.wire.columns import Columns
from collector.wire.loss import Loss

VERSION: Final = 1
MAX_PLACES: Final = 2_048
"""Detail files whose end is remembered; of two clients a day each that is three years."""
CLASSES_OF: Final[dict[str, tuple[str, ...]]] = {
    "sessions": ("session", "binding"),
    "calls": ("call",),
    "hosts": ("visit",),
    "flows": ("visit", "mapping"),
    "volume": ("usage",),
    "links": ("link",),
    "exports": ("usage", "mapping"),
    "safeguard": ("block_count", "safeguard_ledger"),
}
"""Record classes that each tracker makes, by the name of its part of a snapshot."""
_OUTCOMES: Final = ("seen", "recorded", "ignored", "lost", "open", "malformed")


@dataclass(frozen=True, slots=True)
class TrackersConfig:
    """What the trackers share: access prefixes as (base address, length in 128 bits)."""

    access: tuple[tuple[bytes, int], ...]
    window_ns: int
    ipv6_prefix_len: int = 64
    region: str = "GB"
    trusted: tuple[tuple[bytes, int], ...] = ()
    subscriber_from: tuple[str, ...] = ("cui", "user_name")
    interim_s: int = 0
    swap_octets: frozenset[str] = frozenset()
    resolver_ports: tuple[int, ...] = (53,)
    exported_usage: bool = True
    visits_by_connection: bool = False
    mappings: MappingConfig = MappingConfig()
    max_sessions: int = 262_144
    max_calls: int = 65_536
    max_flows: int = 1 << 20
    safeguard: SafeguardConfig | None = None
    targets: Targets | None = None


class Trackers:
    """Sessions, calls, visits, flows, volume and links of one run from `started_ns` on.

    SafeGuard is there where it is configured, and then needs `randomness` (ValueError without it).
    """

    def __init__(
        self, config: TrackersConfig, started_ns: int, randomness: Randomness | None = None
    ) -> None:
        self._config, self._started_ns, self._randomness = config, started_ns, randomness
        self.reconciled: dict[str, int] = {}
        """Layer-3 bytes by who counted them, all in this run and all as of one moment."""
        self.places: dict[str, list[Any]] = {}
        """Where reading of detail files goes on: device, inode, offset, digest of the head."""
        self.sessions = self._new_sessions()
        self.calls = self._new_calls()
        self.hosts = self._new_hosts()
        self.flows = self._new_flows()
        self.volume = self._new_volume()
        self.links = self._new_links()
        self.exports = self._new_exports()
        self.safeguard = self._new_safeguard()

    def observed(self, event: HostSeen | Resolution | Blocked | Exported) -> None:
        """A host, an answer, a block or an export was seen; not journalled, as a restart tells
        visits as lost, makes the day of SafeGuard silent, and finds exports by their sequence."""
        if isinstance(event, Exported):
            self.exports.datagram(event)
        elif isinstance(event, Blocked):
            if self.safeguard:
                self.safeguard.blocked(event)
        elif isinstance(event, HostSeen):
            self.hosts.seen(event)
        else:
            self.hosts.resolved(event)

    def apply(self, kind: str, payload: Mapping[str, Any], now_ns: int) -> list[BindingChange]:
        """Take one journalled event; gives the addresses whose counters must be read now.

        Raises KeyError, TypeError or ValueError for what no version of this code wrote.
        """
        match kind:
            case name if name in EVENTS:
                return self._changed(self.sessions.apply(EVENTS[name].from_json(payload), now_ns))
            case "detail":
                return self._detail(payload, now_ns)
            case "sip":
                self.calls.apply(SipEvent.from_json(payload), now_ns)
            case "split":
                self.volume.split(sample_of(payload))
            case "split-prefix":
                reading, address, prefix_len = reading_of(payload)
                self.volume.split_prefix(reading, address, prefix_len)
            case "interrupt":
                self.calls.interrupt(int(payload["ts_ns"]))
            case "alive":
                pass
            case _:
                raise ValueError("no event of the journal is of this kind")
        return []

    def destroyed(self, rows: Rows, now_ns: int) -> None:
        """Conntrack DESTROY events, decoded."""
        self.hosts.flows(self.flows.destroyed(rows, now_ns))

    def dumped(self, rows: Rows, now_ns: int, complete: bool) -> None:
        """One dump of the conntrack table, decoded."""
        self.hosts.flows(self.flows.dump(rows, now_ns, complete))

    def tick(self, now_ns: int) -> list[BindingChange]:
        """Let time pass: session and call timers run, hours and days of SafeGuard end."""
        if self.safeguard:
            self.safeguard.advance(now_ns)
        self.calls.tick(now_ns)
        return self._changed(self.sessions.tick(now_ns))

    def _detail(self, payload: Mapping[str, Any], now_ns: int) -> list[BindingChange]:
        """A record of a detail file: where reading goes on is part of the state."""
        device, inode, offset, head = payload["place"]
        key = f"{device}:{inode}"
        self.places.pop(key, None)
        self.places[key] = [device, inode, offset, head]
        while len(self.places) > MAX_PLACES:
            del self.places[next(iter(self.places))]
        if payload["event"] is None:
            return []
        return self.apply("accounting", payload["event"], now_ns)

    def _changed(self, changes: list[BindingChange]) -> list[BindingChange]:
        self.exports.changed(changes)
        return changes

    def reconcile(self) -> None:
        """Hold the three counts of the same traffic beside each other, once counters and then
        interfaces were read: interfaces >= sets >= flows."""
        self.reconciled = {
            "interfaces": self.links.counts["access_layer3"],
            "sets": self.volume.counts["metered"],
            "flows": self.flows.counts["octets"],
        }

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> list[Mapping[str, Columns]]:
        """Rows of the closing window of every tracker."""
        flows = self.flows.ended_counts()
        guard = self.safeguard
        return [
            self.sessions.take(start_ns, end_ns, now_ns),
            self.volume.take(start_ns, end_ns, now_ns, flows),
            self.flows.take(start_ns, end_ns, now_ns),
            self.hosts.take(start_ns, end_ns, now_ns),
            self.calls.take(start_ns, end_ns, now_ns),
            self.links.take(start_ns, end_ns, now_ns),
            self.exports.take(start_ns, end_ns, now_ns),
            guard.take(start_ns, end_ns, now_ns) if guard else {},
        ]

    def losses(self) -> list[Loss]:
        """What the trackers could not keep since the last call."""
        return [
            *self.sessions.take_losses(),
            *self.calls.take_losses(),
            *self.hosts.losses(),
            *self.flows.losses(),
            *self.volume.take_losses(),
            *self.links.take_losses(),
            *self.exports.take_losses(),
        ]

    def snapshot(self) -> dict[str, object]:
        """JSON-able state of every tracker; take it where a window closes, after `take`."""
        state: dict[str, object] = {
            "version": VERSION,
            "sessions": self.sessions.snapshot(),
            "calls": self.calls.snapshot(),
            "hosts": self.hosts.snapshot(),
            "flows": self.flows.snapshot(),
            "volume": self.volume.snapshot(),
            "links": self.links.snapshot(),
            "exports": self.exports.snapshot(),
            "places": self.places,
        }
        if self.safeguard:
            state["safeguard"] = self.safeguard.snapshot()
        return state

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> list[str]:
        """Go on where `snapshot` was taken; gives the trackers whose part of it is damaged.

        Those begin anew, as after `__init__`, and the rest is none the worse for it. Raises
        ValueError, KeyError or TypeError where nothing of the snapshot can be used.
        """
        if snapshot["version"] != VERSION:
            raise ValueError("the state is of another version")
        damaged = []
        self.places = dict(snapshot.get("places", {}))
        for name in CLASSES_OF:
            if name == "safeguard" and (self.safeguard is None or name not in snapshot):
                continue  # it came or went with the configuration
            if name == "exports" and name not in snapshot:
                continue  # a state of before there were any
            try:
                getattr(self, name).restore(snapshot[name], now_ns)
            except Exception:  # what a damaged state makes of a tracker has no end of names
                setattr(self, name, getattr(self, f"_new_{name}")())
                damaged.append(name)
        # Counts are of one process: scrapers take a counter that fell a little for one that began
        # anew at that value, and would add the run before a second time.
        for counts in (self.sessions.counts, self.calls.counts):
            counts.update(dict.fromkeys(counts, 0))
        self.calls.counts["seen"] = self.calls.waiting
        return damaged

    def stages(self) -> dict[str, dict[str, int]]:
        """Counts of the conservation equation by stage: seen = recorded + ignored + lost + open."""
        found: dict[str, Mapping[str, int]] = {
            "accounting": self.sessions.counts,
            "sip-messages": {**self.calls.counts, "open": self.calls.waiting},
            "volume-bytes": self.volume.counts,
            "link-bytes": self.links.counts,
            "export-records": self.exports.counts,
            **{f"visit-{name}": counts for name, counts in self.hosts.counts.items()},
        }
        stages = {name: equation(counts) for name, counts in found.items()}
        # A flow's rows are recorded as deltas at once; "open" there counts flows, not rows.
        stages["flow-rows"] = {**equation(self.flows.counts), "open": 0}
        return stages

    def _new_sessions(self) -> Sessions:
        config = self._config
        return Sessions(
            SessionsConfig(
                subscriber_from=config.subscriber_from,
                ipv6_prefix_len=config.ipv6_prefix_len,
                interim_interval_s=config.interim_s,
                swap_octets=config.swap_octets,
                max_sessions=config.max_sessions,
            )
        )

    def _new_calls(self) -> Calls:
        config = self._config
        return Calls(
            CallsConfig(
                access=config.access,
                trusted=config.trusted,
                region=config.region,
                ipv6_prefix_len=config.ipv6_prefix_len,
                max_legs=config.max_calls,
            )
        )

    def _new_hosts(self) -> Hosts:
        config = self._config
        return Hosts(
            HostsConfig(
                access=config.access,
                ipv6_prefix_len=config.ipv6_prefix_len,
                resolver_ports=config.resolver_ports,
                by_connection=config.visits_by_connection,
                targets=config.targets,
            )
        )

    def _new_flows(self) -> Flows:
        config = self._config
        return Flows(
            FlowConfig(
                access=config.access,
                usage_prefix_len=config.ipv6_prefix_len,
                max_flows=config.max_flows,
                mappings=config.mappings,
            ),
            self._started_ns,
        )

    def _new_volume(self) -> Volume:
        return Volume(VolumeConfig(window_ns=self._config.window_ns))

    def _new_links(self) -> Links:
        return Links(LinksConfig(window_ns=self._config.window_ns))

    def _new_exports(self) -> Exports:
        config = self._config
        return Exports(ExportsConfig(config.access, config.ipv6_prefix_len, config.exported_usage))

    def _new_safeguard(self) -> SafeGuard | None:
        config = self._config
        if config.safeguard is None:
            return None
        if self._randomness is None:
            raise ValueError("SafeGuard needs a source of random bytes")
        return SafeGuard(config.safeguard, config.access, config.ipv6_prefix_len, self._randomness)


def equation(counts: Mapping[str, int]) -> dict[str, int]:
    """The terms of the conservation equation among a stage's counts."""
    return {name: counts.get(name, 0) for name in _OUTCOMES}


def touches_calls(loss: Loss) -> bool:
    """Whether a call open now may lack a message that was lost; stray fragments are no reason."""
    lost = loss.amount != 0 and "call" in loss.classes
    return lost and (loss.stage == "capture" or loss.reason == "sip-cut")
