"""Stored bindings, sessions, mappings, gaps and the ledger in, evidence for one look-up out.

Every statement names the key's first columns and the days, so it reads a few granules however much
is stored. What was destroyed, and what was not delivered yet, is a loss like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Final, Protocol

from aggregator.queries import lookup_sql as sql
from aggregator.queries.arithmetic import DAY_US
from aggregator.queries.evidence import FOREVER, Holding, Lost, Question
from aggregator.queries.evidence import Mapping as Translation
from aggregator.queries.reading import FINAL_BY_PARTITION, Reader, Row, rows_of, span
from aggregator.store.closed import FIRST_OPEN
from aggregator.store.schema import RECORD_TABLES
from collector.wire.addr import MAPPED, network

BLOCK_DAYS: Final = 31
"""How long before and after a time the messages about a port block that was held then may be."""
RETIRED_DAYS: Final = 32
"""A collector that delivered nothing for so long on either side of a time is out of use then."""
MAX_ROWS: Final = 20_000
"""Rows of one statement; what has more cannot be one address and port at one time."""
_LENGTHS: Final = {True: range(120, 129), False: range(24, 129)}
"""Lengths of prefixes that are looked for: IPv4 /24 to /32 (in 128 bits), of which collectors write
/32 only, and IPv6 /24 to /128. Each length is one more place in the key to read at, so IPv4's are
those that lie beside one another."""
_CLASSES: Final = ("binding", "mapping")


class TooMany(ValueError):
    """More rows than an answer is made of; the question cannot be answered as it is."""


class Kept(Protocol):
    """Rows beside the live tables that a look-up may be told of."""

    def tables(self, record_class: str) -> Sequence[str]:
        """The tables with their databases, in the order in which they have to be read. A record
        may be in several, and in several versions."""

    def more(self, record_class: str) -> Sequence[str]:
        """Columns that `told` needs."""

    def told(self, record_class: str, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows that may be told of, in their newest versions."""


class StoreEvidence:
    """What one look-up reads: the live tables, or what is `kept` beside them. One instance a
    look-up: who delivered until when is asked once."""

    def __init__(self, client: Reader, kept: Kept | None = None) -> None:
        self._client = client
        self._kept = kept
        self._marks: dict[str, int] = {}

    # Mappings

    def mappings(self, question: Question, from_us: int, to_us: int) -> list[Translation]:
        """Flows that meet [from, to), and every block of the port around that time."""
        where = {
            "public": question.address.hex(),
            "port": question.port,
            "protocol": question.protocol or 0,
            "any": int(question.protocol is None),
        }
        flows = span(from_us, to_us + DAY_US // 288)
        blocks = span(from_us - BLOCK_DAYS * DAY_US, to_us + BLOCK_DAYS * DAY_US)
        found = [
            *self._read("mapping", sql.FLOWS, {**where, **flows, "start": from_us, "end": to_us}),
            *self._read("mapping", sql.BLOCKS, {**where, **blocks, "start": from_us, "end": to_us}),
        ]
        told = [_translation(rows) for rows in _grouped(found, "record_id")]
        return [replace(each, is_held=True) for each in told] if self._kept else told

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        """Inside addresses with a mapping on the address in [from, to); None without any."""
        where = {
            "public": address.hex(),
            **span(from_us, to_us + BLOCK_DAYS * DAY_US),
            "start": from_us,
            "end": to_us,
        }
        found = self._client.query_columns(sql.SHARERS, where)
        return sum(map(int, found["inside"])) or None  # of every shard

    # Bindings

    def holdings(self, address: bytes, from_us: int, to_us: int) -> list[Holding]:
        """Sessions that held the address or a prefix of it on the days of [from, to)."""
        lengths = _LENGTHS[address[:12] == MAPPED]
        bases = {network(address, length): length for length in lengths}
        where = {
            **span(from_us, to_us),
            "collectors": sorted(self._collectors(from_us, to_us)) or [""],
            "bases": [base.hex() for base in bases],
        }
        bindings = [
            row
            for row in self._read("binding", sql.BINDINGS, where)
            if row["prefix_len"] in lengths
            and network(address, row["prefix_len"]) == row["address"]
            and row["valid_to_us"] != row["valid_from_us"]  # withdrawn
        ]
        if not bindings:
            return []
        sessions = self._sessions(bindings, where)
        joined = _grouped(bindings, "collector", "session_id", "address", "prefix_len")
        told = [
            _holding(part, sessions.get(rows[0]["session_id"], []))
            for rows in joined
            for part in _unbroken(rows)
        ]
        return [replace(each, is_held=True) for each in told] if self._kept else told

    def _sessions(
        self, bindings: Sequence[Row], where: Mapping[str, Any]
    ) -> dict[bytes, list[Row]]:
        subscribers = sorted({row["subscriber"] for row in bindings})
        ids = sorted({row["session_id"].hex() for row in bindings})
        found: dict[bytes, list[Row]] = {}
        named = {**where, "subscribers": subscribers, "ids": ids}
        for row in self._read("session", sql.SESSIONS, named):
            found.setdefault(row["session_id"], []).append(row)
        return found

    # Losses

    def losses(self, from_us: int, to_us: int) -> list[Lost]:
        """Gaps of bindings and mappings, windows not delivered, and what was destroyed."""
        found = [
            Lost(name, row["collector"], row["start_us"], max(row["end_us"], row["start_us"] + 1),
                 f"{row['stage']}:{row['reason']}")
            for row in self._rows(sql.GAPS, span(from_us, to_us))
            for name in _CLASSES
            if name in row["classes"].split(",")
        ]  # fmt: skip
        for collector, mark in self._collectors(from_us, to_us).items():
            if mark < to_us:
                found += [
                    Lost(name, collector, mark, FOREVER, "not-delivered") for name in _CLASSES
                ]
        closed = self._client.query_columns(FIRST_OPEN, {})
        for name, first in zip(closed["record_class"], closed["first"], strict=True):
            if name in _CLASSES and (until := _first_instant(int(first))) > from_us:
                found.append(Lost(name, "", 0, until, "destroyed"))
        return found

    def _collectors(self, from_us: int, to_us: int) -> dict[str, int]:
        """Collectors in use around that time, and the end of what each delivered about it."""
        if not self._marks:
            around = RETIRED_DAYS * DAY_US
            where = span(from_us - around, to_us + around)
            found = self._client.query_columns(sql.MARKS, where)
            for name, mark in zip(found["collector"], found["mark"], strict=True):
                self._marks[name] = max(mark, self._marks.get(name, 0))
        return self._marks

    def arrived(self, batches: Iterable[bytes], from_us: int) -> dict[bytes, int]:
        """When each batch was received, by the aggregator's clock, in microseconds."""
        wanted = sorted({each.hex() for each in batches})
        if not wanted:
            return {}
        where = {**span(from_us, FOREVER), "batches": wanted}
        found = self._client.query_columns(sql.ARRIVED, where)
        return dict(zip(found["batch"], found["received"], strict=True))

    def _read(self, record_class: str, condition: str, where: Mapping[str, Any]) -> list[Row]:
        """Rows of a class, in the order of its key, from the live table or what is kept."""
        found = self._stored(record_class, condition, where)
        return sorted(found, key=itemgetter(*sql.ORDER[record_class]))

    def _stored(self, record_class: str, condition: str, where: Mapping[str, Any]) -> list[Row]:
        columns = sql.COLUMNS[record_class]
        if self._kept is None:
            final = RECORD_TABLES[record_class].replacing
            source = f"{record_class} FINAL" if final else record_class
            settings = FINAL_BY_PARTITION if final else None
            text = f"SELECT {', '.join(columns)} FROM {source} {condition}"
            return self._rows(text, where, settings)
        columns = tuple(dict.fromkeys((*columns, *self._kept.more(record_class))))
        rows = [
            row
            for source in self._kept.tables(record_class)
            for row in self._rows(f"SELECT {', '.join(columns)} FROM {source} {condition}", where)
        ]
        return self._kept.told(record_class, rows)

    def _rows(
        self, text: str, where: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[Row]:
        found = list(rows_of(self._client, f"{text}\nLIMIT {MAX_ROWS + 1}", where, settings))
        if len(found) > MAX_ROWS:
            raise TooMany("too much is stored about this address and time to tell anybody apart")
        return found


def _grouped(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _unbroken(slices: list[Row]) -> list[list[Row]]:
    """Slices in runs without a hole: a session may leave an address and come back to it."""
    runs = [[slices[0]]]
    for each in slices[1:]:
        if each["valid_from_us"] == runs[-1][-1]["valid_to_us"]:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _translation(versions: list[Row]) -> Translation:
    """One mapping of all that was told of it: proven until the latest of its ends."""
    newest = max(versions, key=lambda row: (row["end_us"], row["observed_us"]))
    end = max(newest["end_us"], newest["start_us"])
    return Translation(
        newest["record_id"].hex(),
        newest["kind"],
        newest["collector"],
        newest["inside_address"],
        newest["inside_port"],
        newest["protocol"],
        newest["port_first"],
        newest["port_last"],
        newest["start_us"],
        end,
        newest["kind"] == "block" and end <= newest["start_us"] + 1,
        tuple(dict.fromkeys(row["batch"] for row in versions)),
    )


def _holding(slices: list[Row], sessions: Sequence[Row]) -> Holding:
    """Day slices of one session on one prefix as one holding, with what its session proves.

    A binding closed while its session went on was closed by an update that named another address,
    so it is proven only until the update before, of which nothing is known: its begin.
    """
    first, last = slices[0], max(slices, key=lambda row: row["valid_from_us"])
    proof = max((row["end_min_us"] for row in sessions), default=first["valid_from_us"])
    latest = last["valid_to_us"] or FOREVER
    newest = max(sessions, key=lambda row: row["slice_start_us"], default=None)
    ended = newest is not None and newest["slice_end_us"] != 0 and newest["end_reason"] != ""
    is_inferred = newest is not None and newest["end_reason"].startswith("inferred:")
    at_midnight = latest % DAY_US == 0 and latest != FOREVER
    if newest is not None and latest <= proof and not at_midnight:
        moved = not ended or latest < newest["end_min_us"]
        proof = first["valid_from_us"] if moved else latest
    if is_inferred and newest is not None:
        latest = newest["end_max_us"] or FOREVER
    stated = newest is not None and newest["start_source"] == "stated"
    certain = all(row["certainty"] == "certain" for row in slices)
    return Holding(
        tuple(row["record_id"].hex() for row in slices),
        first["collector"],
        first["subscriber"],
        first["session_id"].hex(),
        first["address"],
        first["prefix_len"],
        min(row["valid_from_us"] for row in slices),
        min(proof, latest),
        latest,
        newest is not None and (certain or (stated and is_inferred)),
        newest["nas"] if newest else "",
        newest["line"] if newest else "",
        newest["acct_session_id"] if newest else "",
        newest["end_reason"] if newest else "",
        last["source"],
        tuple(dict.fromkeys(row["batch"] for row in (*slices, *sessions))),
    )


def _first_instant(partition: int) -> int:
    """The first instant of a daily partition such as 20261122; 0 for none."""
    if partition < 19_700_101:
        return 0
    day = dt.date(partition // 10_000, partition // 100 % 100, partition % 100)
    return (day - dt.date(1970, 1, 1)).days * DAY_US
