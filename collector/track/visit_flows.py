"""Flow deltas of one window into its flows, each with all that it carried."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collector.track.flow_table import pick
from collector.track.host_pool import NO_HOST
from collector.track.narrow import Narrow, as_numbers

KEY: Final = struct.Struct(">16s16sBHH")
"""A 5-tuple in 37 bytes: client, server, protocol, client's port, server's port."""
KEY_DTYPE: Final = np.dtype(
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", ">u2"),
        ("server_port", ">u2"),
    ]
)
"""The same for numpy."""
_FLOW_DTYPE: Final = np.dtype(
    [*((name, KEY_DTYPE[name]) for name in KEY_DTYPE.names or ()), ("start_ns", ">i8")]
)
"""What tells flows apart: the 5-tuple, then the start."""

NO_DELTAS: Final = np.empty(
    0,
    [
        ("client", "V16"),
        ("server", "V16"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("server_port", "u2"),
        ("up_bytes", "u8"),
        ("down_bytes", "u8"),
        ("start_ns", "i8"),
        ("seen_ns", "i8"),
        ("ended", "?"),
        ("inbound", "?"),
    ],
)
"""No flows, with the fields of a flow delta that are read here."""
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: spreads numbers that lie close together (Knuth 6.4)."""
_CHUNK: Final = 4_096
"""Deltas put away together: columns of fewer cost more than they hold."""

NEVER: Final = 2**63 - 1

Hosts: TypeAlias = NDArray[np.uint32]
"""For each delta the host that led to its server, as its number in the pool; NO_HOST without."""


class Waiting:
    """Deltas that wait for the close of their window.

    `led` says which hosts led to them. It is asked as they are put away, when the answers that they
    followed are sure to be there still, and of those without a host again at the close.
    """

    def __init__(self, led: Callable[[NDArray[Any]], Hosts]) -> None:
        self._led = led
        self._chunks: list[tuple[Narrow, Hosts]] = []
        self._loose: list[NDArray[Any]] = []
        self._size = self._loose_size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, deltas: NDArray[Any]) -> None:
        """Keeps a copy of the fields of NO_DELTAS."""
        if not len(deltas):
            return
        kept = np.empty(len(deltas), NO_DELTAS.dtype)
        for name in NO_DELTAS.dtype.names or ():
            kept[name] = deltas[name]
        self._loose.append(kept)
        self._size += len(kept)
        self._loose_size += len(kept)
        if self._loose_size >= _CHUNK:
            self._put_away()

    def numbers(self) -> list[Hosts]:
        """The numbers of all hosts held, to be changed in place."""
        return [hosts for _, hosts in self._chunks]

    def folds(self, end_ns: int) -> NDArray[np.uint64]:
        """For each 5-tuple of what `take` would give the number of `told_once`."""
        self._put_away()
        return np.concatenate(
            [np.zeros(0, np.uint64), *(_due_folds(chunk, end_ns) for chunk, _ in self._chunks)]
        )

    def take(self, end_ns: int) -> Iterator[tuple[NDArray[Any], Hosts]]:
        """The deltas in the order they came, some at a time, without those of flows that began at
        `end_ns` or after, which go on waiting."""
        self._put_away()
        chunks, self._chunks, self._size = self._chunks[::-1], [], 0
        while chunks:
            chunk, hosts = chunks.pop()
            deltas = chunk.rows()
            due = deltas["start_ns"] < end_ns
            if not due.all():
                self.add(pick(deltas, ~due))
                deltas, hosts = pick(deltas, due), hosts[due]
            without = np.flatnonzero(hosts == NO_HOST)
            hosts[without] = self._led(pick(deltas, without))
            yield deltas, hosts

    def _put_away(self) -> None:
        if self._loose:
            deltas = np.concatenate(self._loose)
            self._loose, self._loose_size = [], 0
            self._chunks.append((Narrow(deltas), self._led(deltas)))


def begun_ns(deltas: NDArray[Any]) -> NDArray[np.int64]:
    """When each flow began; when it was seen where the kernel does not say."""
    return np.where(deltas["start_ns"] != 0, deltas["start_ns"], deltas["seen_ns"])


def _due_folds(chunk: Narrow, end_ns: int) -> NDArray[np.uint64]:
    folds = folded(chunk.column(name) for name in KEY_DTYPE.names or ())
    return folds[chunk.column("start_ns") < end_ns]


def shared_tuples(folds: NDArray[np.uint64], named: Iterable[bytes]) -> NDArray[np.uint64]:
    """Numbers of 5-tuples that come more than once, or are among the `named`; sorted."""
    folds = np.sort(folds)
    again = folds[1:][folds[1:] == folds[:-1]]
    others = np.frombuffer(b"".join(named), KEY_DTYPE)
    held = folded(others[name] for name in KEY_DTYPE.names or ())
    return np.sort(np.concatenate((again, held)))


def told_once(deltas: NDArray[Any], shared: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which deltas are all that the window has of flows that the subscriber opened and that ended,
    with nothing else on their 5-tuples, none of which is `shared`; bool[n].

    Most flows are so, and need no state: they are joined by columns.
    """
    once: NDArray[np.bool_] = deltas["ended"] & ~deltas["inbound"]
    if len(shared):
        folds = folded(deltas[name] for name in KEY_DTYPE.names or ())
        places = np.minimum(np.searchsorted(shared, folds), len(shared) - 1)
        once &= shared[places] != folds
    return once


def folded(columns: Iterable[NDArray[Any]]) -> NDArray[np.uint64]:
    """One number for each row. Two rows that differ may have one, which has to be looked for."""
    folds: NDArray[np.uint64] = np.uint64(0)  # type: ignore[assignment]
    for column in columns:
        for part in as_numbers(column):
            folds = (folds ^ part.astype(np.uint64)) * _ODD
            folds ^= folds >> np.uint64(32)
    return folds


class VisitFlow(NamedTuple):
    """One flow in a window. `key`: its 5-tuple as `KEY` packs it. `start_ns`: 0 where the kernel
    does not say. `end_ns`: when it ended; NEVER while it is open. `next_ns`: start of the next flow
    on the same 5-tuple; NEVER without one. `inbound`: somebody outside opened it. `deltas`: how
    many there were of it, seen from `first_seen_ns` to `last_seen_ns`. `host`: which led to it.
    """

    key: bytes
    start_ns: int
    end_ns: int
    next_ns: int
    inbound: bool
    first_seen_ns: int
    last_seen_ns: int
    up_bytes: int
    down_bytes: int
    deltas: int
    host: int


def visit_flows(deltas: NDArray[Any], hosts: Hosts) -> Iterator[VisitFlow]:
    """The flows of a window's deltas (with the fields of NO_DELTAS), by their start."""
    order = np.argsort(deltas["start_ns"], kind="stable")
    # Column by column, as numpy is slow at picking from structured arrays.
    told = {name: deltas[name][order] for name in NO_DELTAS.dtype.names or ()}
    packed = np.empty(len(order), _FLOW_DTYPE)
    for name in _FLOW_DTYPE.names or ():
        packed[name] = told[name]
    places: dict[bytes, int] = {}
    whole: list[bytes] = packed.view(f"V{_FLOW_DTYPE.itemsize}").tolist()
    at = np.array([places.setdefault(flow, len(places)) for flow in whole], np.intp)
    size = len(places)

    first, last = np.full(size, NEVER, np.int64), np.zeros(size, np.int64)
    np.minimum.at(first, at, told["seen_ns"])
    np.maximum.at(last, at, told["seen_ns"])
    up, down = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    np.add.at(up, at, told["up_bytes"])
    np.add.at(down, at, told["down_bytes"])
    start, inbound = np.zeros(size, np.int64), np.zeros(size, np.bool_)
    start[at] = told["start_ns"]
    inbound[at] = told["inbound"]
    end = np.full(size, NEVER, np.int64)
    ended = told["ended"]
    end[at[ended]] = told["seen_ns"][ended]

    keys = [flow[: KEY.size] for flow in places]
    starts: list[int] = start.tolist()
    host = np.zeros(size, np.uint32)
    earliest = told["seen_ns"] == first[at]
    host[at[earliest]] = hosts[order][earliest]
    columns = (first, last, up, down, np.bincount(at, minlength=size), host)
    return starmap(
        VisitFlow,
        zip(
            keys,
            starts,
            end.tolist(),
            _next_starts(keys, starts),
            inbound.tolist(),
            *(column.tolist() for column in columns),
            strict=True,
        ),
    )


def _next_starts(keys: list[bytes], starts: list[int]) -> list[int]:
    """For each flow the start of the next one on the same 5-tuple, else NEVER; they are in order
    of start."""
    latest: dict[bytes, int] = {}
    following = []
    for key, start in zip(reversed(keys), reversed(starts), strict=True):
        following.append(latest.get(key, NEVER))
        latest[key] = start
    following.reverse()
    return following
