"""What SafeGuard has told of households so far, read from the store, against a day's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aggregator.ingest.releases import Columns, Entry, checked, overspent
from aggregator.store.client import Client
from collector.wire.batch import Header
from collector.wire.records import BLOCK_COUNT, SAFEGUARD_LEDGER

_KNOWN: Final = """
SELECT release, mechanism, marginal, start_us, end_us, l0, routers, scale_num, scale_den, outcome
FROM safeguard_ledger
WHERE collector = %(collector)s AND start_us >= %(start)s AND start_us < %(end)s
  AND batch != unhex(%(batch)s)"""


class Budget:
    """Lets a batch's releases through, or raises BatchError before anything of it is stored.

    The store is asked for every batch that has some, so that several aggregators can serve one
    collector in turn; its own rows, which an attempt that broke may have left, do not count.
    """

    def __init__(self, client: Client, budget_micro: int, day_us: int) -> None:
        self._client, self._budget_micro, self._day_us = client, budget_micro, day_us

    def check(self, header: Header, tables: Mapping[str, Columns]) -> None:
        """Raise BatchError where the rows do not tie to their entries, or cost too much."""
        counts, ledger = tables.get(BLOCK_COUNT.name), tables.get(SAFEGUARD_LEDGER.name)
        entries = checked(header.collector, counts, ledger, self._day_us)
        if entries:
            known = self._known(header, entries)
            overspent(entries, known, self._budget_micro, self._day_us)

    def _known(self, header: Header, entries: Sequence[Entry]) -> list[Entry]:
        days = [entry.start_us // self._day_us for entry in entries]
        found = self._client.query_columns(
            _KNOWN,
            {
                "collector": header.collector,
                "batch": header.batch,
                "start": min(days) * self._day_us,
                "end": (max(days) + 1) * self._day_us,
            },
        )
        names = list(found)
        return [
            Entry(**dict(zip(names, row, strict=True))) for row in zip(*found.values(), strict=True)
        ]
