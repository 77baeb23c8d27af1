"""Selections in, rows in the vault and partitions gone out. The one place that destroys records.

A vault partition never changes row by row. Its new content is put together in the staging table,
its fingerprint compared with that of what was selected, and then it takes the old one's place in a
single step, on one replica, which the others follow. So a purge that is cut short anywhere leaves
the vault as it was or as it should be, and can be done again.

Nothing here decides. What is dropped was approved by `destruction.plan.approve`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from aggregator.store.client import Client, Unavailable
from retention.model import Place
from retention.vault.fingerprint import Fingerprint, fingerprint
from retention.vault.port import Approved, PreserveError, Selection, Target
from retention.vault.scratch import chosen_table, scope_table
from retention.vault.shards import Shard
from retention.vault.tables import (
    FINAL_BY_PARTITION,
    Kept,
    Names,
    in_place,
    names_of,
    row_hash,
    row_key,
)

QUIET_S: Final = 120.0
"""How long to wait for a statement that an earlier run left behind; then the purge fails."""
_POLL_S: Final = 0.1
_ROWS: Final = (
    "SELECT sum(rows) AS total FROM system.parts WHERE database = %(database)s"
    " AND table = %(table)s AND partition = %(partition)s AND active"
)
BY_SUBSCRIBER: Final = frozenset({"usage", "session", "visit", "call"})
"""Classes whose tables are sorted by the subscriber first."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where selected rows are; `where` stands beside the place's condition.

    is_returned: live rows of a place that was destroyed before, and has its held ones in the vault.
    """

    kept: Kept
    where: str = "1"
    is_returned: bool = False


class _Work:
    """One shard's part of a copy: its server, and on it tables of what was selected."""

    def __init__(
        self, number: int, shard: Shard, selection: Selection, stack: contextlib.ExitStack
    ) -> None:
        self.shard, self.client = shard, shard.first
        self.blocks = None if selection.blocks is None else selection.blocks[number]
        self._selection, self._stack = selection, stack

    @cached_property
    def chosen(self) -> str:
        """The table of the selection's keys."""
        return self._stack.enter_context(chosen_table(self.client, self._selection.ids))

    @cached_property
    def sorted_by(self) -> str:
        """A condition on what tables are sorted by, so that few blocks are read; or "1"."""
        names = self._selection.subscribers
        if not names or self._selection.place.record_class not in BY_SUBSCRIBER:
            return "1"
        values = [each.encode() for each in names]
        scope = self._stack.enter_context(scope_table(self.client, [values]))
        return f"subscriber IN (SELECT value FROM {scope})"


class Copier:
    """Builds vault partitions. The caller holds the register's lock: there is one run at a time."""

    def __init__(
        self,
        shards: Sequence[Shard],
        names: Names,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._shards = shards
        self._names = names
        self._monotonic = monotonic
        self._sleep = sleep

    def preserve(self, selection: Selection, origin: Origin) -> None:
        """Add a selection of live or late rows to the vault. Raises PreserveError, and then the
        vault still has its old content, or on some shards a new one that is as good."""
        place, expected = selection.place, Fingerprint.of(selection.ids)
        with self._work(selection) as work:
            kept = [self._keep(each, place, origin) for each in work]
            staged = [self._copied(each, place, origin, expected) for each in work]
            new = Fingerprint()
            for before, after in zip(kept, staged, strict=True):
                new = new.plus(after.minus(before))
            if new == expected:
                self._exchange(work, place, staged)
                return
            for each in work:
                self._clear_staging(each.client, place)
            if self._sum(work, place, Origin("vault")) != expected:
                raise PreserveError("changed", "the selected rows are not as they were")
            # Else it was done before, and the rows have gone since.

    def rebuild(self, approved: Approved, selection: Selection) -> None:
        """Make a vault partition exactly a selection of its rows; drop it where that is empty."""
        self._allow(approved, selection.place, "vault")
        place, expected = selection.place, Fingerprint.of(selection.ids)
        with self._work(selection) as work:
            for each in work:
                self._clear_staging(each.client, place)
            staged = [self._copied(each, place, Origin("vault"), expected) for each in work]
            if Fingerprint.together(staged) != expected:
                raise PreserveError("changed", "the selected rows are not as they were")
            self._exchange(work, place, staged)

    def drop(self, approved: Approved) -> None:
        """Destroy a live partition on every shard; nothing to do where it is gone."""
        self._allow(approved, approved.place, "live")
        self._drop(approved.place)

    def drop_returned(self, approved: Approved) -> None:
        """Destroy a live partition that was destroyed before, and whose rows came back."""
        self._allow(approved, approved.place, "late")
        self._drop(approved.place)

    def _drop(self, place: Place) -> None:
        in_place(place)  # raises ValueError where the number is none of the class
        table = self._names.table(place.record_class, "live")
        for shard in self._shards:
            shard.leader(table).execute(f"ALTER TABLE {table} DROP PARTITION {int(place.number)}")

    def count(self, place: Place, kept: Kept) -> int:
        """Rows of a place in one kind of table; of replacing classes the newest versions.

        Where no version replaces another, the server's list of parts says it and no row is read.
        """
        table, total = self._names.table(place.record_class, kept), 0
        final = self._names.source(place.record_class, kept)
        for shard in self._shards:
            client = shard.first
            shard.settle(client, [table])
            if final == table:
                database, _, name = table.partition(".")
                which = {"database": database, "table": name, "partition": place.name}
                found = client.query_columns(_ROWS, which)
            else:
                found = client.query_columns(
                    f"SELECT count() AS total FROM {final} WHERE {in_place(place)}",
                    None,
                    FINAL_BY_PARTITION,
                )
            total += int(found["total"][0])
        return total

    @staticmethod
    def _allow(approved: Approved, place: Place, store: Target) -> None:
        if approved.store != store or approved.place != place:
            raise PreserveError("approval", "the approval is for something else")

    @contextlib.contextmanager
    def _work(self, selection: Selection) -> Iterator[list[_Work]]:
        with contextlib.ExitStack() as stack:
            work = [_Work(n, shard, selection, stack) for n, shard in enumerate(self._shards)]
            for each in work:
                vault = self._names.table(selection.place.record_class, "vault")
                each.shard.settle(each.client, [vault])
            yield work

    # Putting a partition together

    def _keep(self, work: _Work, place: Place, origin: Origin) -> Fingerprint:
        """Staging becomes what the vault has of the place and goes on having; gives its print.

        Of the vault's rows those are left out that come in again, and, with live rows, all that
        are live still: a purge that was cut short left them, and holds may have changed since.
        """
        self._clear_staging(work.client, place)
        if not self._fingerprint(work.client, place, "vault").rows:
            return Fingerprint()
        record_class = place.record_class
        vault, key = self._names.table(record_class, "vault"), row_key(record_class)
        stays = f"{key} NOT IN (SELECT record_id, row_hash FROM {work.chosen})"
        if origin.kept == "live" and not origin.is_returned:
            stays += (
                f" AND {key} NOT IN (SELECT record_id, {row_hash(record_class)}"
                f" FROM {self._names.source(record_class, 'live')} WHERE {in_place(place)}"
                f" AND record_id IN (SELECT record_id FROM {vault} WHERE {in_place(place)}))"
            )
        columns = names_of(record_class)
        work.client.query_columns(
            f"INSERT INTO {self._names.table(record_class, 'staging')} ({columns})"
            f" SELECT {columns} FROM {vault} WHERE {in_place(place)} AND {stays}",
            None,
            FINAL_BY_PARTITION,
        )
        return self._fingerprint(work.client, place, "staging")

    def _copied(
        self, work: _Work, place: Place, origin: Origin, expected: Fingerprint
    ) -> Fingerprint:
        """Append the chosen rows to staging; gives the print of all that is there.

        Few of them were read with the selection; more are read again where they are.
        """
        staging = self._names.table(place.record_class, "staging")
        if work.blocks is not None:
            for block in work.blocks:
                work.client.insert(staging, block)
        elif expected.rows:
            columns = names_of(place.record_class)
            work.client.query_columns(
                f"INSERT INTO {staging} ({columns})"
                f" SELECT {columns} FROM {self._from(work, place, origin)}",
                None,
                FINAL_BY_PARTITION,
            )
        return self._fingerprint(work.client, place, "staging")

    def _exchange(self, work: Sequence[_Work], place: Place, staged: Sequence[Fingerprint]) -> None:
        """Put what is staged in the place of the vault's partitions, and see that it is there."""
        staging = self._names.table(place.record_class, "staging")
        vault = self._names.table(place.record_class, "vault")
        for each, new in zip(work, staged, strict=True):
            number = int(place.number)
            if new.rows:  # staging is on this server alone
                each.client.execute(
                    f"ALTER TABLE {vault} REPLACE PARTITION {number} FROM {staging}"
                )
            elif self._fingerprint(each.client, place, "vault").rows:
                leader = each.shard.leader(vault)
                leader.execute(f"ALTER TABLE {vault} DROP PARTITION {number}")
        for each, new in zip(work, staged, strict=True):
            # Every replica that answers must have it: the one that was written to may be lost.
            for client in (each.client, *each.shard.others(each.client)):
                each.shard.settle(client, [vault])
                if self._fingerprint(client, place, "vault") != new:
                    raise PreserveError("vault", "the vault has other rows than were put there")
            each.client.execute(f"TRUNCATE TABLE {staging}")

    def _clear_staging(self, client: Client, place: Place) -> None:
        """Empty the staging table once no statement of an earlier run writes to it any more."""
        deadline = self._monotonic() + QUIET_S
        staging = self._names.table(place.record_class, "staging")
        while True:
            found = client.query_columns(
                "SELECT count() AS running FROM system.processes"
                f" WHERE query LIKE 'INSERT INTO {staging} %'"
            )
            if not found["running"][0]:
                break
            if self._monotonic() > deadline:
                raise Unavailable("a copy of an earlier run is still being written")
            self._sleep(_POLL_S)
        client.execute(f"TRUNCATE TABLE {staging}")

    # Fingerprints

    def _sum(self, work: Sequence[_Work], place: Place, origin: Origin) -> Fingerprint:
        """Of the chosen rows of an origin on all shards."""
        return Fingerprint.together(
            fingerprint(each.client, place, self._from(each, place, origin)) for each in work
        )

    def _fingerprint(self, client: Client, place: Place, kept: Kept) -> Fingerprint:
        """Of all rows that a table has of a place."""
        table = self._names.source(place.record_class, kept)
        return fingerprint(client, place, f"{table} WHERE {in_place(place)}")

    def _from(self, work: _Work, place: Place, origin: Origin) -> str:
        # The id alone is compared first: it is a sixteenth of what a row's hash has to read.
        return (
            f"{self._names.source(place.record_class, origin.kept)} WHERE {in_place(place)}"
            f" AND {origin.where} AND {work.sorted_by}"
            f" AND record_id IN (SELECT record_id FROM {work.chosen})"
            f" AND {row_key(place.record_class)} IN"
            f" (SELECT record_id, row_hash FROM {work.chosen})"
        )
