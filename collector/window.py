"""Window: what the trackers give at the close of an interval into batches ready to commit.

Windows are aligned to their length, follow one another without holes and never go backwards,
whatever the clock does. Pure: the service brings the clocks and takes the pieces to the spool.

    window.open(now)                         once, after `restore`
    loss = window.clock(now, monotonic)      every second or so
    if window.due(now):
        start, end = window.bounds(now)
        pieces = window.close(start, end, now, [t.take(start, end, now) for t in trackers], losses)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from collector.wire.batch import MAX_BATCH_BYTES, MAX_ROWS, BatchError
from collector.wire.columns import (
    Columns,
    bad_rows,
    concat,
    record_batch,
    schema,
    string_lengths,
)
from collector.wire.gaps import gap_columns
from collector.wire.loss import Loss
from collector.wire.records import BLOCK_COUNT, CLASSES, GAP, SAFEGUARD_LEDGER

SECOND_NS: Final = 1_000_000_000
MIN_LENGTH_NS: Final = SECOND_NS
MAX_LENGTH_NS: Final = 24 * 3600 * SECOND_NS
"""A day: rows are sliced by day, so a longer window could not be written."""
STEP_NS: Final = SECOND_NS
"""A clock that moves by more than this against the monotonic one has been set, not slewed."""
SLEW_PPM: Final = 1_000
"""Twice what the kernel slews at most (500 ppm, adjtimex(2)); slower drift is no step."""
RESERVE_BYTES: Final = 1024 * 1024
"""Room left in each batch for its header, Arrow's own metadata and the spool's gap rows."""
_STRING_OVERHEAD_BYTES: Final = 5
_RELEASE: Final = (BLOCK_COUNT.name, SAFEGUARD_LEDGER.name)
"""Taken by the aggregator as a whole or not at all, so they go into one batch: all that can wait
for one (`collector.track.safeguard.tracker.MAX_PENDING`) is a fifth of its size."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One batch to be: rows by class, in the order of CLASSES, within the limits of a batch."""

    columns: dict[str, pa.RecordBatch]

    @property
    def rows(self) -> int:
        """Rows of all classes together."""
        return sum(batch.num_rows for batch in self.columns.values())


class Window:
    """The sequence of windows of one collector.

    `length_ns` divides the day so that windows never span midnight UTC. Rows that do not fit
    their columns are left out, counted in `counts` and told as a loss.
    """

    def __init__(
        self,
        length_ns: int,
        collector: str,
        *,
        max_rows: int = MAX_ROWS - 10_000,
        max_bytes: int = MAX_BATCH_BYTES - RESERVE_BYTES,
    ) -> None:
        if not MIN_LENGTH_NS <= length_ns <= MAX_LENGTH_NS or MAX_LENGTH_NS % length_ns:
            raise ValueError("the window length must be 1 s to 24 h and divide the day")
        if max_rows < 1 or max_bytes < 1:
            raise ValueError("a batch must hold at least one row")
        self.length_ns = length_ns
        self.collector = collector
        self.counts: dict[str, int] = {"seen": 0, "recorded": 0, "lost": 0, "clock-steps": 0}
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._last_end_ns = 0
        self._start_ns = 0
        self._end_ns = 0
        self._is_open = False
        self._offset_ns: int | None = None
        self._monotonic_ns = 0
        self._opened_monotonic_ns: int | None = None

    @property
    def start_ns(self) -> int:
        """Start of the open window."""
        return self._start_ns

    @property
    def end_ns(self) -> int:
        """When the open window is planned to end."""
        return self._end_ns

    def snapshot(self) -> dict[str, object]:
        """What a restart must know: where the last window ended."""
        return {"last_end_ns": self._last_end_ns}

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Go on where `snapshot` was taken, and open the first window."""
        last = snapshot["last_end_ns"]
        if type(last) is not int or last < 0:
            raise ValueError("the snapshot of the window has no last_end_ns")
        self._last_end_ns = last
        self.open(now_ns)

    def open(self, now_ns: int) -> None:
        """Begin the window that holds `now_ns`, or the one after the last where that is later."""
        self._start_ns = max(now_ns - now_ns % self.length_ns, self._last_end_ns)
        self._end_ns = self._boundary_after(max(now_ns, self._start_ns))
        self._is_open = True
        self._opened_monotonic_ns = None

    def clock(self, now_ns: int, monotonic_ns: int) -> Loss | None:
        """Compare the clocks; a loss where the time of day was set by more than STEP_NS.

        After a step forward by more than a window the open window moves with it, because the
        interval it covers lies just before the new time: a router without a battery starts in
        1970 and its first five minutes are not half a century long.
        """
        offset_ns = now_ns - monotonic_ns
        elapsed_ns = max(monotonic_ns - self._monotonic_ns, 0)
        self._monotonic_ns = monotonic_ns
        if self._opened_monotonic_ns is None:
            self._opened_monotonic_ns = monotonic_ns
        if self._offset_ns is None:
            self._offset_ns = offset_ns
            return None
        step_ns = offset_ns - self._offset_ns
        if abs(step_ns) <= STEP_NS:
            slew_ns = elapsed_ns * SLEW_PPM // 1_000_000
            self._offset_ns += max(-slew_ns, min(step_ns, slew_ns))
            return None
        self._offset_ns = offset_ns
        self.counts["clock-steps"] += 1
        if step_ns > self.length_ns and self._is_open:
            self._start_ns = max(self._start_ns + step_ns, self._last_end_ns)
            self._end_ns = self._boundary_after(self._start_ns)
        expected_ns = now_ns - step_ns
        return Loss(
            start_ns=max(min(now_ns, expected_ns), 0),
            end_ns=max(now_ns, expected_ns),
            stage="clock",
            reason="clock-step",
            amount=abs(step_ns),
            unit="ns",
            classes=tuple(CLASSES),
        )

    def due(self, now_ns: int) -> bool:
        """Whether the open window should be closed.

        After the clock was set back the window waits for it, but not longer than twice its
        length by the monotonic clock: data must not wait a year for a clock set wrong by one.
        """
        self._must_be_open()
        return now_ns >= self._end_ns or self._is_overdue()

    def bounds(self, now_ns: int) -> tuple[int, int]:
        """Start and end the window would have if it were closed now.

        In time that is the aligned boundary last passed, so a window that was closed late (a
        suspended machine) covers all the time it has. Closed early it ends now, a nanosecond
        after its start at the soonest.
        """
        self._must_be_open()
        if now_ns >= self._end_ns:
            return self._start_ns, now_ns - now_ns % self.length_ns
        if self._is_overdue():
            return self._start_ns, self._end_ns
        return self._start_ns, max(now_ns, self._start_ns + 1)

    def close(
        self,
        start_ns: int,
        end_ns: int,
        now_ns: int,
        taken: Iterable[Mapping[str, Columns]],
        losses: Sequence[Loss],
    ) -> list[Piece]:
        """Close the window and give its rows in pieces, at least one; opens the next window.

        `start_ns` and `end_ns` are those of `bounds`, `taken` what each tracker gave for them.
        Raises BatchError where the columns of a class are missing, unknown or uneven.
        """
        self._must_be_open()
        if start_ns != self._start_ns or end_ns <= start_ns:
            raise ValueError("a window is closed with the bounds it has")
        all_losses = list(losses)
        merged: dict[str, pa.RecordBatch] = {}
        for name, parts in _by_class(taken).items():
            batches = []
            for part in parts:
                batch, lost = _checked(name, part)
                batches.append(batch)
                self.counts["seen"] += batch.num_rows + lost
                self.counts["recorded"] += batch.num_rows
                self.counts["lost"] += lost
                if lost:
                    all_losses.append(
                        Loss(start_ns, end_ns, "track", "bad-value", lost, "rows", (name,))
                    )
            merged[name] = concat(batches)
        if all_losses:
            gaps = record_batch(GAP.name, gap_columns(all_losses, now_ns))
            known = merged.get(GAP.name)
            merged[GAP.name] = gaps if known is None else concat([known, gaps])
        self._last_end_ns = self._start_ns = end_ns
        self._end_ns = self._boundary_after(end_ns)
        self._opened_monotonic_ns = None  # until the clocks are looked at again
        return list(cut(merged, self._max_rows, self._max_bytes))

    def _boundary_after(self, time_ns: int) -> int:
        return time_ns - time_ns % self.length_ns + self.length_ns

    def _is_overdue(self) -> bool:
        opened = self._opened_monotonic_ns
        return opened is not None and self._monotonic_ns - opened >= 2 * self.length_ns

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise ValueError("the window has not been opened")


def cut(merged: Mapping[str, pa.RecordBatch], max_rows: int, max_bytes: int) -> Iterable[Piece]:
    """Rows by class into pieces of at most `max_rows` and about `max_bytes`; an empty one if none.

    Rows keep their order, classes that of CLASSES. A row larger than `max_bytes` has a piece of
    its own, and the classes of _RELEASE are together in one. Nothing is copied.
    """
    piece: dict[str, pa.RecordBatch] = {}
    rows_left, bytes_left = max_rows, max_bytes
    release_rows, release_bytes = _release_size(merged)
    for name in CLASSES:
        batch = merged.get(name)
        if batch is None or not batch.num_rows:
            continue
        ends = _cumulative_bytes(name, batch)
        is_apart = piece and name in _RELEASE and not piece.keys() & set(_RELEASE)
        if is_apart and (release_rows > rows_left or release_bytes > bytes_left):
            yield Piece(piece)
            piece, rows_left, bytes_left = {}, max_rows, max_bytes
        done = 0
        while done < batch.num_rows:
            base = int(ends[done - 1]) if done else 0
            fit = int(np.searchsorted(ends, base + bytes_left, side="right")) - done
            count = min(fit, rows_left, batch.num_rows - done)
            if count < 1 and piece:
                yield Piece(piece)
                piece, rows_left, bytes_left = {}, max_rows, max_bytes
                continue
            count = max(count, 1)
            piece[name] = batch.slice(done, count)
            done += count
            rows_left -= count
            bytes_left -= int(ends[done - 1]) - base
    yield Piece(piece)


def _release_size(merged: Mapping[str, pa.RecordBatch]) -> tuple[int, int]:
    """Rows and bytes of the classes that stay together."""
    found = [(name, merged[name]) for name in _RELEASE if name in merged]
    rows = sum(batch.num_rows for _, batch in found)
    size = sum(int(_cumulative_bytes(name, each)[-1]) for name, each in found if each.num_rows)
    return rows, size


def _by_class(taken: Iterable[Mapping[str, Columns]]) -> dict[str, list[Columns]]:
    parts: dict[str, list[Columns]] = {}
    for columns_by_class in taken:
        for name, columns in columns_by_class.items():
            if name not in CLASSES:
                raise BatchError("columns", "a tracker gave an unknown record class")
            parts.setdefault(name, []).append(columns)
    return parts


def _checked(name: str, columns: Columns) -> tuple[pa.RecordBatch, int]:
    """The columns as Arrow without the rows that do not fit, and how many those were."""
    try:
        return record_batch(name, columns), 0
    except BatchError as error:
        if error.reason != "value":
            raise
    bad = bad_rows(name, columns)
    drop = set(bad)
    length = len(next(iter(columns.values())))
    keep = [i for i in range(length) if i not in drop]
    good = {
        # Items of a numpy array of S16 lose their trailing zero bytes: index it as a whole.
        column: values[keep] if isinstance(values, np.ndarray) else [values[i] for i in keep]
        for column, values in columns.items()
    }
    return record_batch(name, good), len(bad)


def _cumulative_bytes(name: str, batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Bytes of the rows up to and including each one, as Arrow lays them out."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for field, array in zip(schema(name), batch.columns, strict=True):
        if pa.types.is_string(field.type):
            sizes += string_lengths(array) + _STRING_OVERHEAD_BYTES
        else:
            sizes += field.type.bit_width // 8
    return np.cumsum(sizes)
