"""A closed window that is not in the spool yet: rows in memory, tried again with growing waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collector.window import Piece
from collector.wire.columns import record_batch
from collector.wire.gaps import gap_columns, losses_of
from collector.wire.loss import Loss
from collector.wire.records import GAP

_FIRST_WAIT_NS: Final = 500_000_000
_LONGEST_WAIT_NS: Final = 30_000_000_000
"""Each attempt writes the whole state: a full disk is not to be kept busy by that."""


@dataclass(slots=True)
class Held:
    """Pieces of [start_ns, end_ns). `due_ns`, by the monotonic clock: when to try next."""

    start_ns: int
    end_ns: int
    pieces: list[Piece]
    attempts: int = 0
    due_ns: int = 0

    @property
    def size(self) -> int:
        """Bytes of all columns; as a file they take about as much."""
        return sum(batch.nbytes for piece in self.pieces for batch in piece.columns.values())

    def postpone(self, monotonic_ns: int) -> None:
        """An attempt failed: wait twice as long as the time before."""
        wait_ns = min(_FIRST_WAIT_NS << min(self.attempts, 10), _LONGEST_WAIT_NS)
        self.attempts += 1
        self.due_ns = monotonic_ns + wait_ns

    def give_up(self, now_ns: int) -> None:
        """The rows can never be spooled: what remains is the losses they had, and their own."""
        losses: list[Loss] = []
        rows: dict[str, int] = {}
        for piece in self.pieces:
            for name, batch in piece.columns.items():
                if name == GAP.name:
                    losses += losses_of(batch)
                else:
                    rows[name] = rows.get(name, 0) + batch.num_rows
        span = (self.start_ns, self.end_ns)
        total = sum(rows.values())
        losses.append(Loss(*span, "spool", "window-refused", total, "rows", tuple(rows)))
        self.pieces = [Piece({GAP.name: record_batch(GAP.name, gap_columns(losses, now_ns))})]
        self.due_ns = 0
