"""What the journal holds into trackers and an open window that go on where the last run ended.

Nothing that a journal holds keeps a collector from starting: what cannot be used is told as lost.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from collector.journal import Event, Journal
from collector.track.trackers import CLASSES_OF, Trackers
from collector.window import Window
from collector.wire.gaps import loss_from_json
from collector.wire.loss import Loss
from collector.wire.records import CLASSES

log = logging.getLogger(__name__)

_UNSEEN: Final = ("session", "binding", "call")
"""What packets carry and the journal keeps: lost is what passed while no collector ran. What is
kept from window to window only (visits, mappings) is lost since the state."""
_REPLAYED: Final = ("session", "binding", "call", "usage")


@dataclass(slots=True)
class Resumed:
    """How a run begins. is_restart: an earlier one left something. is_anchored: the counters have a
    last reading to be compared with. since_ns: time of the state that is gone, 0 where none is."""

    is_restart: bool
    is_anchored: bool = False
    since_ns: int = 0
    losses: list[Loss] = field(default_factory=list)


def resume(
    journal: Journal, last_sequence: int, trackers: Trackers, window: Window, now_ns: int
) -> Resumed:
    """Restore the state of the last committed batch and replay what came after it.

    `trackers` and `window` are as they were made. Raises JournalError.
    """
    snapshot, events = journal.load(last_sequence)
    found = Resumed(is_restart=snapshot is not None or bool(events))
    found.losses += journal.losses
    if journal.losses:
        found.is_restart = True
        found.since_ns = min(loss.start_ns for loss in journal.losses)
    state_ns = alive_ns = min(found.since_ns or now_ns, _time_of(events, min, now_ns))
    if snapshot is not None:
        at_ns = snapshot.get("now_ns")
        if isinstance(at_ns, int) and 0 < at_ns <= now_ns:
            state_ns = alive_ns = at_ns
        _restore(snapshot, trackers, window, state_ns, now_ns, found)
    else:
        window.open(now_ns)
    _replay(events, trackers, state_ns, now_ns, found)
    alive_ns = max(alive_ns, min(_time_of(events, max, now_ns), now_ns)) if events else alive_ns
    if found.is_restart:
        found.losses += [
            Loss(alive_ns, now_ns, "capture", "restart", -1, "packets", _UNSEEN),
            Loss(state_ns, now_ns, "track", "restart", -1, "events", ("mapping",)),
        ]
    found.is_anchored = trackers.volume.generation is not None
    return found


def _restore(
    snapshot: Mapping[str, Any],
    trackers: Trackers,
    window: Window,
    state_ns: int,
    now_ns: int,
    found: Resumed,
) -> None:
    """Take over the parts of a state that can be used; the others are losses since `state_ns`."""
    damaged: set[str] = set()
    try:
        for name in trackers.restore(snapshot["trackers"], now_ns):
            damaged.update(CLASSES_OF[name])
    except (KeyError, TypeError, ValueError):
        damaged.update(name for classes in CLASSES_OF.values() for name in classes)
    try:
        window.restore(snapshot["window"], now_ns)
    except (KeyError, TypeError, ValueError):
        window.open(now_ns)
    try:
        found.losses += [loss_from_json(each) for each in snapshot.get("losses", [])]
    except (TypeError, ValueError):
        damaged.update(CLASSES)
    if damaged:
        classes = tuple(name for name in CLASSES if name in damaged)
        log.error("parts of the state cannot be used and begin anew: %s", ", ".join(classes))
        found.since_ns = state_ns
        found.losses.append(
            Loss(state_ns, now_ns, "track", "state-unusable", -1, "events", classes)
        )


def _replay(
    events: list[Event], trackers: Trackers, state_ns: int, now_ns: int, found: Resumed
) -> None:
    refused: Counter[str] = Counter()
    for kind, payload in events:
        try:
            if kind == "loss":
                found.losses.append(loss_from_json(payload))
            else:
                trackers.apply(kind, payload, now_ns)
        except Exception as error:  # a start is worth more than any event, whatever is wrong in it
            refused[type(error).__name__] += 1
    if refused:
        total = sum(refused.values())
        log.error("%d events of the journal are refused (%s)", total, ", ".join(refused))
        found.losses.append(
            Loss(state_ns, now_ns, "track", "replay-refused", total, "events", _REPLAYED)
        )


def _time_of(events: list[Event], choose: Any, default_ns: int) -> int:
    """The first or last time that events name."""
    times = (payload.get("ts_ns") for _, payload in events)
    return int(choose((t for t in times if type(t) is int and t > 0), default=default_ns))
