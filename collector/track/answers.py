"""DNS answers: for each client, by which host it was last led to a server's address.

    add -> packed as told -> young runs, sorted -> all runs, sorted

What was told is sorted in when it is many, or when somebody looks; so an answer costs 32 bytes, and
either way of sorting a share of a microsecond.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.answer_runs import Runs, look_up, merged, pairs_of
from collector.track.host_events import Resolution
from collector.track.host_pool import HostPool

_TOLD: Final = struct.Struct("=16s16sqI")
_TOLD_DTYPE: Final = np.dtype(
    [("client", "V16"), ("server", "V16"), ("ts_ns", "i8"), ("host", "u4")]
)
_SHARDS: Final = 16
_EDGES: Final = np.arange(1, _SHARDS, dtype=np.uint64) << np.uint64(60)
"""All runs are sixteen parts by their key, so that sorting in takes little memory besides."""
_MAX_TOLD: Final = 4_096
_MAX_YOUNG: Final = 16_384
"""Answers as they were told, and young runs, that are sorted in together: 0.7 MB in all."""


@dataclass(frozen=True, slots=True)
class AnswersConfig:
    """Limits: pairs of client and server in all and of one client, and how long a pair names."""

    max_answers: int
    max_answers_per_client: int
    life_ns: int


class Answers:
    """Per client and server address, the latest hosts that led there. Oldest go first.

    Beyond the limits there are never more than a quarter, which wait to be sorted in. `evicted`:
    pairs that went for want of room; whoever reports them sets it back. Pairs that were last
    answered in the same nanosecond go together.
    """

    def __init__(self, config: AnswersConfig, pool: HostPool) -> None:
        self._config, self._pool = config, pool
        self._max_young = min(_MAX_YOUNG, config.max_answers // 4)
        self._max_told = min(_MAX_TOLD, self._max_young) * _TOLD.size
        self._told = bytearray()
        self._young = Runs.empty()
        self._old = [Runs.empty()] * _SHARDS
        self.evicted = 0

    @property
    def size(self) -> int:
        """Pairs of client and server held."""
        self._sort_in()
        return sum(len(runs.newest()) for runs in self._old)

    def add(self, event: Resolution) -> None:
        """A client was told the addresses of a host, which are not none."""
        host = self._pool.number(event.host)
        for address in event.addresses:
            self._told += _TOLD.pack(event.client, address, event.ts_ns, host)
        if len(self._told) > self._max_told:
            self._settle()

    def hosts(
        self, clients: NDArray[Any], servers: NDArray[Any], at_ns: NDArray[np.int64]
    ) -> NDArray[np.uint32]:
        """For pairs of addresses (V16[n]) the latest host at or before `at_ns`, as its number in
        the pool; NO_HOST where there is none or it is too old."""
        self._settle()
        keys, _ = pairs_of(clients, servers)
        life_ns = self._config.life_ns
        hosts, met = look_up(self._young, keys, at_ns, life_ns)
        left = np.flatnonzero(~met)
        left = left[np.argsort(keys[left])]
        for runs, part in zip(self._old, _parts(keys[left]), strict=True):
            asked = left[part]
            hosts[asked], _ = look_up(runs, keys[asked], at_ns[asked], life_ns)
        return hosts

    def expire(self, before_ns: int) -> None:
        """Drops what was last answered before `before_ns`."""
        self._sort_in()
        self._old = [runs.of_pairs(last_ns(runs) >= before_ns) for runs in self._old]

    def halve(self) -> None:
        """Lets the older half of the pairs go, as by a limit."""
        self._sort_in()
        times = np.concatenate([*map(last_ns, self._old)])
        if len(times) > 1:
            self._keep(_latest(times, len(times) // 2))

    def numbers(self) -> list[NDArray[np.uint32]]:
        """The numbers of all hosts held, to be changed in place."""
        self._sort_in()
        return [runs.hosts for runs in self._old]

    def _settle(self) -> None:
        """Sorts what was told into the young runs, and these into all where they are many."""
        if not self._told:
            return
        told = np.frombuffer(bytes(self._told), _TOLD_DTYPE)
        self._told.clear()
        pairs = pairs_of(told["client"], told["server"])
        order = np.argsort(pairs.keys, kind="stable")
        times = told["ts_ns"][order]
        runs = Runs(pairs.keys[order], pairs.clients[order], times, times, told["host"][order])
        self._young = merged(self._young, runs, self._config.life_ns)
        if len(self._young.keys) > self._max_young:
            self._sort_in()

    def _sort_in(self) -> None:
        """Makes all runs one, within the limits."""
        self._settle()
        if not len(self._young.keys):
            return
        young, self._young = self._young, Runs.empty()
        for at, part in enumerate(_parts(young.keys)):
            runs = young.pick(part)
            self._old[at] = merged(self._old[at], runs, self._config.life_ns)
        self._bound_clients()
        if sum(len(runs.keys) for runs in self._old) > self._config.max_answers:
            times = np.concatenate([*map(last_ns, self._old)])
            if len(times) > self._config.max_answers:
                self._keep(_latest(times, self._config.max_answers))

    def _bound_clients(self) -> None:
        """Lets the oldest pairs go of clients that have too many."""
        most = self._config.max_answers_per_client
        clients = np.concatenate([runs.clients[runs.newest()] for runs in self._old])
        # First by the lower half of the number, which nearly always says that there are none.
        half = clients.astype(np.uint16)
        many = np.flatnonzero(np.bincount(half) > most)
        if not len(many):
            return
        told, counts = np.unique(clients[np.isin(half, many)], return_counts=True)
        times = np.concatenate([*map(last_ns, self._old)])
        kept = np.ones(len(times), np.bool_)
        for client in told[counts > most]:
            of_client = np.flatnonzero(clients == client)
            kept[of_client] = _latest(times[of_client], most)
        self._keep(kept)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        """Lets all other pairs go."""
        if kept.all():
            return
        self.evicted += int(np.count_nonzero(~kept))
        for at, runs in enumerate(self._old):
            pairs = len(runs.newest())
            self._old[at], kept = runs.of_pairs(kept[:pairs]), kept[pairs:]


def last_ns(runs: Runs) -> NDArray[np.int64]:
    """When each pair was last answered, in the order of `newest`."""
    return runs.last_ns[runs.newest()]


def _parts(keys: NDArray[np.uint64]) -> list[slice]:
    """Where among sorted keys those of each shard are."""
    cuts = [0, *np.searchsorted(keys, _EDGES).tolist(), len(keys)]
    return [slice(*cut) for cut in pairwise(cuts)]


def _latest(times: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Which of the times, more than `most`, are the latest: at most so many."""
    before: NDArray[np.int64] = np.partition(times, len(times) - most - 1)[len(times) - most - 1]
    later: NDArray[np.bool_] = times > before
    return later
