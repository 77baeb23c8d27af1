"""A real engine with what the model of the store has: faults at every call, and rows to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from aggregator.store.errors import Unavailable
from aggregator.store.schema import RECORD_TABLES
from retention.vault.port import Approved
from tests.retention.model_vault import Row
from tests.retention.vault.world import World as Engine

CLASSES: Final = ("visit", "session", "usage")
CALLS: Final = (
    *("prepare", "partitions", "vaulted", "select", "count", "preserve", "drop"),
    *("rebuild", "slots", "select_late", "preserve_late", "drop_slot", "publish_closed"),
    *("residue", "history"),
)
WRITES: Final = ("preserve", "preserve_late", "rebuild")
DESTROYS: Final = ("drop", "rebuild", "drop_slot")


class EngineStore:
    """`port.Vault` over an engine. dead: nothing is asked of it; full: nothing is written."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.fault: Callable[[str, str], None] = lambda method, when: None
        self.destroying: Callable[[str, Approved], None] = lambda what, approved: None
        self.dead = self.full = False
        self._closed = dict[str, int]()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in CALLS:
            raise AttributeError(name)

        def call(*given: Any) -> Any:
            self.fault(name, "before")
            self._ready(full=self.full and name in WRITES)
            if name in DESTROYS:
                self.destroying(name, given[0])
            if name == "publish_closed":
                self._closed |= given[0]
            found = getattr(self._engine.vault, name)(*given)
            self.fault(name, "after")
            self._ready()
            return found

        return call

    def _ready(self, *, full: bool = False) -> None:
        if self.dead:
            raise Unavailable("the engine does not answer")
        if full:
            raise Unavailable("the engine's disk is full", 243)

    def ingest(self, *rows: Row) -> None:
        """Put rows where ingest puts them."""
        for each in rows:
            is_late = each.place.number < self._closed.get(each.record_class, 0)
            name = each.record_class
            self._engine.put(name, [each.values], f"late_{name}" if is_late else name)

    def bring_back(self, rows: Sequence[Row]) -> None:
        """Put rows where they once were."""
        for each in rows:
            self._engine.put(each.record_class, [each.values])

    def where(self) -> dict[bytes, str]:
        """Where each row is, by its key; of one that is in several tables the last of them."""
        found = dict[bytes, str]()
        for name in CLASSES:
            for kept in ("live", "vault", "late"):
                found |= dict.fromkeys(self._keys(name, kept), kept)
        return found

    def _keys(self, name: str, kept: str) -> list[bytes]:
        table = {"live": name, "late": f"late_{name}", "vault": f"tallyhold_vault.vault_{name}"}
        names = RECORD_TABLES[name].names
        sql = f"SELECT {', '.join(names)} FROM {table[kept]}"
        columns = self._engine.store.keeper.query_columns(sql)
        rows = zip(*(columns[each] for each in names), strict=True)
        return [Row(name, dict(zip(names, each, strict=True)), 0).key for each in rows]
