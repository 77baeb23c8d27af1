"""Runs of answers in columns: which host led a client to a server's address, from when to when.

A pair of client and server is known by 64 bits that are made of both with the keys of this process,
so that nobody can choose addresses which meet; of a million pairs two meet by chance once in 37
million tables.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.track.host_pool import NO_HOST

RUNS_PER_SERVER: Final = 4
"""Runs of one host remembered for one client and server address: a flow is named by the latest
answer before it began, and few look-ups lie between a flow's start and the end of its window."""

_SECRETS: Final = [np.uint64(hash((b"answers", at)) & (2**64 - 1) | 1) for at in range(4)]
"""Odd numbers: Python keys its hashes anew in each process (PEP 456)."""
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: spreads numbers that lie close together (Knuth 6.4)."""
_HIGH, _LOW = np.uint64(32), np.uint64(29)


class Pairs(NamedTuple):
    """What stands for pairs of client and server: `keys` uint64[n]; and `clients` uint32[n], which
    stands for the client, and which two clients may share."""

    keys: NDArray[np.uint64]
    clients: NDArray[np.uint32]


def pairs_of(clients: NDArray[Any], servers: NDArray[Any]) -> Pairs:
    """The pairs of two columns of addresses, V16[n]."""
    mixed = _mixed(clients, _SECRETS[:2])
    keys = _mixed(servers, _SECRETS[2:]) ^ (mixed * _ODD)
    return Pairs((keys ^ (keys >> _HIGH)) * _ODD, (mixed >> _HIGH).astype(np.uint32))


def _mixed(addresses: NDArray[Any], secrets: list[np.uint64]) -> NDArray[np.uint64]:
    halves = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
    mixed = np.zeros(len(halves), np.uint64)
    for at, secret in enumerate(secrets):
        part = (halves[:, at] ^ (halves[:, at] >> _HIGH)) * secret
        part = (part ^ (part >> _LOW)) * _ODD
        mixed = (mixed ^ part ^ (part >> _HIGH)) * secret
    return mixed ^ (mixed >> _HIGH)


class Runs(NamedTuple):
    """Runs sorted by key, those of one key in the order in which they were told; 32 bytes each.

    A run is a host that was answered from `first_ns` to `last_ns` without another in between;
    `hosts` are its numbers in a `HostPool`.
    """

    keys: NDArray[np.uint64]
    clients: NDArray[np.uint32]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    hosts: NDArray[np.uint32]

    @classmethod
    def empty(cls) -> Runs:
        times = np.zeros(0, np.int64)
        numbers = np.zeros(0, np.uint32)
        return cls(np.zeros(0, np.uint64), numbers, times, times, numbers)

    def pick(self, where: NDArray[Any] | slice) -> Runs:
        """Some of the runs."""
        return Runs(
            self.keys[where],
            self.clients[where],
            self.first_ns[where],
            self.last_ns[where],
            self.hosts[where],
        )

    def newest(self) -> NDArray[np.intp]:
        """Where the latest run of each pair is."""
        last = np.ones(len(self.keys), np.bool_)
        last[:-1] = self.keys[1:] != self.keys[:-1]
        return np.flatnonzero(last)

    def of_pairs(self, kept: NDArray[np.bool_]) -> Runs:
        """The runs of some of the pairs, which are in the order of `newest`."""
        if kept.all():
            return self
        return self.pick(np.repeat(kept, np.diff(self.newest(), prepend=-1)))


def merged(older: Runs, newer: Runs, life_ns: int) -> Runs:
    """Both, the newer told after the older, at most RUNS_PER_SERVER for each pair.

    Within a run each answer follows within `life_ns` of the one before, so whatever begins between
    its first and last was led by an answer still alive.
    """
    if not len(newer.keys):
        return older
    keys = np.concatenate((older.keys, newer.keys))
    order = np.argsort(keys, kind="stable")  # of two sorted parts: they are only merged
    keys = keys[order]
    first = np.concatenate((older.first_ns, newer.first_ns))[order]
    last = np.concatenate((older.last_ns, newer.last_ns))[order]
    hosts = np.concatenate((older.hosts, newer.hosts))[order]
    same = keys[1:] == keys[:-1]
    gap = first[1:] - last[:-1]
    goes_on = same & (hosts[1:] == hosts[:-1]) & (gap >= 0) & (gap <= life_ns)
    begins = np.flatnonzero(np.concatenate(([True], ~goes_on))[: len(keys)])
    ends = np.append(begins[1:], len(keys)) - 1 if len(keys) else begins
    runs = Runs(
        keys[begins],
        np.concatenate((older.clients, newer.clients))[order[begins]],
        first[begins],
        last[ends],
        hosts[begins],
    )
    newest = runs.newest()
    sizes = np.diff(newest, prepend=-1)
    if sizes.max(initial=0) <= RUNS_PER_SERVER:
        return runs
    from_end = np.repeat(newest, sizes) - np.arange(len(runs.keys))
    return runs.pick(from_end < RUNS_PER_SERVER)


def look_up(
    runs: Runs, keys: NDArray[np.uint64], at_ns: NDArray[np.int64], life_ns: int
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The host of the latest run of each pair that began by then, NO_HOST where it is too old;
    and for which pairs there is such a run."""
    places = np.searchsorted(runs.keys, keys, side="right") - 1
    met = np.zeros(len(keys), np.bool_)
    hosts = np.full(len(keys), NO_HOST, np.uint32)
    if not len(runs.keys):
        return hosts, met
    left = np.flatnonzero(places >= 0)
    while len(left):
        at = places[left]
        same = runs.keys[at] == keys[left]
        left, at = left[same], at[same]
        begun = runs.first_ns[at] <= at_ns[left]
        found, run = left[begun], at[begun]
        alive = at_ns[found] - runs.last_ns[run] <= life_ns
        met[found] = True
        hosts[found] = np.where(alive, runs.hosts[run], NO_HOST)
        left = left[~begun]
        places[left] -= 1
        left = left[places[left] >= 0]
    return hosts, met
