"""All trackers of one collector as one: events and readings in, rows of a window out.

Everything that a restart must not lose goes through `apply`, as (kind, payload) of the journal:
the live path and the replay after a crash are the same code.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from collector.parse.radius import Accounting, AccountingAck
from collector.parse.sip import SipEvent
from collector.track.calls import Calls, CallsConfig
from collector.track.flows import FlowConfig, Flows, Rows
from collector.track.hosts import Hosts, HostsConfig, HostSeen, Resolution
from collector.track.links import Links, LinksConfig
from collector.track.sessions import BindingChange, Sessions, SessionsConfig
from collector.track.volume import Reading, Sample, Volume, VolumeConfig
from collector.wire.columns import Columns
from collector.wire.loss import Loss

JournalEvent = tuple[str, dict[str, Any]]
"""Kind and payload of one line of the journal."""

VERSION: Final = 1

_OUTCOMES: Final = ("seen", "recorded", "ignored", "lost", "open", "malformed")


@dataclass(frozen=True, slots=True)
class TrackersConfig:
    """What the trackers share: access prefixes as (base address, length in 128 bits)."""

    access: tuple[tuple[bytes, int], ...]
    window_ns: int
    ipv6_prefix_len: int = 64
    region: str = "GB"
    subscriber_from: tuple[str, ...] = ("cui", "user_name")
    interim_s: int = 0
    resolver_ports: tuple[int, ...] = (53,)
    max_sessions: int = 262_144
    max_calls: int = 65_536
    max_flows: int = 1 << 20


class Trackers:
    """Sessions, calls, visits, flows, volume and links of one run from `started_ns` on."""

    def __init__(self, config: TrackersConfig, started_ns: int) -> None:
        prefix_len = config.ipv6_prefix_len
        self.sessions = Sessions(
            SessionsConfig(
                subscriber_from=config.subscriber_from,
                interim_interval_s=config.interim_s,
                max_sessions=config.max_sessions,
            )
        )
        self.calls = Calls(
            CallsConfig(
                access=config.access,
                region=config.region,
                ipv6_prefix_len=prefix_len,
                max_legs=config.max_calls,
            )
        )
        self.hosts = Hosts(
            HostsConfig(
                access=config.access,
                ipv6_prefix_len=prefix_len,
                resolver_ports=config.resolver_ports,
            )
        )
        self.flows = Flows(
            FlowConfig(
                access=config.access, usage_prefix_len=prefix_len, max_flows=config.max_flows
            ),
            started_ns,
        )
        self.volume = Volume(VolumeConfig(window_ns=config.window_ns))
        self.links = Links(LinksConfig(window_ns=config.window_ns))

    def observed(self, event: HostSeen | Resolution) -> None:
        """A host or an answer was seen; not journalled, as a restart tells visits as lost."""
        if isinstance(event, HostSeen):
            self.hosts.seen(event)
        else:
            self.hosts.resolved(event)

    def apply(self, kind: str, payload: Mapping[str, Any], now_ns: int) -> list[BindingChange]:
        """Take one journalled event; gives the addresses whose counters must be read now.

        Raises KeyError, TypeError or ValueError for what no version of this code wrote.
        """
        match kind:
            case "accounting":
                return self.sessions.apply(Accounting.from_json(payload), now_ns)
            case "ack":
                return self.sessions.apply(AccountingAck.from_json(payload), now_ns)
            case "sip":
                self.calls.apply(SipEvent.from_json(payload), now_ns)
            case "split":
                self.volume.split(_sample(payload))
            case "split-prefix":
                reading, address, prefix_len = _reading(payload)
                self.volume.split_prefix(reading, address, prefix_len)
            case "alive":
                pass
            case _:
                raise ValueError(f"no event of the journal is called {kind}")
        return []

    def destroyed(self, rows: Rows, now_ns: int) -> None:
        """Conntrack DESTROY events, decoded."""
        self.hosts.flows(self.flows.destroyed(rows, now_ns))

    def dumped(self, rows: Rows, now_ns: int, complete: bool) -> None:
        """One dump of the conntrack table, decoded."""
        self.hosts.flows(self.flows.dump(rows, now_ns, complete))

    def tick(self, now_ns: int) -> list[BindingChange]:
        """Let time pass: session and call timers run."""
        self.calls.tick(now_ns)
        return self.sessions.tick(now_ns)

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> list[Mapping[str, Columns]]:
        """Rows of the closing window of every tracker."""
        flows = self.flows.ended_counts()
        return [
            self.sessions.take(start_ns, end_ns, now_ns),
            self.volume.take(start_ns, end_ns, now_ns, flows),
            self.flows.take(start_ns, end_ns, now_ns),
            self.hosts.take(start_ns, end_ns, now_ns),
            self.calls.take(start_ns, end_ns, now_ns),
            self.links.take(start_ns, end_ns, now_ns),
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
        ]

    def snapshot(self) -> dict[str, object]:
        """JSON-able state of every tracker; take it where a window closes, after `take`."""
        return {
            "version": VERSION,
            "sessions": self.sessions.snapshot(),
            "calls": self.calls.snapshot(),
            "hosts": self.hosts.snapshot(),
            "flows": self.flows.snapshot(),
            "volume": self.volume.snapshot(),
            "links": self.links.snapshot(),
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Go on where `snapshot` was taken; raises ValueError, KeyError or TypeError if bad."""
        if snapshot["version"] != VERSION:
            raise ValueError("the state is of another version")
        self.sessions.restore(snapshot["sessions"], now_ns)
        self.calls.restore(snapshot["calls"], now_ns)
        self.hosts.restore(snapshot["hosts"], now_ns)
        self.flows.restore(snapshot["flows"], now_ns)
        self.volume.restore(snapshot["volume"], now_ns)
        self.links.restore(snapshot["links"], now_ns)
        # Counts are of one process: scrapers take a counter that falls a little for one that began
        # anew at that value, and would count the run before a second time.
        for counts in (self.sessions.counts, self.calls.counts):
            counts.update(dict.fromkeys(counts, 0))
        self.calls.counts["seen"] = self.calls.waiting

    def stages(self) -> dict[str, dict[str, int]]:
        """Counts of the conservation equation by stage: seen = recorded + ignored + lost + open."""
        found: dict[str, Mapping[str, int]] = {
            "accounting": self.sessions.counts,
            "sip-messages": {**self.calls.counts, "open": self.calls.waiting},
            "volume-bytes": self.volume.counts,
            "link-bytes": self.links.counts,
            **{f"visit-{name}": counts for name, counts in self.hosts.counts.items()},
        }
        stages = {name: equation(counts) for name, counts in found.items()}
        # A flow's rows are recorded as deltas at once; "open" there counts flows, not rows.
        stages["flow-rows"] = {**equation(self.flows.counts), "open": 0}
        return stages


def equation(counts: Mapping[str, int]) -> dict[str, int]:
    """The terms of the conservation equation among a stage's counts."""
    return {name: counts.get(name, 0) for name in _OUTCOMES}


def control_event(event: Accounting | AccountingAck | SipEvent) -> JournalEvent:
    """An event of the control plane as a line of the journal."""
    kind = {Accounting: "accounting", AccountingAck: "ack", SipEvent: "sip"}[type(event)]
    return kind, event.to_json()


def split_event(sample: Sample) -> JournalEvent:
    """A counter read at a binding change as a line of the journal."""
    return "split", {**asdict(sample), "address": sample.address.hex()}


def split_prefix_event(reading: Reading, change: BindingChange) -> JournalEvent:
    """The part of a reading that lies in a prefix wider than the metered one, for the journal.

    An address that a reading lacks has no news, so the part does what the whole would do.
    """
    span = (1 << (128 - change.prefix_len)) - 1
    low = change.address
    high = (int.from_bytes(low, "big") | span).to_bytes(16, "big")
    keys = reading.addresses.tolist()
    inside = np.array([low <= key <= high for key in keys], dtype=bool)
    return "split-prefix", {
        "address": low.hex(),
        "prefix_len": change.prefix_len,
        "began_ns": reading.began_ns,
        "ts_ns": reading.ts_ns,
        "generation": reading.generation,
        "addresses": [key.hex() for key, is_in in zip(keys, inside, strict=True) if is_in],
        "lengths": reading.prefix_len[inside].tolist(),
        "counters": base64.b64encode(reading.counters[inside].astype("<u8").tobytes()).decode(),
        "uncounted": [reading.uncounted_bytes, reading.uncounted_packets],
    }


def _sample(payload: Mapping[str, Any]) -> Sample:
    return Sample(**{**payload, "address": bytes.fromhex(payload["address"])})


def _reading(payload: Mapping[str, Any]) -> tuple[Reading, bytes, int]:
    keys = b"".join(bytes.fromhex(each) for each in payload["addresses"])
    counters = np.frombuffer(base64.b64decode(payload["counters"]), "<u8").astype(np.uint64)
    reading = Reading(
        began_ns=payload["began_ns"],
        ts_ns=payload["ts_ns"],
        generation=payload["generation"],
        addresses=np.frombuffer(keys, "V16"),
        prefix_len=np.array(payload["lengths"], np.uint8),
        counters=counters.reshape(-1, 4),
        uncounted_bytes=payload["uncounted"][0],
        uncounted_packets=payload["uncounted"][1],
    )
    return reading, bytes.fromhex(payload["address"]), payload["prefix_len"]
