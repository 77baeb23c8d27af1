"""Flows that are open, in one array sorted by key, and those that ended lately.

A flow is known by its conntrack id and start time: the kernel reuses ids (they hash the entry's
address in memory), but not with the same nanosecond.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

COUNTERS: Final = ("up_bytes", "down_bytes", "up_packets", "down_packets")

ENTRY: Final = np.dtype(
    [
        ("key", "u8"),
        ("start_ns", "i8"),
        ("first_ns", "i8"),
        ("mapped_ns", "i8"),
        ("seen_ns", "i8"),
        *((name, "u8") for name in COUNTERS),
        ("client", "V16"),
        ("server", "V16"),
        ("public", "V16"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        ("public_port", "u2"),
        ("protocol", "u1"),
        ("missed", "u1"),
        ("translated", "?"),
        ("counted", "?"),
        ("inbound", "?"),
    ]
)
"""One flow as last seen, from the subscriber's side. Counters are the kernel's own, from the flow's
begin. start_ns: 0 where the kernel does not say. first_ns: first sight here. seen_ns: last sight,
or when it ended; 0 for an entry of a snapshot that was not seen since, which has no addresses.
mapped_ns: when its NAT mapping was last told; 0 never. missed: dumps in a row without it.
translated: NAT gave it the `public` address. inbound: somebody outside opened it."""

ENDED: Final = 255
"""`missed` of a flow whose end was seen; it leaves with the next complete dump."""
UNSEEN: Final = 2
"""Dumps in a row without a flow after which it is taken to have ended. One is not enough: while a
dump runs, an entry may be moved from a part of the table not read yet into one read already."""
FORGET: Final = 4
"""Dumps in a row after which the entry goes; until then a DESTROY that came late finds it."""

Entries = npt.NDArray[Any]
"""A structured array of `ENTRY`."""


_MAX_LATEST: Final = 1 << 14
"""Keys that wait to be sorted in: 1.3 MB at most; sorting a million takes 15 ms."""
_OPAQUE: Final = np.dtype(("V", ENTRY.itemsize))


def pick(rows: npt.NDArray[Any], where: npt.NDArray[Any] | slice) -> npt.NDArray[Any]:
    """rows[where], copied row by row: numpy indexes a structured array field by field."""
    return rows.view(("V", rows.dtype.itemsize))[where].view(rows.dtype)


def put(into: Entries, where: npt.NDArray[Any], entries: Entries) -> None:
    """into[where] = entries, likewise."""
    into.view(_OPAQUE)[where] = entries.view(_OPAQUE)


def key_of(ids: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """One number for id and start: the id above, the start folded to 32 bits below.

    Two of a million flows share it once in 37 million tables. Flows without a start time share
    one with their id alone, about one pair in 100,000 flows; they are older than the collector.
    """
    folded = starts.astype(np.uint64)
    folded = (folded ^ (folded >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
    return (ids.astype(np.uint64) << np.uint64(32)) | folded


def begin_of(entries: Entries) -> npt.NDArray[np.int64]:
    """When each flow began; its first sight where the kernel does not say."""
    return np.where(entries["start_ns"] > 0, entries["start_ns"], entries["first_ns"])


def distinct(entries: Entries) -> Entries:
    """Entries sorted by key; of several with one key that with the most packets, the newest."""
    keys = np.ascontiguousarray(entries["key"])
    order = np.argsort(keys)
    keys = keys[order]
    if not (keys[1:] == keys[:-1]).any():
        return pick(entries, order)
    packets = entries["up_packets"] + entries["down_packets"]
    order = np.lexsort((packets, entries["key"]))
    keys = entries["key"][order]
    last = np.ones(len(keys), np.bool_)
    last[:-1] = keys[1:] != keys[:-1]
    return pick(entries, order[last])


class FlowTable:
    """Open flows sorted by key; at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.entries: Entries = np.zeros(0, ENTRY)
        self._keys: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._keys)

    def find(
        self, keys: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Place of each key in `entries`, and whether it is there (else it means nothing)."""
        if not len(self):
            return np.zeros(len(keys), np.intp), np.zeros(len(keys), np.bool_)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        return places, self._keys[places] == keys

    def insert(self, new: Entries) -> int:
        """Adds entries, sorted and not yet there, as far as there is room; says how many."""
        new = new[: max(0, self._limit - len(self))]
        if len(new):
            places = np.searchsorted(self._keys, new["key"])
            merged = np.insert(self.entries.view(_OPAQUE), places, new.view(_OPAQUE))
            self._set(merged.view(ENTRY))
        return len(new)

    def miss(self, present: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Notes a complete dump that had only the entries at `present`.

        Gives the places of those that were just found to have ended unseen.
        """
        absent = np.ones(len(self), np.bool_)
        absent[present] = False
        absent &= self.entries["missed"] < FORGET
        self.entries["missed"][absent] += 1
        return np.flatnonzero(absent & (self.entries["missed"] == UNSEEN))

    def forget(self) -> None:
        """Drops entries that ended, and those that were missing for long."""
        keep = self.entries["missed"] < FORGET
        if not keep.all():
            self._set(pick(self.entries, keep))

    def replace(self, entries: Entries) -> None:
        """Takes `entries`, sorted by key and distinct, for the whole table."""
        self._set(entries[: self._limit])

    def _set(self, entries: Entries) -> None:
        self.entries = entries
        self._keys = np.ascontiguousarray(entries["key"])


class Keys:
    """A set of keys in 8 bytes each: sorted in an array, the latest in a set of Python's.

    Python's alone takes 74 bytes a key, which was a quarter of what a busy collector had in memory.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._latest: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._latest)

    def add(self, keys: npt.NDArray[np.uint64]) -> None:
        self._latest.update(keys.tolist())
        if len(self._latest) > _MAX_LATEST:
            self.sort_in()

    def sort_in(self) -> None:
        """Keeps all in the array, which is for a set that is not added to any more."""
        latest = np.fromiter(self._latest, np.uint64, len(self._latest))
        keys = np.sort(np.concatenate((self._sorted, latest)))
        # What np.unique would do, which loads numpy's masked arrays the first time.
        self._sorted = keys[np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)]]
        self._latest = set()

    def holds(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of the keys are in the set; bool[n]."""
        asked = keys.tolist()
        met = self._latest.intersection(asked)
        found = np.zeros(len(asked), np.bool_)
        if met:
            found[:] = [key in met for key in asked]
        if len(self._sorted):
            places = np.searchsorted(self._sorted, keys)
            found |= self._sorted[np.minimum(places, len(self._sorted) - 1)] == keys
        return found


class Tombstones:
    """Keys of flows whose end was told lately, in two generations of `age_ns` each.

    A dump that began before a flow's end may be taken in after it, and would bring it to life
    again with all its bytes; and where another listener asked the kernel for reliable delivery,
    a DESTROY may come twice. Either is told by the key, kept for `age_ns` to twice that.
    """

    def __init__(self, age_ns: int, limit: int) -> None:
        self._age_ns = age_ns
        self._limit = limit
        self._since_ns = 0
        self._young, self._old = Keys(), Keys()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, keys: npt.NDArray[np.uint64], now_ns: int) -> bool:
        """Keeps the keys; false where there were so many that older ones had to go early."""
        aged = now_ns - self._since_ns >= self._age_ns
        full = len(self._young) + len(keys) > self._limit
        if aged or full:
            self._old, self._young, self._since_ns = self._young, Keys(), now_ns
            self._old.sort_in()
        self._young.add(keys)
        return aged or not full

    def holds(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of the keys are kept; bool[n]."""
        return self._young.holds(keys) | self._old.holds(keys)
