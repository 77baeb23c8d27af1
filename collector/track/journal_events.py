"""Events into lines of the journal and back: what a restart is told of the time since the state.

Of the control plane that is what was said, of counters what was read where a binding changed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.parse.radius import Accounting
from collector.parse.sip import SipEvent
from collector.track.sessions import EVENTS, BindingChange, SessionEvent
from collector.track.volume import Reading, Sample

JournalEvent = tuple[str, dict[str, Any]]
"""Kind and payload of one line of the journal."""

MAX_SPLIT_ADDRESSES: Final = 256
"""Addresses of one "split-prefix" line: 25 KB of the 64 KiB that a line may have."""


Control = SessionEvent | SipEvent
"""What the control plane says, in contrast to hosts."""
_KINDS: Final = {SipEvent: "sip"} | {kind: name for name, kind in EVENTS.items()}


def control_event(event: Control) -> JournalEvent:
    """An event of the control plane as a line of the journal."""
    return _KINDS[type(event)], event.to_json()


def detail_event(event: Accounting | None, place: tuple[int, int, int, str]) -> JournalEvent:
    """A record of a detail file with where it ends, or only the place where reading begins."""
    payload = {"place": list(place), "event": event and event.to_json()}
    return "detail", payload | ({"ts_ns": event.ts_ns} if event else {})


def split_event(sample: Sample) -> JournalEvent:
    """A counter read at a binding change as a line of the journal."""
    return "split", {**asdict(sample), "address": sample.address.hex()}


def split_prefix_events(reading: Reading, change: BindingChange) -> list[JournalEvent]:
    """The part of a reading that lies in a prefix wider than the metered one, for the journal.

    An address that a reading lacks has no news, so the part does what the whole would do. A prefix
    with more addresses than a line holds is split half by half.
    """
    found: list[JournalEvent] = []
    keys = np.ascontiguousarray(reading.addresses).view("S16")
    todo = [(int.from_bytes(change.address, "big"), change.prefix_len)]
    while todo:
        low, length = todo.pop()
        high = low | (1 << 128 - length) - 1
        inside = (keys >= np.bytes_(low.to_bytes(16, "big"))) & (
            keys <= np.bytes_(high.to_bytes(16, "big"))
        )
        if np.count_nonzero(inside) > MAX_SPLIT_ADDRESSES:
            todo += [(low | 1 << 127 - length, length + 1), (low, length + 1)]
        else:
            found.append(_split_prefix_event(reading, inside, low.to_bytes(16, "big"), length))
    return found


def _split_prefix_event(
    reading: Reading, inside: NDArray[np.bool_], base: bytes, length: int
) -> JournalEvent:
    return "split-prefix", {
        "address": base.hex(),
        "prefix_len": length,
        "began_ns": reading.began_ns,
        "ts_ns": reading.ts_ns,
        "generation": reading.generation,
        "addresses": [key.hex() for key in reading.addresses[inside].tolist()],
        "lengths": reading.prefix_len[inside].tolist(),
        "counters": base64.b64encode(reading.counters[inside].astype("<u8").tobytes()).decode(),
        "uncounted": [reading.uncounted_bytes, reading.uncounted_packets],
    }


def sample_of(payload: Mapping[str, Any]) -> Sample:
    """What `split_event` wrote; raises KeyError, TypeError or ValueError for anything else."""
    return Sample(**{**payload, "address": bytes.fromhex(payload["address"])})


def reading_of(payload: Mapping[str, Any]) -> tuple[Reading, bytes, int]:
    """One event of `split_prefix_events`: the reading, and base and length of the prefix.

    Raises KeyError, TypeError or ValueError for anything else.
    """
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
