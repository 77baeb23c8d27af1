"""What really happened in the lab, from sources that are not the product.

Bytes: the subscriber's own interface counters. Time: when the lab sent the accounting requests.
Hosts: what the subscriber's own program says it got. Calls: SIPp's own log.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SessionTruth:
    """One access session. Times are UTC ns, taken right before the request was sent.

    The Event-Timestamp of a request is the whole second of that time; Start and Stop are sent
    within the first tenth of a second, so that the stated times differ from these by no more.
    `v6_prefix` is the delegated /64; bytes are layer-3 bytes, up is from the subscriber.
    """

    session_id: str
    interface: str
    v4: str | None
    v6: str | None
    v6_prefix: str | None
    start_ns: int
    stop_ns: int
    up_bytes: int
    down_bytes: int

    @property
    def connected_s(self) -> float:
        """From Start to Stop."""
        return (self.stop_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class SubscriberTruth:
    """One subscriber's day. `hosts`: name connected to -> connections that succeeded.

    `hosts` named themselves on the wire (TLS or QUIC server name, HTTP Host); `reached` were
    exchanged UDP with after a look-up, so that only the resolver's answer tells their name;
    `looked_up` are names asked for by a step that then did not connect.
    `family` is "v4", "v6" or "dual"; `nat` says whether the IPv4 address is behind the router's.
    """

    id: str
    line: int
    family: str
    nat: bool
    up_bytes: int
    down_bytes: int
    connected_s: float
    hosts: dict[str, int]
    reached: dict[str, int]
    looked_up: tuple[str, ...]
    sessions: tuple[SessionTruth, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CallTruth:
    """One call as the caller's own SIPp logged it. Times are UTC ns; 0 where there is none.

    `talk_ms` runs from the 200 to the INVITE until the BYE; 0 if the call was not answered.
    """

    subscriber: str
    a: str
    b: str
    answered: bool
    talk_ms: int
    disposition: str
    start_ns: int
    answer_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Truth:
    """The whole day. `drops` are packets that an interface lost: 0, or the bytes are not exact."""

    subscribers: list[SubscriberTruth]
    calls: list[CallTruth]
    start_ns: int
    end_ns: int
    drops: int = 0
    events: list[dict[str, object]] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Steps that failed."""
        return [f"{s.id}: {error}" for s in self.subscribers for error in s.errors]

    def subscriber(self, identity: str) -> SubscriberTruth:
        """By id; KeyError if the day has none such."""
        for found in self.subscribers:
            if found.id == identity:
                return found
        raise KeyError(identity)

    def to_json(self) -> dict[str, object]:
        """Plain types only."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """To a JSON file."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")
