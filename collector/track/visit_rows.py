"""Names on flows into the visit rows of one window."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.groups import grouped, reduced
from collector.track.host_pool import HostPool
from collector.track.inside import bases, is_mapped
from collector.track.narrow import Narrow
from collector.track.visit_flows import KEY_DTYPE, begun_ns
from collector.track.visit_names import Name
from collector.wire.columns import Columns
from collector.wire.record_ids import id_column
from collector.wire.records import VISIT, VISIT_ECH

_EVIDENCE: Final = ("dns", "http", "quic", "tls")
_RANKS: Final = {evidence: rank for rank, evidence in enumerate(_EVIDENCE)}
"""Where a row has several, the strongest is told."""

_KEY: Final = KEY_DTYPE.names or ()
_SIGHT: Final = struct.Struct("=37sIB??qqQQI")
_SIGHT_DTYPE: Final = np.dtype(
    [
        ("key", KEY_DTYPE),
        ("host", "u4"),
        ("rank", "u1"),
        ("ech", "?"),
        ("new", "?"),
        ("first_ns", "i8"),
        ("last_ns", "i8"),
        ("up_bytes", "u8"),
        ("down_bytes", "u8"),
        ("deltas", "u4"),
    ]
)
"""A name on a flow in this window, packed: 80 bytes, where Python's objects take 500. `host` is its
number in the pool."""
_FLAT_DTYPE: Final = np.dtype(
    [
        *((name, KEY_DTYPE[name].newbyteorder("=")) for name in _KEY),
        *((name, _SIGHT_DTYPE[name]) for name in (_SIGHT_DTYPE.names or ())[1:]),
    ]
)
"""The same as columns."""
_ROW: Final = ("client", "server", "server_port", "protocol", "client_port", "host")
"""What tells rows apart, the client being the base of the subscriber's prefix; without the client's
port where connections are not told apart."""
_CHUNK: Final = 4_096
"""Sights put away at a time: what is Python's objects meanwhile is a few MB."""


@dataclass(frozen=True, slots=True)
class RowForm:
    """Visits of [start_ns, end_ns). `by_connection`: a row for each connection, with the
    subscriber's port."""

    start_ns: int
    end_ns: int
    ipv6_prefix_len: int
    by_connection: bool = False


class VisitRows:
    """The visits of a window: `add` each name on each flow, then `columns`, once."""

    def __init__(self, form: RowForm, pool: HostPool) -> None:
        self._form, self._pool = form, pool
        self._loose = bytearray()
        self._chunks: list[Narrow] = []
        self.handshakes = 0
        """Names from handshakes that were counted for the first time."""
        self.volume = 0
        self.deltas = 0
        self.idle_deltas = 0
        """Bytes and deltas in rows, and deltas whose row was left out; known after `columns`."""

    def add(
        self, key: bytes, name: Name, first_ns: int, up: int = 0, down: int = 0, deltas: int = 0
    ) -> None:
        """A name on a flow from `first_ns` to its last sight, counted if it was not yet.

        `up` and `down`: bytes of the flow that are this name's, from so many `deltas`.
        """
        rank = _RANKS[name.evidence]
        host = self._pool.number(name.host)
        new = not name.counted
        self.handshakes += new and rank > 0
        self._loose += _SIGHT.pack(
            key, host, rank, name.ech, new, first_ns, name.last_ns, up, down, deltas
        )
        name.counted = True
        name.pending = False
        if len(self._loose) >= _CHUNK * _SIGHT.size:
            self._put_away()

    def add_ended(self, deltas: NDArray[Any], hosts: NDArray[np.uint32]) -> None:
        """The same for new connections that DNS named, of one delta (as in NO_DELTAS) each."""
        if not len(deltas):
            return
        self._put_away()
        sights = np.zeros(len(deltas), _FLAT_DTYPE)
        for name in (*_KEY, "up_bytes", "down_bytes"):
            sights[name] = deltas[name]
        sights["host"], sights["new"], sights["deltas"] = hosts, True, 1
        sights["first_ns"] = begun_ns(deltas)
        sights["last_ns"] = np.maximum(sights["first_ns"], deltas["seen_ns"])
        self._keep(sights)

    def columns(self, now_ns: int) -> Columns:
        """The record columns. A row with no new connection and no bytes says nothing, and is not
        written: it comes of a flow's end, which mostly moved nothing since the delta before."""
        self._put_away()
        firsts, rank, numbers = self._reduced()
        rows = {name: self._column(name)[firsts] for name in _ROW}
        self._chunks = []
        evidence = [_EVIDENCE[each] for each in rank.tolist()]
        return {**self._keys(rows, now_ns), "evidence": evidence, **numbers}

    def _reduced(self) -> tuple[NDArray[np.intp], NDArray[np.uint8], dict[str, Any]]:
        """Of each row its first sight, the rank of its evidence, and its numbers.

        Columns of sights live no longer than their own reduction: a million take 8 MB each.
        """
        start_ns, end_ns = self._form.start_ns, self._form.end_ns
        order, begins = grouped(lambda: map(self._column, _ROW))

        def over(how: np.ufunc, column: NDArray[Any], kind: type = np.int64) -> NDArray[Any]:
            return reduced(how, column[order].astype(kind, copy=False), begins)

        connections = over(np.add, self._column("new"), np.uint32)
        up = over(np.add, self._column("up_bytes"), np.uint64)
        down = over(np.add, self._column("down_bytes"), np.uint64)
        told = (connections > 0) | (up > 0) | (down > 0)
        self.volume = int(up.sum()) + int(down.sum())
        deltas = over(np.add, self._column("deltas"))
        self.deltas, self.idle_deltas = int(deltas[told].sum()), int(deltas[~told].sum())
        del deltas

        # Rows are in the order of their first sight, as order within a group is.
        firsts = order[begins]
        shown = np.argsort(firsts)
        shown = shown[told[shown]]
        firsts = firsts[shown]
        numbers = {"connections": connections[shown], "up_bytes": up[shown]}
        numbers["down_bytes"] = down[shown]
        del connections, up, down
        first_ns = np.clip(self._column("first_ns"), start_ns, end_ns - 1)
        numbers["first_ns"] = over(np.minimum, first_ns)[shown]
        last_ns = np.clip(self._column("last_ns"), first_ns, end_ns - 1)
        del first_ns
        numbers["last_ns"] = over(np.maximum, last_ns)[shown]
        del last_ns
        ech = over(np.logical_or, self._column("ech"), np.bool_)[shown]
        numbers["flags"] = np.where(ech, np.uint32(VISIT_ECH), np.uint32(0))
        rank = over(np.maximum, self._column("rank"), np.uint8)[shown]
        return firsts, rank, numbers

    def _put_away(self) -> None:
        """Sights that were added one by one, as columns."""
        if self._loose:
            packed = np.frombuffer(bytes(self._loose), _SIGHT_DTYPE)
            self._loose.clear()
            sights = np.empty(len(packed), _FLAT_DTYPE)
            for name in _FLAT_DTYPE.names or ():
                sights[name] = packed["key"][name] if name in _KEY else packed[name]
            self._keep(sights)

    def _keep(self, sights: NDArray[Any]) -> None:
        """Keeps sights, of their clients what tells rows apart."""
        sights["client"] = bases(sights["client"], self._form.ipv6_prefix_len)
        if not self._form.by_connection:
            sights["client_port"] = 0
        self._chunks.append(Narrow(sights))

    def _column(self, name: str) -> NDArray[Any]:
        """One column of all sights."""
        none = np.zeros(0, _FLAT_DTYPE[name])
        return np.concatenate([none, *(chunk.column(name) for chunk in self._chunks)])

    def _keys(self, rows: dict[str, NDArray[Any]], now_ns: int) -> dict[str, Any]:
        """The columns that tell rows apart, and the ids made of them."""
        size = len(rows["client"])
        is_short = is_mapped(rows["client"])
        keys: dict[str, Any] = {
            "start_ns": np.broadcast_to(np.int64(self._form.start_ns), size),
            "address": rows["client"],
            "prefix_len": np.where(is_short, 128, self._form.ipv6_prefix_len).astype(np.uint8),
            "host": self._pool.names(rows["host"]),
            **{name: rows[name] for name in ("server", "server_port", "protocol", "client_port")},
        }
        return {
            "record_id": id_column(VISIT.name, [keys[name] for name in VISIT.key]),
            "observed_ns": np.broadcast_to(np.int64(now_ns), size),
            "end_ns": np.broadcast_to(np.int64(self._form.end_ns), size),
            **keys,
        }
