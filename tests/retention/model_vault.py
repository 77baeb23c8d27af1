"""An exact model of the store in memory: the Vault protocol with rows in dictionaries.

It decides by the real matcher, digests rows with code of its own, and destroys what it is told to
destroy and nothing else. `fault` is called before and after each method, so that a test can let the
engine die, or the process, at any of them; `destroying` before each destructive statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from aggregator.store.errors import Unavailable
from aggregator.store.schema import RECORD_TABLES
from retention.audit.merkle import EMPTY_ROOT, Tree, leaf_hash
from retention.holds.matcher import match, spans
from retention.model import HeldRoot, Hold, Partition, Place, Purge, ScopeItem
from retention.policy.partitions import place_of, span
from retention.vault.port import (
    SLOT_S,
    Approved,
    Columns,
    LateSlot,
    PreserveError,
    Residue,
    Salt,
    Selection,
    Source,
)

OPEN_SLOT_S = 900


class Crash(BaseException):
    """The process is gone: nothing catches this, and nothing of memory is looked at after it."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table, every stored column in it; `clock_us` decides on its partition."""

    record_class: str
    values: Mapping[str, Any]
    clock_us: int

    @cached_property
    def place(self) -> Place:
        return place_of(self.record_class, self.clock_us)

    @property
    def identity(self) -> tuple[str, bytes]:
        return self.values["collector"], self.values["record_id"]

    @cached_property
    def canonical(self) -> bytes:
        parts = list[bytes]()
        for name, kind in RECORD_TABLES[self.record_class].columns:
            value = self.values[name]
            if kind == "String":
                data = value.encode()
            elif kind.startswith("FixedString"):
                data = value
            else:
                data = (value % 2**64).to_bytes(8, "little")
            parts.append(len(data).to_bytes(4, "big") + data)
        return b"".join(parts)

    @cached_property
    def key(self) -> bytes:
        record_id = self.values["record_id"]
        assert isinstance(record_id, bytes)
        return record_id + hashlib.sha256(self.canonical).digest()[:8]

    @cached_property
    def covers(self) -> tuple[int, int]:
        columns = {name: np.array([value]) for name, value in self.values.items()}
        start, end = spans(self.record_class, columns)
        return int(start[0]), int(end[0])


def row(record_class: str, number: int, at_us: int, **values: Any) -> Row:
    """A row whose columns are empty but for those given; its clock starts at `at_us`."""
    table = RECORD_TABLES[record_class]
    empty: dict[str, Any] = {}
    for name, kind in table.columns:
        empty[name] = "" if kind == "String" else 0
        if kind.startswith("FixedString"):
            empty[name] = bytes(16)
    record_id = hashlib.sha256(f"{record_class}{number}".encode()).digest()[:16]
    empty |= {"record_id": record_id, "collector": "c1", table.time: at_us, "observed_us": 1}
    if "end_us" in empty:
        empty["end_us"] = at_us + 1
    if "prefix_len" in empty:
        empty["prefix_len"] = 128
    return Row(record_class, empty | values, at_us)


def newest(rows: Iterable[Row]) -> list[Row]:
    """What FINAL gives: of each identity of a replacing class the newest version."""
    found: dict[Any, Row] = {}
    for each in rows:
        replacing = RECORD_TABLES[each.record_class].replacing
        key: Any = each.identity if replacing else each.key
        old = found.get(key)
        if old is None or _version(each) > _version(old):
            found[key] = each
    return list(found.values())


def _version(each: Row) -> tuple[int, bytes]:
    return each.values["observed_us"], each.key


def matched(record_class: str, rows: Sequence[Row], holds: Sequence[Hold]) -> dict[str, set[bytes]]:
    """Keys of the rows that each hold matches."""
    if not rows or not holds:
        return {hold.id: set() for hold in holds}
    columns = {
        name: [each.values[name] for each in rows]
        for name, _ in RECORD_TABLES[record_class].columns
    }
    masks = match(record_class, columns, {hold.id: hold.scope for hold in holds})
    return {
        name: {each.key for each, chosen in zip(rows, mask, strict=True) if chosen}
        for name, mask in masks.items()
    }


def root(digests: Iterable[bytes]) -> str:
    """RFC 6962's root over sorted digests, hex."""
    tree = Tree()
    for digest in sorted(digests):
        tree.append(leaf_hash(digest))
    return (tree.root() if tree.size else EMPTY_ROOT).hex()


@dataclass
class ModelVault:
    """The store. `now_s` is the engine's own clock; it outlives the process that uses it."""

    now_s: Callable[[], int]
    live: dict[Place, list[Row]] = field(default_factory=dict)
    vault: dict[Place, list[Row]] = field(default_factory=dict)
    late: dict[tuple[str, int], list[Row]] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    fault: Callable[[str, str], None] = lambda method, when: None
    destroying: Callable[[str, Approved], None] = lambda what, approved: None
    dead: bool = False
    full: bool = False
    lingering: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    # What ingest does.

    def ingest(self, *rows: Row) -> None:
        """Put rows where ingest puts them: into their partition, or with the late ones."""
        for each in rows:
            if each.place.number < self.closed.get(each.record_class, 0):
                slot = (each.record_class, self.now_s() // SLOT_S)
                self.late.setdefault(slot, []).append(each)
            else:
                self.live.setdefault(each.place, []).append(each)

    def where(self) -> dict[bytes, str]:
        """Where each row is, by its key; of one that is in several stores the last of them."""
        stores: dict[str, Mapping[Any, list[Row]]] = {
            "live": self.live, "vault": self.vault, "late": self.late
        }  # fmt: skip
        return {e.key: name for name, s in stores.items() for rows in s.values() for e in rows}

    def bring_back(self, rows: Sequence[Row]) -> None:
        """What a restored backup of a live partition does."""
        for each in rows:
            self.live.setdefault(each.place, []).append(each)

    def everything(self) -> Iterator[Row]:
        """All rows of all stores."""
        for store in (self.live, self.vault, self.late):
            for rows in store.values():
                yield from rows

    # The protocol.

    def prepare(self) -> bool:
        with self._call("prepare"):
            return True

    def partitions(self) -> list[Partition]:
        with self._call("partitions"):
            return self._listed(self.live)

    def vaulted(self) -> list[Partition]:
        with self._call("vaulted"):
            return self._listed(self.vault)

    def select(
        self, place: Place, sources: Collection[Source], holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        with self._call("select"):
            rows = {e.key: e for source in sources for e in self._rows(place, source)}
            found = self._selection(place, list(rows.values()), holds, salt)
            live = {e.key for e in self._rows(place, "live")} if "live" in sources else set()
            return replace(found, is_live="live" in sources and _keys(found) <= live)

    def count(self, place: Place, store: Source) -> int:
        with self._call("count"):
            return len(self._rows(place, store))

    def preserve(self, selection: Selection) -> None:
        with self._call("preserve", writes=True):
            live = {each.key: each for each in self.live.get(selection.place, [])}
            keys = _keys(selection)
            if not keys <= live.keys():
                raise PreserveError("fingerprint", "what was selected is not there any more")
            had = [e for e in self.vault.get(selection.place, []) if e.key not in live]
            self._put(selection.place, had + [live[key] for key in sorted(keys)])

    def drop(self, approved: Approved) -> None:
        with self._call("drop"):
            assert approved.store == "live"
            self.destroying("drop", approved)
            self.live.pop(approved.place, None)

    def rebuild(self, approved: Approved, selection: Selection) -> None:
        with self._call("rebuild", writes=selection.rows > 0):
            assert approved.store == "vault"
            assert approved.place == selection.place
            self.destroying("rebuild", approved)
            keys, had = _keys(selection), self.vault.get(approved.place, [])
            if not keys <= {each.key for each in had}:
                raise PreserveError("fingerprint", "what was selected is not there any more")
            self._put(approved.place, [each for each in had if each.key in keys])

    def slots(self) -> list[LateSlot]:
        with self._call("slots"):
            return [
                LateSlot(name, number, self._by_place(rows))
                for (name, number), rows in sorted(self.late.items())
                if self._is_shut(number)
            ]

    def select_late(
        self, slot: LateSlot, place: Place, holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        with self._call("select_late"):
            there = self.live.get(place, []) if slot.is_returned else self.late.get(slot.place, [])
            rows = newest(e for e in there if e.place == place)
            stores = (self.vault,) if slot.is_returned else (self.live, self.vault)
            kept = {e.key for store in stores for e in store.get(place, [])}
            return self._selection(place, [e for e in rows if e.key not in kept], holds, salt)

    def preserve_late(self, slot: LateSlot, selection: Selection) -> None:
        with self._call("preserve_late", writes=True):
            store: Mapping[Any, list[Row]] = self.live if slot.is_returned else self.late
            late = {each.key: each for each in store.get(slot.place, [])}
            had = self.vault.get(selection.place, [])
            there = {each.key for each in had}
            keys = _keys(selection)
            if not keys <= late.keys() | there:
                raise PreserveError("fingerprint", "what was selected is not there any more")
            self._put(selection.place, had + [late[key] for key in sorted(keys - there)])

    def drop_slot(self, approved: Approved, slot: LateSlot) -> None:
        with self._call("drop_slot"):
            assert approved.store == "late"
            assert approved.place == slot.place
            if slot.is_returned:
                self.destroying("drop_slot", approved)
                self.live.pop(slot.place, None)
                return
            if not self._is_shut(slot.number):
                raise PreserveError("open", "the slot may still take rows")
            self.destroying("drop_slot", approved)
            self.late.pop((slot.record_class, slot.number), None)

    def publish_closed(self, first_open: Mapping[str, int]) -> None:
        with self._call("publish_closed"):
            self.closed |= first_open

    def residue(self, purge: Purge) -> Residue:
        with self._call("residue"):
            evidence = {"r1": {"parts": 0, "detached": 0}}
            backups = ({"id": "b1", "created": "2026-01-01", "expires": "2026-01-29"},)
            return Residue(self.lingering, evidence, backups)

    def history(self, items: Sequence[ScopeItem]) -> Mapping[str, Columns]:
        with self._call("history"):
            return {}

    # How it does it.

    @contextmanager
    def _call(self, method: str, *, writes: bool = False) -> Iterator[None]:
        self.calls.append(method)
        self.fault(method, "before")
        if self.dead:
            raise Unavailable("the engine does not answer")
        if self.full and writes:
            raise Unavailable("the engine's disk is full", 243)
        yield
        self.fault(method, "after")
        if self.dead:  # it died before it could answer
            raise Unavailable("the engine does not answer")

    def _rows(self, place: Place, source: Source) -> list[Row]:
        """What is read of a place: of live rows the newest versions, of the vault's all."""
        rows = self._store(source).get(place, [])
        return newest(rows) if source == "live" else rows

    def _store(self, source: Source) -> dict[Place, list[Row]]:
        return self.live if source == "live" else self.vault

    def _put(self, place: Place, rows: list[Row]) -> None:
        if rows:
            self.vault[place] = rows
        else:
            self.vault.pop(place, None)

    def _is_shut(self, number: int) -> bool:
        return (number + 1) * SLOT_S + OPEN_SLOT_S <= self.now_s()

    def _listed(self, store: Mapping[Place, list[Row]]) -> list[Partition]:
        return [partition(place, rows) for place, rows in sorted(store.items()) if rows]

    def _by_place(self, rows: Sequence[Row]) -> tuple[Partition, ...]:
        places = sorted({each.place for each in rows})
        return tuple(partition(at, [e for e in rows if e.place == at]) for at in places)

    def _selection(
        self, place: Place, rows: Sequence[Row], holds: Sequence[Hold], salt: Salt
    ) -> Selection:
        found = matched(place.record_class, rows, holds)
        chosen = set[bytes]().union(*found.values())
        held = []
        for name in sorted(found):
            digests = _digests((e for e in rows if e.key in found[name]), salt(name, place))
            held.append(HeldRoot(name, len(found[name]), root(digests)))
        kept = [each for each in rows if each.key in chosen]
        whole = hashlib.sha256(b"".join(sorted(_digests(kept, salt("", place))))).hexdigest()
        return Selection(place, len(kept), tuple(held), whole, b"".join(sorted(chosen)))


def partition(place: Place, rows: Sequence[Row]) -> Partition:
    """A place as the store lists it."""
    covered = [each.covers for each in rows]
    return Partition(
        place,
        *span(place),
        min(s for s, _ in covered),
        max(e for _, e in covered),
        len(newest(rows)),
    )


def _digests(rows: Iterable[Row], salt: bytes) -> list[bytes]:
    return [hashlib.sha256(salt + each.canonical).digest() for each in rows]


def _keys(selection: Selection) -> set[bytes]:
    ids = selection.ids
    found = {ids[at : at + 24] for at in range(0, len(ids), 24)}
    assert len(found) == selection.rows
    return found
