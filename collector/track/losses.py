"""Losses of one tracker on their way to the window: many events become few `Loss` rows."""

from __future__ import annotations

from collector.wire.loss import Loss


class Losses:
    """At most `limit` losses of events of some record classes, until they are taken."""

    def __init__(self, classes: tuple[str, ...], limit: int) -> None:
        self._classes = classes
        self._limit = limit
        self._losses: list[Loss] = []

    def add(self, start_ns: int, end_ns: int, reason: str) -> None:
        """One event lost in an interval, which is made at least 1 ns long."""
        amount = 1
        if len(self._losses) >= self._limit:
            # Joined with the last: the interval grows, the amount stays exact.
            last = self._losses.pop()
            start_ns, end_ns = min(last.start_ns, start_ns), max(last.end_ns, end_ns)
            amount += last.amount
        end_ns = max(end_ns, start_ns + 1)
        self._losses.append(
            Loss(start_ns, end_ns, "track", reason, amount, "events", self._classes)
        )

    def take(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses
