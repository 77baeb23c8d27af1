"""Canaries in, where anything of them was left out: files, batches, columns, a live process.

A canary is a name or an address that is used for blocked look-ups only, and by nobody else. It is
looked for as text, as packed bytes, and a name also in the form that DNS messages have it in.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aggregator.store.errors import StoreError
from collector.wire import codec
from collector.wire.addr import pack
from collector.wire.batch import BatchError
from safeguard.search import find
from safeguard.stored import Reader

MAX_CANARIES: Final = 10_000
MIN_NAME: Final = 12
"""Characters: what is shorter stands in every memory by chance."""
_CHUNK: Final = 16 * 2**20
_OVERLAP: Final = 512
_MAX_MEMORY: Final = 64 * 2**30
_REGION: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)")
_ACCESS_DENIED: Final = 497
_SKIPPED: Final = ("[vvar]", "[vsyscall]", "[vdso]")

_STRINGS: Final = """
SELECT table, name, type FROM system.columns
WHERE database = %(database)s AND (type IN ('String', 'FixedString(16)')
    OR type = 'LowCardinality(String)')"""


class CanaryError(ValueError):
    """A file that lists no canaries."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Names in lower case, and addresses of 16 bytes."""

    names: tuple[str, ...] = ()
    addresses: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Canaries:
        """A file of `{"names": […], "addresses": […]}`; raises CanaryError or OSError."""
        try:
            plain = json.loads(path.read_text())
            names = tuple(str(name).lower().rstrip(".") for name in plain["names"])
            addresses = tuple(pack(str(each)) for each in plain["addresses"])
        except (ValueError, KeyError, TypeError) as error:
            raise CanaryError(f"{path}: names and addresses expected") from error
        if not 1 <= len(names) + len(addresses) <= MAX_CANARIES:
            raise CanaryError(f"{path}: 1 to {MAX_CANARIES} canaries expected")
        if any(len(name) < MIN_NAME or not name.isascii() for name in names):
            raise CanaryError(f"{path}: a canary's name has {MIN_NAME} characters or more")
        return cls(names, addresses)

    def needles(self) -> list[bytes]:
        """Everything to look for in bytes."""
        found: list[bytes] = []
        for name in self.names:
            labels = name.encode().split(b".")
            dns = b"".join(bytes([len(label)]) + label for label in labels)
            # The first label alone: it is what is unique, and a parser has it apart.
            found += [name.encode(), dns, name.encode("utf-16-le"), labels[0]]
        for address in self.addresses:
            text = str(_plain(address))
            found += [text.encode(), address, address.hex().encode()]
        return [needle for needle in dict.fromkeys(found) if len(needle) >= 7]


def files(places: Iterable[Path], canaries: Canaries) -> list[str]:
    """Files that hold a canary: raw, inside column files, inside batches."""
    needles, found = canaries.needles(), set[str]()
    listed = [path for path in places if path.exists()]
    for paths in find(listed, needles).values():
        found.update(f"{path.name}: a canary" for path in paths)
    for path in _all(listed):
        if path.suffix == ".batch" and batch(path.read_bytes(), needles):
            found.add(f"{path.name}: a canary in its rows")
    return sorted(found)


def batch(data: bytes, needles: Sequence[bytes]) -> bool:
    """Whether the rows of a batch hold one; bytes that are no batch hold none by that."""
    with suppress(BatchError):
        _, batches = codec.decode(data)
        for rows in batches.values():
            for column in rows.columns:
                for buffer in column.buffers():
                    if buffer is not None and any(n in buffer.to_pybytes() for n in needles):
                        return True
    return False


def columns(client: Reader, database: str, canaries: Canaries) -> list[str]:
    """Columns of the tables that hold a canary. The statements name them: they are of nobody."""
    listed = client.query_columns(_STRINGS, {"database": database})
    found = []
    for table, name, kind in zip(*listed.values(), strict=True):
        if kind == "FixedString(16)":
            values = [f"unhex('{address.hex()}')" for address in canaries.addresses]
            test = f"`{name}` IN ({', '.join(values)})" if values else ""
        else:
            texts = [*canaries.names, *(str(_plain(each)) for each in canaries.addresses)]
            quoted = (f"position(`{name}`, {_quoted(text)}) > 0" for text in texts)
            test = " OR ".join(quoted)
        if test and _any(client, table, test):
            found.append(f"{table}.{name}: a canary")
    return found


def memory(pid: int, canaries: Canaries) -> list[str]:
    """What of them is in a live process's memory: by kind of region and number of places.

    Raises OSError where it may not be read: only root can.
    """
    needles = canaries.needles()
    found: dict[str, int] = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for start, end, name in _regions(pid):
            for data in _pieces(mem, start, end):
                for needle in needles:
                    if needle in data:
                        found[name] = found.get(name, 0) + data.count(needle)
    return [f"{name or 'anonymous memory'}: {count} places" for name, count in found.items()]


def dumpable(pid: int) -> list[str]:
    """What would let the memory of a process reach a disk or another process."""
    found = []
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size") and line.split()[4:6] != ["0", "0"]:
            found.append("a core of the process can be dumped")
    return found


def _plain(address: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.IPv6Address(address)
    return found.ipv4_mapped or found


def _quoted(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", text):
        raise CanaryError("a canary has letters, digits, dots, colons and hyphens")
    return f"'{text}'"


def _any(client: Reader, table: str, test: str) -> bool:
    try:
        answer: dict[str, list[Any]] = client.query_columns(
            f"SELECT count() AS n FROM `{table}` WHERE {test}", {}
        )
    except StoreError as error:
        if error.code != _ACCESS_DENIED:
            raise
        return False  # not this user's to read: the files are looked into all the same
    return bool(answer["n"][0])


def _all(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from [place] if place.is_file() else sorted(place.rglob("*"))


def _regions(pid: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of what a process has mapped and can read."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = _REGION.fullmatch(line)
        if match and match[3].startswith("r") and match[4] not in _SKIPPED:
            yield int(match[1], 16), int(match[2], 16), Path(match[4]).name or match[4]


def _pieces(mem: Any, start: int, end: int) -> Iterator[bytes]:
    """A region in pieces that overlap; what cannot be read (guard pages, devices) is left out."""
    at = start
    while at < min(end, start + _MAX_MEMORY):
        try:
            mem.seek(at)
            data = mem.read(min(_CHUNK, end - at))
        except (OSError, OverflowError, ValueError):
            return
        if not data:
            return
        yield data
        at += len(data) if at + len(data) >= end else max(len(data) - _OVERLAP, 1)
