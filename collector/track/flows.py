"""Conntrack rows into flow deltas from the subscriber's side, and into NAT mappings.

Two sources say the same thing: a DESTROY event has a flow's final counters, and a periodic dump,
which resets nothing, has the counters so far. A delta is the difference to what was told before,
so the sum of a flow's deltas is what the kernel counted for it, however often it was dumped.

Rules
1. Client is the inside address: the original tuple's source where an access prefix holds it, else
   the reply tuple's source (the destination after NAT) with the directions swapped. With both
   inside the one that opened the flow is the client. With neither the row is ignored.
2. A flow is known by conntrack id and start time. First sight of one that began before the
   collector, and that no snapshot knows, is a baseline and not told; one that began since is told
   whole. A flow without a start time began before nf_conntrack_timestamp was on, so before.
3. A counter that went down is a new baseline and a Loss, never a negative.
4. A DESTROY is final: a dump that began before it brings nothing back (`Tombstones`), and a second
   DESTROY counts nothing. Without a baseline for it the flow's end is told with no bytes: a Loss.
5. A flow that complete dumps lack without a DESTROY has ended; its bytes as last seen stay told,
   and the rest is a Loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from collector.parse.conntrack import DESTROY
from collector.track import flow_snapshot
from collector.track.block_mappings import BlockMappings
from collector.track.flow_config import FlowConfig, MappingConfig
from collector.track.flow_delta import DELTA, Rows, deltas_of, difference
from collector.track.flow_mappings import FlowMappings
from collector.track.flow_sides import subscriber_side
from collector.track.flow_table import (
    COUNTERS,
    ENDED,
    ENTRY,
    UNSEEN,
    Entries,
    FlowTable,
    Tombstones,
    begin_of,
    distinct,
    pick,
    put,
)
from collector.track.inside import Prefixes, bases
from collector.wire.addr import MAPPED
from collector.wire.columns import Columns
from collector.wire.loss import Loss

__all__ = ["DELTA", "FlowConfig", "Flows", "MappingConfig", "Rows"]


class Flows:
    """Open flows of the access prefixes. `started_ns` is when the collector began to watch.

    counts, in rows: seen = recorded + ignored + lost. Ignored: `outside` the access prefixes,
    `baseline`, `late` (of a flow that had ended), `duplicate` and `other` (no DESTROY among the
    events). Lost, all or in part: `reset`, `no_baseline`, `uncounted` (the kernel kept no counters)
    and `untracked` (the table was full). Beside the equation: `ended` flows, `ended_unseen` of
    them, `open` now, and `octets` of all deltas.
    """

    def __init__(self, config: FlowConfig, started_ns: int) -> None:
        self._config = config
        self._started_ns = started_ns
        self._access = Prefixes(config.access)
        self._table = FlowTable(config.max_flows)
        self._tombstones = Tombstones(config.tombstone_ns, config.max_tombstones)
        self._mappings: FlowMappings | BlockMappings = (
            BlockMappings(config.mappings, config.max_flows)
            if config.mappings.detail == "block"
            else FlowMappings(config.max_flows)
        )
        self._ended: Counter[bytes] = Counter()
        self._dumped_ns = started_ns
        self._known_ns = started_ns
        self._lost: dict[tuple[str, str], tuple[int, int, int]] = {}
        self.counts: dict[str, int] = dict.fromkeys(
            (
                *("seen", "recorded", "ignored", "lost", "open", "ended", "ended_unseen"),
                *("outside", "baseline", "late", "duplicate", "other"),
                *("reset", "no_baseline", "uncounted", "untracked", "octets"),
            ),
            0,
        )

    def dump(self, rows: Rows, now_ns: int, complete: bool = True) -> Rows:
        """Takes in one dump of the table; gives deltas of the flows that moved since the last.

        now_ns: when the dump was read. It is to be taken in within `tombstone_ns` of that, and in
        order. complete: false for a dump that may lack entries, which then proves no flow's end.
        """
        self.counts["seen"] += len(rows)
        found = self._entries(rows, now_ns)
        places, known, over = self._look_up(found)
        moved = self._advance(pick(found, known), places[known], now_ns)
        missing = self._table.miss(places[known]) if complete else np.zeros(0, np.intp)
        gone = self._vanish(pick(self._table.entries, missing), now_ns)
        self._table.forget()
        begun = self._begin(pick(found, ~known & ~over), now_ns)
        self._map_open(now_ns)
        self._dumped_ns = now_ns
        self.counts["open"] = int(np.count_nonzero(self._table.entries["missed"] < UNSEEN))
        return self._tell(np.concatenate((moved, gone, begun)))

    def destroyed(self, rows: Rows, now_ns: int) -> Rows:
        """Takes in DESTROY events; gives the last delta of each flow."""
        self.counts["seen"] += len(rows)
        final = rows[rows["kind"] == DESTROY]
        self._ignore("other", len(rows) - len(final))
        found = self._entries(final, np.where(final["stop_ns"] > 0, final["stop_ns"], now_ns))
        places, known, over = self._look_up(found)
        found, places, known = pick(found, ~over), places[~over], known[~over]
        if not self._tombstones.add(found["key"], now_ns):
            self._lose("track", "tombstones-full", -1, now_ns)

        before = np.zeros(len(found), ENTRY)
        put(before, known, pick(self._table.entries, places[known]))
        self._table.entries["missed"][places[known]] = ENDED
        found["first_ns"] = np.where(known, before["first_ns"], found["seen_ns"])
        fresh = ~known & (found["start_ns"] >= self._started_ns)
        amounts, fell = difference(found, before)
        amounts[fell | ~(known | fresh)] = 0
        self._settle(
            len(found),
            now_ns,
            reset=fell,
            no_baseline=~(known | fresh),
            uncounted=(known | fresh) & ~fell & ~found["counted"],
        )
        told = before["missed"] >= UNSEEN
        self._finish(found, ~told)
        self.counts["open"] -= int(np.count_nonzero(known & ~told))
        return self._tell(deltas_of(found, amounts, fresh, ~told))

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """Mapping rows proven up to `end_ns`, the end of the closing window; forgets them."""
        return {"mapping": self._mappings.take(end_ns, now_ns)}

    @property
    def blocks(self) -> tuple[int, int]:
        """Port blocks in use, and those of them that two subscribers dispute; see rule 3 there."""
        if isinstance(self._mappings, BlockMappings):
            return len(self._mappings), self._mappings.shared
        return 0, 0

    def ended_counts(self) -> dict[tuple[bytes, int], int]:
        """Flows that ended since the last call, by subscriber: (address or network, length)."""
        ended, self._ended = self._ended, Counter()
        usage = self._config.usage_prefix_len
        return {(base, 128 if base[:12] == MAPPED else usage): n for base, n in ended.items()}

    def losses(self) -> list[Loss]:
        """Losses since the last call, one a reason."""
        lost, self._lost = self._lost, {}
        return [
            Loss(start, end, stage, reason, amount, "events", _CLASSES.get(reason, _BOTH))
            for (stage, reason), (start, end, amount) in lost.items()
        ]

    def snapshot(self) -> dict[str, object]:
        """What a restart needs: the counters of open flows as told so far. JSON-able.

        Mapping rows and ended counts that wait for `take` are not in it: take a snapshot where a
        window closes, after them.
        """
        entries = self._table.entries
        live = entries[entries["missed"] < UNSEEN]
        # A flow that this run did not see yet was last seen by the run before.
        seen = np.where(live["seen_ns"] > 0, live["seen_ns"], self._known_ns)
        return {**flow_snapshot.dump(live), "dumped_ns": int(seen.min(initial=self._dumped_ns))}

    def restore(self, snapshot: Mapping[str, object], now_ns: int) -> None:
        """Takes over the flows of an earlier run; raises ValueError for no such snapshot.

        Flows that ended meanwhile are found by the next dumps, as of rule 5.
        """
        dumped_ns = snapshot.get("dumped_ns", now_ns)
        if type(dumped_ns) is not int or dumped_ns < 0:
            raise ValueError("a flow snapshot without the time of its dump")
        self._table.replace(flow_snapshot.load(snapshot, self._config.max_flows))
        self._known_ns = min(dumped_ns, now_ns)
        self.counts["open"] = len(self._table)

    def _entries(self, rows: Rows, seen_ns: int | npt.NDArray[np.int64]) -> Entries:
        """The rows of subscribers as entries, sorted by key and distinct."""
        entries = subscriber_side(rows, seen_ns, self._access)
        self._ignore("outside", len(rows) - len(entries))
        once = distinct(entries)
        self._ignore("duplicate", len(entries) - len(once))
        return once

    def _look_up(
        self, found: Entries
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Places in the table, which of the flows are open there, and which had a DESTROY."""
        places, known = self._table.find(found["key"])
        over = np.zeros(len(found), np.bool_)
        over[known] = self._table.entries["missed"][places[known]] == ENDED
        over[~known] = self._tombstones.holds(found["key"][~known])
        self._ignore("late", int(np.count_nonzero(over)))
        return places, known & ~over, over

    def _advance(self, found: Entries, places: npt.NDArray[np.intp], now_ns: int) -> Rows:
        """Deltas of flows in the table, which takes over the new counters."""
        before = pick(self._table.entries, places)
        amounts, fell = difference(found, before)
        amounts[fell] = 0
        self._settle(len(found), now_ns, reset=fell)
        for name in ("first_ns", "mapped_ns"):
            found[name] = before[name]
        put(self._table.entries, places, found)
        moved = np.logical_or.reduce(amounts != 0, axis=1)
        return deltas_of(pick(found, moved), amounts[moved], first=False, ended=False)

    def _begin(self, new: Entries, now_ns: int) -> Rows:
        """Deltas of flows seen for the first time, which go into the table."""
        new["first_ns"] = now_ns
        room = self._table.insert(new)
        if room < len(new):
            # Not told either: the DESTROY of such a flow will tell all of it.
            self.counts["lost"] += len(new) - room
            self.counts["untracked"] += len(new) - room
            self._lose("track", "table-full", len(new) - room, now_ns)
        fresh = new[:room][new["start_ns"][:room] >= self._started_ns]
        self._ignore("baseline", room - len(fresh))
        amounts, _ = difference(fresh, np.zeros(len(fresh), ENTRY))
        self._settle(len(fresh), now_ns)
        return deltas_of(fresh, amounts, first=True, ended=False)

    def _vanish(self, gone: Entries, now_ns: int) -> Rows:
        """Deltas without bytes of flows that ended with nobody told."""
        if len(gone):
            self.counts["ended_unseen"] += len(gone)
            # Each was last seen then; one of the run before, in the last dump of that run.
            seen = np.where(gone["seen_ns"] > 0, gone["seen_ns"], self._known_ns)
            self._lose("conntrack", "ended-unseen", len(gone), now_ns, int(seen.min()))
        self.counts["ended"] += int(np.count_nonzero(gone["seen_ns"] == 0))
        gone = gone[gone["seen_ns"] > 0]
        self._finish(gone, np.ones(len(gone), np.bool_))
        return deltas_of(gone, np.zeros((len(gone), len(COUNTERS)), np.uint64), False, True)

    def _finish(self, entries: Entries, newly: npt.NDArray[np.bool_]) -> None:
        """Counts the flows that newly ended, and records their mappings to the end."""
        self._map(pick(entries, entries["translated"]))
        self.counts["ended"] += int(np.count_nonzero(newly))
        if len(self._ended) >= self._config.max_flows:  # taken every window, so never in practice
            self._lose("track", "ended-full", int(newly.sum()), self._dumped_ns)
            return
        clients = bases(entries["client"][newly], self._config.usage_prefix_len)
        self._ended.update(clients.tolist())

    def _map_open(self, now_ns: int) -> None:
        """Records the mappings of open flows that are new or were last told long ago."""
        entries = self._table.entries
        alive = entries["translated"] & (entries["seen_ns"] == now_ns)
        due = alive & (
            (entries["mapped_ns"] == 0)
            | (now_ns - entries["mapped_ns"] >= self._config.mapping_refresh_ns)
        )
        # Each flow that lives proves its block, and few rows come of it.
        chosen = alive if self._config.mappings.detail == "block" else due
        self._map(pick(entries, chosen), due[chosen])
        entries["mapped_ns"][due] = now_ns

    def _map(self, entries: Entries, due: npt.NDArray[np.bool_] | None = None) -> None:
        """Records the mappings of translated flows; without `due` they all have ended."""
        if not len(entries):
            return
        until = int(entries["seen_ns"].max())
        if self._config.mappings.detail == "off":
            # Else a look-up would say that nobody had the port.
            since = int(begin_of(entries).min())
            self._lose("track", "mappings-off", len(entries), until, since)
        elif dropped := self._mappings.add(entries, due):
            self._lose("track", "mappings-full", dropped, until)

    def _settle(self, total: int, now_ns: int, **lost: npt.NDArray[np.bool_]) -> None:
        """Counts `total` rows, those in `lost` by reason (each in one at most), as lost."""
        for reason, where in lost.items():
            amount = int(np.count_nonzero(where))
            if amount:
                total -= amount
                self.counts["lost"] += amount
                self.counts[reason] += amount
                self._lose("conntrack", reason.replace("_", "-"), amount, now_ns)
        self.counts["recorded"] += total

    def _tell(self, deltas: Rows) -> Rows:
        self.counts["octets"] += sum(int(deltas[name].sum()) for name in COUNTERS[:2])
        return deltas

    def _ignore(self, reason: str, amount: int) -> None:
        self.counts["ignored"] += amount
        self.counts[reason] += amount

    def _lose(
        self, stage: str, reason: str, amount: int, now_ns: int, since_ns: int | None = None
    ) -> None:
        """Adds to the loss of this reason, which spans from `since_ns`, or the dump before."""
        since = self._dumped_ns if since_ns is None else since_ns
        start, end, before = self._lost.get((stage, reason), (since, 0, 0))
        whole = -1 if amount < 0 or before < 0 else before + amount
        start = min(start, since)
        self._lost[stage, reason] = (start, max(end, now_ns, start + 1), whole)


_BOTH: Final = ("visit", "mapping")
_CLASSES: Final = dict.fromkeys(("mappings-full", "mappings-off"), ("mapping",))
"""Classes that a loss bears on, by its reason."""
