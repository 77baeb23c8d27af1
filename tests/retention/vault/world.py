"""Rows, holds and a vault for the vault's tests; and where bytes lie on the disk of an engine."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from aggregator.store.client import MAX_BLOCK_ROWS
from aggregator.store.schema import RECORD_TABLES
from collector.wire.addr import pack
from retention.holds.columns import CLASSES, SPANS
from retention.model import (
    DAY_US,
    NEVER,
    Approval,
    Hold,
    Kind,
    Partition,
    Place,
    Purge,
    ScopeItem,
    State,
    Step,
)
from retention.policy.partitions import span
from retention.vault.engine import EngineVault
from retention.vault.folders import Outside
from retention.vault.port import KEY_BYTES, Approved, LateSlot, Selection
from retention.vault.tables import Names
from safeguard.search import find
from tests.aggregator.support import Store

NOON: Final = 1_766_404_800_000_000
"""2025-12-22T12:00:00Z in microseconds."""
S: Final = 1_000_000
DAY: Final = 20251222
PERSON: Final = Approval("mara", "legal-requester", NOON)

_NEXT = itertools.count(1)


def place(record_class: str) -> Place:
    """The partition of NOON."""
    return Place(record_class, DAY if RECORD_TABLES[record_class].period == "day" else DAY // 100)


def row(record_class: str, **given: Any) -> dict[str, Any]:
    """A row at NOON by stored names, with an id of its own; texts and numbers that are not given
    are empty and 0."""
    table = RECORD_TABLES[record_class]
    number = next(_NEXT)
    values: dict[str, Any] = {}
    for name, kind in table.columns:
        values[name] = "" if kind == "String" else b"\0" * 16 if "Fixed" in kind else 0
    values["record_id"] = hashlib.sha256(f"{record_class}{number}".encode()).digest()[:16]
    each = SPANS[record_class]
    values[each.start] = NOON
    values |= dict.fromkeys(each.ends, NOON + 300 * S)
    values |= {
        "observed_us": NOON + 301 * S,
        "collector": "edge-1",
        "boot": "b",
        "batch": b"B" * 16,
    }
    if "prefix_len" in values:
        values |= {"address": pack(f"10.1.{number // 250 % 250}.{number % 250}"), "prefix_len": 128}
    if record_class == "mapping":
        values |= {"port_first": 1024, "port_last": 2047, "kind": "block"}
    unknown = given.keys() - values.keys()
    assert not unknown, unknown
    return values | given


def held_row(record_class: str, who: str, **given: Any) -> dict[str, Any]:
    """A row that `hold_on(who)` matches: by inside address or else by subscriber."""
    if record_class == "mapping":
        return row(record_class, inside_address=address_of(who), **given)
    return row(record_class, subscriber=who, **given)


def address_of(who: str) -> bytes:
    octets = hashlib.sha256(who.encode()).digest()
    return pack(f"100.64.{octets[0]}.{octets[1]}")


def hold_on(
    who: str,
    name: str = "H-1",
    *,
    start: int = 0,
    end: int = NEVER,
    classes: tuple[str, ...] = CLASSES,
) -> Hold:
    """A hold on a subscriber and on the inside address that `held_row` gives it."""
    number = int.from_bytes(address_of(who)[-4:], "big")
    text = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    return hold(
        ScopeItem(Kind.SUBSCRIBER, who, start, end, classes),
        ScopeItem(Kind.ADDRESS, f"{text}/32", start, end, tuple({*classes} & {"mapping"})),
        name=name,
    )


def hold(*items: ScopeItem, name: str = "H-1") -> Hold:
    return Hold(
        id=name,
        matter="m",
        basis="court-order",
        authority="a",
        reference="r",
        order_sha256="",
        served_us=NOON,
        requested=PERSON,
        scope=items,
        state=State.PRESERVED,
    )


def salt(hold_id: str, at: Place) -> bytes:
    return hmac.digest(b"secret", f"{hold_id}|{at}".encode(), "sha256")


@dataclass
class World:
    """An engine, its data folder and a vault over it."""

    store: Store
    root: Path
    vault: EngineVault = field(init=False)

    def __post_init__(self) -> None:
        self.vault = self.make()

    def make(self, **given: Any) -> EngineVault:
        given.setdefault("outside", Outside(data=(self.root,)))
        return EngineVault([[self.store.keeper]], **given)

    def clear(self) -> None:
        self.store.clear()
        self.store.keeper.outside("DROP DATABASE IF EXISTS tallyhold_vault")
        self.vault.prepare()

    def put(self, record_class: str, rows: Iterable[Mapping[str, Any]], table: str = "") -> None:
        """Insert rows as the writer does, in one block for each MAX_BLOCK_ROWS."""
        listed = list(rows)
        for first in range(0, len(listed), MAX_BLOCK_ROWS):
            part = listed[first : first + MAX_BLOCK_ROWS]
            columns: dict[str, Any] = {}
            for name, kind in RECORD_TABLES[record_class].columns:
                values = [each[name] for each in part]
                columns[name] = np.array(values, dtype=kind.lower()) if "Int" in kind else values
            self.store.keeper.insert(table or record_class, columns)

    def ids(self, table: str) -> list[bytes]:
        found = self.store.keeper.query_columns(f"SELECT record_id FROM {table}")
        return sorted(found["record_id"])

    def kept(self, record_class: str) -> list[bytes]:
        return self.ids(Names().table(record_class, "vault"))

    def select(self, at: Place, *holds: Hold, late: LateSlot | None = None) -> Selection:
        if late is not None:
            return self.vault.select_late(late, at, holds, salt)
        return self.vault.select(at, {"live"}, holds, salt)

    def has(self, selection: Selection, *holds: Hold) -> bool:
        """Whether every row of a selection is in the vault now, by the vault's own word."""
        kept = self.vault.select(selection.place, {"vault"}, holds, salt)
        return keys(selection) <= keys(kept)

    def purge(self, at: Place, *holds: Hold) -> Selection:
        """Preserve and drop a live partition."""
        selection = self.select(at, *holds)
        self.vault.preserve(selection)
        assert self.has(selection, *holds)
        self.vault.drop(approved(at))
        return selection

    def files_with(self, marker: bytes) -> set[str]:
        """Folders of tables, below the data folder, with a file that has these bytes."""
        return {str(path.parent) for path in find([self.root], [marker])[marker]}

    def folder_of(self, table: str) -> Path:
        database, _, name = table.partition(".")
        where = {"database": database, "table": name}
        column = "arrayElement(data_paths, 1)" if self.store.name == "bundled" else "data_path"
        found = self.store.keeper.query_columns(
            f"SELECT {column} AS path FROM system.tables"
            " WHERE database = %(database)s AND name = %(table)s",
            where,
        )
        return Path(found["path"][0])


def keys(selection: Selection) -> set[bytes]:
    """The keys of a selection's rows."""
    ids = selection.ids
    return {ids[n : n + KEY_BYTES] for n in range(0, len(ids), KEY_BYTES)}


def approved(at: Place, store: Any = "live") -> Approved:
    return Approved("P-2026-000001", at, store, 1)


def purge_of(at: Place, store: Any = "live", preserved: int = 0) -> Purge:
    start, end = span(at)
    return Purge(
        id="P-2026-000001",
        partition=Partition(at, start, end, start, end + DAY_US, 1),
        store=store,
        retain_until_us=end,
        policy="0" * 64,
        generation=1,
        step=Step.PENDING,
        operator="ops",
        intent_us=end,
        preserved=preserved,
        dropped_us=end + DAY_US,
    )


def eventually(check: Any, timeout_s: float = 180.0) -> float:
    """Seconds until `check()` held; fails after `timeout_s`."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() < started + timeout_s, f"not within {timeout_s} s"
        time.sleep(0.25)
    return time.monotonic() - started
