"""Names on flows into the visit rows of one window."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.visit_flows import KEY_DTYPE
from collector.track.visit_names import Name
from collector.wire.addr import MAPPED, network
from collector.wire.columns import Columns
from collector.wire.record_ids import record_ids
from collector.wire.records import VISIT, VISIT_ECH

_EVIDENCE: Final = ("dns", "http", "quic", "tls")
_RANKS: Final = {evidence: rank for rank, evidence in enumerate(_EVIDENCE)}
"""Where a row has several, the strongest is told."""

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
"""A name on a flow in this window, packed: 80 bytes, where Python's objects take 500."""
_ROW_DTYPE: Final = np.dtype(
    [
        ("address", "V16"),
        ("server", "V16"),
        ("server_port", "u2"),
        ("protocol", "u1"),
        ("client_port", "u2"),
        ("host", "u4"),
    ]
)
"""What tells rows apart. `address` is the base of the subscriber's prefix, `host` a number;
`client_port` is 0 where connections are not told apart."""


class VisitRows:
    """The visits of the window [start_ns, end_ns): `add` each name on each flow, then `columns`.

    `by_connection`: a row for each connection, with the subscriber's port.
    """

    def __init__(
        self, start_ns: int, end_ns: int, ipv6_prefix_len: int, by_connection: bool = False
    ) -> None:
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._ipv6_prefix_len = ipv6_prefix_len
        self._by_connection = by_connection
        self._sights = bytearray()
        self._hosts: dict[str, int] = {}
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
        host = self._hosts.setdefault(name.host, len(self._hosts))
        new = not name.counted
        self.handshakes += new and rank > 0
        self._sights += _SIGHT.pack(
            key, host, rank, name.ech, new, first_ns, name.last_ns, up, down, deltas
        )
        name.counted = True
        name.pending = False

    def add_ended(
        self, deltas: NDArray[Any], began_ns: NDArray[np.int64], hosts: list[str]
    ) -> None:
        """The same for new connections that DNS named, of one delta (as in NO_DELTAS) each."""
        sights = np.zeros(len(deltas), _SIGHT_DTYPE)
        for name in KEY_DTYPE.names or ():
            sights["key"][name] = deltas[name]
        numbers = self._hosts
        sights["host"] = [numbers.setdefault(host, len(numbers)) for host in hosts]
        sights["new"], sights["deltas"] = True, 1
        sights["first_ns"] = began_ns
        sights["last_ns"] = np.maximum(began_ns, deltas["seen_ns"])
        for name in ("up_bytes", "down_bytes"):
            sights[name] = deltas[name]
        self._sights += sights.tobytes()

    def columns(self, now_ns: int) -> Columns:
        """The record columns. A row with no new connection and no bytes says nothing, and is not
        written: it comes of a flow's end, which mostly moved nothing since the delta before."""
        packed = np.frombuffer(bytes(self._sights), _SIGHT_DTYPE)
        sights = {name: packed[name].copy() for name in _SIGHT_DTYPE.names or ()}
        rows, at = self._rows(sights)
        size = len(rows)
        first = np.full(size, self._end_ns, np.int64)
        last = np.zeros(size, np.int64)
        begun = np.clip(sights["first_ns"], self._start_ns, self._end_ns - 1)
        np.minimum.at(first, at, begun)
        np.maximum.at(last, at, np.clip(sights["last_ns"], begun, self._end_ns - 1))
        rank, ech = np.zeros(size, np.uint8), np.zeros(size, np.bool_)
        np.maximum.at(rank, at, sights["rank"])
        np.logical_or.at(ech, at, sights["ech"])
        connections, deltas = np.zeros(size, np.uint32), np.zeros(size, np.int64)
        np.add.at(connections, at, sights["new"])
        np.add.at(deltas, at, sights["deltas"])
        up, down = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        np.add.at(up, at, sights["up_bytes"])
        np.add.at(down, at, sights["down_bytes"])

        self.volume = int(up.sum()) + int(down.sum())
        told = (connections > 0) | (up > 0) | (down > 0)
        self.deltas, self.idle_deltas = int(deltas[told].sum()), int(deltas[~told].sum())
        numbers = {
            "first_ns": first[told],
            "last_ns": last[told],
            "connections": connections[told],
            "up_bytes": up[told],
            "down_bytes": down[told],
            "flags": np.where(ech[told], VISIT_ECH, 0).astype(np.uint32),
        }
        evidence = [_EVIDENCE[each] for each in rank[told].tolist()]
        return {**self._keys(rows[told], now_ns), "evidence": evidence, **numbers}

    def _rows(self, sights: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """The distinct rows, and the place of each sight's among them."""
        clients = sights["key"]["client"].tolist()
        bases = {client: network(client, self._length(client)) for client in set(clients)}
        packed = np.empty(len(clients), _ROW_DTYPE)
        packed["address"] = np.frombuffer(b"".join(map(bases.__getitem__, clients)), "V16")
        packed["host"] = sights["host"]
        for name in ("server", "server_port", "protocol"):
            packed[name] = sights["key"][name]
        packed["client_port"] = sights["key"]["client_port"] if self._by_connection else 0
        places: dict[bytes, int] = {}
        whole = packed.view(f"V{_ROW_DTYPE.itemsize}").tolist()
        at = np.array([places.setdefault(row, len(places)) for row in whole], np.intp)
        return np.frombuffer(b"".join(places), _ROW_DTYPE), at

    def _keys(self, rows: NDArray[Any], now_ns: int) -> dict[str, Any]:
        """The columns that tell rows apart, and the ids made of them."""
        size = len(rows)
        hosts = list(self._hosts)
        keys = {
            "start_ns": [self._start_ns] * size,
            "address": rows["address"].tolist(),
            "prefix_len": [self._length(address) for address in rows["address"].tolist()],
            "host": [hosts[number] for number in rows["host"].tolist()],
            "server": rows["server"].tolist(),
            "server_port": rows["server_port"].tolist(),
            "protocol": rows["protocol"].tolist(),
            "client_port": rows["client_port"].tolist(),
        }
        return {
            "record_id": record_ids(VISIT.name, *(keys[name] for name in VISIT.key)),
            "observed_ns": np.full(size, now_ns, np.int64),
            "end_ns": np.full(size, self._end_ns, np.int64),
            **keys,
        }

    def _length(self, address: bytes) -> int:
        return 128 if address[:12] == MAPPED else self._ipv6_prefix_len
