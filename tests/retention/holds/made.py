"""Holds, people and history rows to test with."""

from __future__ import annotations

import hashlib
from typing import Any

from collector.wire.addr import network, pack
from retention.holds import state
from retention.holds.columns import HISTORY_COLUMNS
from retention.holds.rules import Actor
from retention.holds.scope import parse
from retention.holds.state import Draft
from retention.model import DAY_US, Hold, ScopeItem
from tests.retention.audit.story import START

ANN = Actor("ann", "legal-requester")
BOB = Actor("bob", "legal-approver")
CARL = Actor("carl", "legal-approver")
DORA = Actor("dora", "dpo")
RITA = Actor("rita", "legal-requester")

NOW = START + 100 * DAY_US
MINUTE = 60_000_000


def draft(*items: ScopeItem, **changes: Any) -> Draft:
    usual: dict[str, Any] = {
        "matter": "matter 1",
        "basis": "court-order",
        "authority": "a court",
        "reference": "ref 1",
        "served_us": NOW - DAY_US,
        "scope": items or (parse("subscriber", "sub-1", START, START + 10 * DAY_US),),
        "expires_us": NOW + 90 * DAY_US,
    }
    return Draft(**(usual | changes))


def submitted(*items: ScopeItem, **changes: Any) -> Hold:
    return state.submit(draft(*items, **changes), "H-2026-0001", ANN, NOW)


def in_force(*items: ScopeItem, **changes: Any) -> Hold:
    """Approved by Dora, who may approve everything, and settled."""
    return state.settle(state.approve(submitted(*items, **changes), DORA, NOW + 1))


def sha(text: str) -> str:
    """Stands in for both kinds of commitment."""
    return hashlib.sha256(text.encode()).hexdigest()


class Rows:
    """History rows, added in any order; `columns` gives them as the store does."""

    def __init__(self) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in HISTORY_COLUMNS}

    def add(self, record_class: str, **values: Any) -> dict[str, Any]:
        """A row; texts not given are empty. Its id comes from what does not change with time."""
        row: dict[str, Any] = dict.fromkeys(HISTORY_COLUMNS[record_class], "")
        row |= {"collector": "c1", "observed_us": 1, "session_id": b"", "prefix_len": 128} | values
        key = [each for name, each in sorted(row.items()) if not name.endswith(("_to_us", "d_us"))]
        row.setdefault("record_id", b"")
        row["record_id"] = values.get("record_id") or hashlib.md5(repr(key).encode()).digest()
        self._rows[record_class].append(row)
        return row

    def bind(
        self, who: str, address: str, start: int, end: int, session: str = "", **values: Any
    ) -> dict[str, Any]:
        """A binding of an address or prefix; an end of 0 is open."""
        base, _, length = address.partition("/")
        bits = int(length or (32 if "." in base else 128)) + (96 if "." in base else 0)
        return self.add(
            "binding",
            subscriber=who,
            address=network(pack(base), bits),
            prefix_len=bits,
            valid_from_us=start,
            valid_to_us=end,
            session_id=hashlib.md5((session or who).encode()).digest(),
            **values,
        )

    def map(self, inside: str, public: str, ports: tuple[int, int], start: int, end: int) -> None:
        """A mapping of a port block."""
        self.add(
            "mapping",
            inside_address=pack(inside),
            public_address=pack(public),
            port_first=ports[0],
            port_last=ports[1],
            start_us=start,
            end_us=end,
        )

    def session(
        self, who: str, start: int, end: int, session: str = "", **values: Any
    ) -> dict[str, Any]:
        """A slice of a session."""
        return self.add(
            "session",
            subscriber=who,
            slice_start_us=start,
            slice_end_us=end,
            session_id=hashlib.md5((session or who).encode()).digest(),
            **values,
        )

    def columns(self) -> dict[str, dict[str, list[Any]]]:
        """All rows, by class, as columns."""
        return {
            record_class: {
                column: [row.get(column) for row in rows]
                for column in HISTORY_COLUMNS[record_class]
            }
            for record_class, rows in self._rows.items()
        }
