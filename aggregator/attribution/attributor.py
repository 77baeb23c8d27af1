"""The binding index behind a lock, with columns in and out: what ingest attributes rows by."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aggregator.attribution.attribute import DEFAULT_TOLERANCE_US, attribute
from aggregator.attribution.bindings import Binding, BindingIndex
from aggregator.attribution.feed import closed_end


class SharedAttributor:
    """Safe to use from several threads. `tolerance_us`: see `attribute`."""

    def __init__(self, tolerance_us: int = DEFAULT_TOLERANCE_US) -> None:
        self._tolerance_us = tolerance_us
        self._index = BindingIndex()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._index)

    def load(self, bindings: Iterable[tuple[str, Binding]]) -> None:
        """Take (collector, binding) pairs, as the store's feed gives them at start."""
        for collector, binding in bindings:
            with self._lock:
                self._index.apply(collector, [binding])

    def forget_before(self, horizon_us: int) -> int:
        """Drop bindings that ended before `horizon_us`; gives how many went."""
        with self._lock:
            return self._index.forget_before(horizon_us)

    def apply(self, collector: str, bindings: Mapping[str, Sequence[Any]]) -> None:
        """Take binding columns of a batch; `valid_to_us` is 0 while open.

        An open slice holds until its midnight, when the collector writes the next: one that the
        collector forgot to close claims nothing on the days after.
        """
        rows = zip(
            bindings["record_id"],
            bindings["observed_us"],
            bindings["subscriber"],
            bindings["address"],
            bindings["prefix_len"],
            bindings["valid_from_us"],
            map(closed_end, bindings["valid_from_us"], bindings["valid_to_us"]),
            strict=True,
        )
        taken = [Binding(*row) for row in rows]
        with self._lock:
            self._index.apply(collector, taken)

    def attribute(
        self,
        collector: str,
        address: Sequence[bytes],
        prefix_len: Sequence[int],
        start_us: Sequence[int],
        end_us: Sequence[int],
    ) -> tuple[list[str], list[str]]:
        """Subscribers and reasons, one for each row."""
        with self._lock:
            return attribute(
                self._index,
                collector,
                address,
                prefix_len,
                start_us,
                end_us,
                tolerance_us=self._tolerance_us,
            )
