"""One hold's rows in the vault and among late ones, as look-ups read them beside the live tables.

What lies in the vault is past its period and kept for orders alone; a late row was past its period
when it came, and a sweep takes it into the vault or destroys it within minutes. So a look-up sees
none of it by itself; where it is made for an order that asks for evidence, it sees what that order
protects, as the one matcher decides, and nothing that another hold keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from retention.holds.matcher import CANDIDATE_COLUMNS, match
from retention.model import Hold
from retention.vault.tables import Names

Row = dict[str, Any]

ORDERS: Final = ("court-order", "production-order")
"""Bases of a hold under which its rows are looked at; the others ask to keep and no more."""


def is_order(hold: Hold) -> bool:
    """Whether rows may be looked at for it: an order, in force, that a second person approved."""
    return hold.basis in ORDERS and hold.protects and hold.approved is not None


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Where the rows of one hold are; `aggregator.queries.lookup_store.Kept` says what for."""

    hold: Hold = field(repr=False)
    names: Names

    def tables(self, record_class: str) -> tuple[str, ...]:
        """Late rows first: a sweep copies to the vault and then drops, so that a row which moves
        meanwhile is seen twice rather than never."""
        return tuple(self.names.table(record_class, kept) for kept in ("late", "vault"))

    def more(self, record_class: str) -> tuple[str, ...]:
        """Columns by which rows are matched, and versions told apart."""
        return (*CANDIDATE_COLUMNS[record_class], "observed_us")

    def told(self, record_class: str, rows: Sequence[Row]) -> list[Row]:
        """The newest version of each row that the hold protects; every version is kept."""
        columns = {name: [row[name] for row in rows] for name in CANDIDATE_COLUMNS[record_class]}
        mask = match(record_class, columns, {self.hold.id: self.hold.scope})[self.hold.id]
        newest: dict[bytes, Row] = {}
        for row, is_held in zip(rows, mask.tolist(), strict=True):
            known = newest.get(row["record_id"])
            if is_held and (known is None or row["observed_us"] > known["observed_us"]):
                newest[row["record_id"]] = row
        return list(newest.values())
