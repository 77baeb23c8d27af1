"""A day of visits as ingest stores it, and the orders that hold a thousandth of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from aggregator.store.blocks import constant
from aggregator.store.client import MAX_BLOCK_ROWS
from aggregator.store.schema import RECORD_TABLES
from collector.wire.addr import pack
from retention.model import Approval, Hold, Kind, Place, ScopeItem, State
from retention.policy.partitions import span

PLACE: Final = Place("visit", 20261122)
VISITS_A_LINE: Final = 1000
HELD_SHARE: Final = 1000
"""One line in so many is held."""
_HOLDS: Final = 10
_HOSTS: Final = 50_000
_SERVERS: Final = 20_000

By: TypeAlias = Literal["subscriber", "address"]
Values: TypeAlias = np.ndarray[Any, Any]


def subscriber(line: int) -> str:
    """Opaque reference of a line."""
    return f"sub-{line:08d}"


def address(line: int) -> str:
    """The public address of a line."""
    return f"100.{64 + line // 65536}.{line // 256 % 256}.{line % 256}"


def held_lines(rows: int) -> list[int]:
    """The lines that are held, spread over all."""
    lines = rows // VISITS_A_LINE
    return list(range(HELD_SHARE // 2, lines, HELD_SHARE))


def blocks(rows: int, seed: int = 1) -> Iterator[dict[str, Values]]:
    """A day's visits as ingest writes them: all lines in each five minutes, one after another.

    Hosts are drawn by Zipf's law from names of 12 to 60 characters, bytes are log-normal.
    """
    random = np.random.default_rng(seed)
    lines = rows // VISITS_A_LINE
    names = np.array([subscriber(n).encode() for n in range(lines)], dtype=object)
    addresses = np.array([np.void(pack(address(n))) for n in range(lines)], dtype="V16")
    hosts = np.array([_host(random, n).encode() for n in range(_HOSTS)], dtype=object)
    servers = np.frombuffer(random.bytes(16 * _SERVERS), "V16")
    start, end = span(PLACE)
    for first in range(0, rows, MAX_BLOCK_ROWS):
        count = min(rows, first + MAX_BLOCK_ROWS) - first
        line = np.arange(first, first + count) % lines
        host = np.minimum(random.zipf(1.3, count) - 1, _HOSTS - 1)
        at = start + (end - start) * first // rows + random.integers(0, 300_000_000, count)
        yield _block(random, np.minimum(at, end - 1)) | {
            "subscriber": names[line],
            "address": addresses[line],
            "host": hosts[host],
            "server": servers[host % _SERVERS],
        }


def _host(random: np.random.Generator, number: int) -> str:
    labels = ("www", "cdn", "api", "static.assets", "edge-chat", "video-lhr3-1.xx")
    middle = "".join(chr(97 + int(each)) for each in random.integers(0, 26, 4 + number % 20))
    return f"{labels[number % len(labels)]}.{middle}.example"


def _block(random: np.random.Generator, starts: Values) -> dict[str, Values]:
    """All columns but those that `blocks` gives."""
    rows = len(starts)
    lasted = random.integers(1_000, 600_000_000, rows)
    made: dict[str, Values] = {}
    for name, kind in RECORD_TABLES["visit"].columns:
        if name == "batch":
            made[name] = constant(random.bytes(16), rows)
        elif kind == "FixedString(16)":
            made[name] = np.frombuffer(random.bytes(16 * rows), "V16")
        elif kind == "String":
            text = {"reason": b"", "evidence": b"tls-sni"}.get(name, b"edge-router-1")
            made[name] = constant(text, rows)
        elif name.endswith("_us"):
            made[name] = starts + (0 if name in ("start_us", "first_us") else lasted)
        elif name.endswith("_bytes"):
            made[name] = random.lognormal(9, 2, rows).astype(np.uint64)
        else:
            most = {"prefix_len": 128, "server_port": 443, "protocol": 6, "schema_version": 1}
            width = np.dtype(kind.lower())
            value = random.integers(1, 4, rows) if name == "connections" else most.get(name, 0)
            made[name] = np.full(rows, value).astype(width)
    return made


def holds(rows: int, by: By) -> list[Hold]:
    """Ten orders, each on a tenth of the held lines, for the whole day."""
    who = Approval("bench", "legal-requester", 0)
    lines = held_lines(rows)
    return [
        Hold(
            id=f"H-2026-{number:04d}",
            matter="bench",
            basis="court-order",
            authority="bench",
            reference="bench",
            order_sha256="",
            served_us=0,
            requested=who,
            scope=tuple(_item(line, by) for line in lines[number::_HOLDS]),
            state=State.PRESERVED,
        )
        for number in range(min(_HOLDS, len(lines)))
    ]


def _item(line: int, by: By) -> ScopeItem:
    kind, value = Kind.SUBSCRIBER, subscriber(line)
    if by == "address":
        kind, value = Kind.ADDRESS, f"{address(line)}/32"
    return ScopeItem(kind, value, *span(PLACE), ("visit",))
