"""SIP messages from several interfaces: turns order of arrival into order of packet time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from collector.parse.sip import SipEvent


class EventOrder:
    """Holds a message back until none earlier can still come: `reorder_ns` after its time.

    At most `max_reorder` messages wait; beyond that the oldest comes out early.
    """

    def __init__(self, reorder_ns: int, max_reorder: int) -> None:
        self._reorder_ns = reorder_ns
        self._max_reorder = max_reorder
        self._waiting: list[tuple[int, int, SipEvent]] = []
        self._arrivals = 0
        self._newest_ns = 0
        self._drained_ns = 0

    def __len__(self) -> int:
        """Messages held back."""
        return len(self._waiting)

    def add(self, event: SipEvent) -> bool:
        """Takes a message; False where it came too late, after a later one went out."""
        self._arrivals += 1
        heapq.heappush(self._waiting, (event.ts_ns, self._arrivals, event))
        self._newest_ns = max(self._newest_ns, event.ts_ns)
        return event.ts_ns >= self._drained_ns

    def due(self, now_ns: int | None = None) -> Iterator[SipEvent]:
        """Removes and gives, in order, what is due at a packet time: by default the newest seen."""
        upto_ns = (self._newest_ns if now_ns is None else now_ns) - self._reorder_ns
        while self._waiting and (
            self._waiting[0][0] <= upto_ns or len(self._waiting) > self._max_reorder
        ):
            at, _, event = heapq.heappop(self._waiting)
            self._drained_ns = max(self._drained_ns, at)
            yield event

    def snapshot(self) -> dict[str, object]:
        """JSON-able state."""
        waiting = sorted(self._waiting, key=lambda item: item[:2])
        return {
            "waiting": [[arrival, event.to_json()] for _, arrival, event in waiting],
            "arrivals": self._arrivals,
            "newest_ns": self._newest_ns,
            "drained_ns": self._drained_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._arrivals = state["arrivals"]
        self._newest_ns, self._drained_ns = state["newest_ns"], state["drained_ns"]
        self._waiting = []
        for arrival, data in state["waiting"]:
            event = SipEvent.from_json(data)
            heapq.heappush(self._waiting, (event.ts_ns, arrival, event))
