"""Canaries in, where anything of them was left out: files, batches, columns, a live process.

A canary is a name or an address that is used for blocked look-ups only, and by nobody else. It is
looked for as text and as packed bytes. Of a name its first label is looked for, which is what text
and DNS messages have alike.

Volume is metered for every line, whatever it did: that the packed address of a canary's line is in
`usage`, or in the memory of what meters it, says that a line is in use, and nothing else. So there,
and in the files that hold usage, it is not looked for; its text is, in memory. The addresses of
`unmetered` canaries, which were told of a block and have no line, are looked for in every form.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aggregator.store.errors import StoreError
from collector.wire import codec
from collector.wire.addr import MAPPED, pack
from collector.wire.batch import BatchError
from safeguard.search import below, find
from safeguard.stored import Reader

MAX_CANARIES: Final = 10_000
MIN_LABEL: Final = 12
"""Characters: what is shorter stands in every memory by chance."""
METERED: Final = frozenset({"usage", "late_usage"})
"""Tables and classes in which every address is."""
_CHUNK: Final = 2**20
_OVERLAP: Final = 512
_NOTHING: Final = bytes(_CHUNK)
"""What most of the pieces of a process's memory are: reserved, and never written."""
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
    """Names in lower case, and addresses of 16 bytes: of lines, and of what has none. keys: of days
    that are over, of whoever took them out of a collector meanwhile."""

    names: tuple[str, ...] = ()
    addresses: tuple[bytes, ...] = ()
    unmetered: tuple[bytes, ...] = ()
    keys: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, path: Path) -> Canaries:
        """A file of `{"names": […], "addresses": […]}`, and "unmetered" and "keys" (in hex) where
        there are any; raises CanaryError or OSError."""
        try:
            plain = json.loads(path.read_text())
            names = tuple(str(name).lower().rstrip(".") for name in plain["names"])
            addresses = tuple(pack(str(each)) for each in plain["addresses"])
            unmetered = tuple(pack(str(each)) for each in plain.get("unmetered", ()))
            keys = tuple(bytes.fromhex(each) for each in plain.get("keys", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise CanaryError(f"{path}: names and addresses expected") from error
        if not 1 <= len(names) + len(addresses) + len(unmetered) <= MAX_CANARIES:
            raise CanaryError(f"{path}: 1 to {MAX_CANARIES} canaries expected")
        if any(len(n.partition(".")[0]) < MIN_LABEL or not n.isascii() for n in names):
            raise CanaryError(f"{path}: a name's first label has {MIN_LABEL} characters or more")
        if any(len(each) < MIN_LABEL for each in keys):
            raise CanaryError(f"{path}: a key has {MIN_LABEL} bytes or more")
        return cls(names, addresses, unmetered, keys)

    @property
    def all_addresses(self) -> tuple[bytes, ...]:
        return self.addresses + self.unmetered

    def needles(self) -> list[bytes]:
        """Everything to look for in bytes."""
        found = self.of_names() + self.as_text()
        for address in self.all_addresses:
            found += [address, address.hex().encode()]
        return found

    def beside_usage(self) -> list[bytes]:
        """The same where usage is, which has the address of every line."""
        return [*self.of_names(), *self.unmetered]

    def as_text(self) -> list[bytes]:
        """Addresses as a log line or an exception would have them."""
        return [str(_plain(each)).encode() for each in self.all_addresses]

    def packed(self) -> list[bytes]:
        """What every packed form of an unmetered address has: the four bytes of IPv4, mapped or
        not, and the /64 of IPv6, with or without the rest."""
        return [each[12:] if each[:12] == MAPPED else each[:8] for each in self.unmetered]

    def of_names(self) -> list[bytes]:
        """Everything that names are looked for by."""
        return [name.partition(".")[0].encode() for name in self.names]


def files(places: Iterable[Path], canaries: Canaries) -> list[str]:
    """Files that hold a canary: raw, and inside batches."""
    listed = [path for path in below(places) if path.is_file()]
    batches = {path for path in listed if path.suffix == ".batch"}
    found = {
        f"{path.name}: a canary"
        for paths in find(
            (path for path in listed if path not in batches), canaries.needles()
        ).values()
        for path in paths
    }
    for path in batches:
        with suppress(FileNotFoundError):
            if batch(path.read_bytes(), canaries):
                found.add(f"{path.name}: a canary")
    return sorted(found)


def stored(places: Iterable[Path], canaries: Canaries) -> list[str]:
    """Files of a database that hold a canary's name: raw, and inside column files."""
    paths = [path for found in find(places, canaries.of_names()).values() for path in found]
    return sorted({f"{path.name}: a canary" for path in paths})


def batch(data: bytes, canaries: Canaries) -> bool:
    """Whether a batch holds one, raw or in its rows, which are compressed; of bytes that are no
    batch only raw."""
    if any(needle in data for needle in canaries.of_names()):
        return True
    with suppress(BatchError):
        _, batches = codec.decode(data)
        for name, rows in batches.items():
            needles = canaries.beside_usage() if name in METERED else canaries.needles()
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
            known = canaries.unmetered if table in METERED else canaries.all_addresses
            values = [f"unhex('{address.hex()}')" for address in known]
            test = f"`{name}` IN ({', '.join(values)})" if values else ""
        else:
            texts = [*canaries.names, *(each.decode() for each in canaries.as_text())]
            quoted = (f"position(`{name}`, {_quoted(text)}) > 0" for text in texts)
            test = " OR ".join(quoted)
        if test and _any(client, table, test):
            found.append(f"{table}.{name}: a canary")
    return found


def memory(pid: int, canaries: Canaries) -> list[str]:
    """What of them is in a live process's memory: by kind of region, form and number of places.

    Names are found in any case. Raises OSError where it may not be read: only root can.
    """
    forms = [
        ("a name", canaries.of_names(), True),
        ("an address as text", canaries.as_text(), False),
        ("a packed address", canaries.packed(), False),
    ]
    return _scan(pid, forms)


def keys(pid: int, known: Sequence[bytes]) -> list[str]:
    """Which regions of a live process's memory have a key; raises OSError."""
    return _scan(pid, [("a key of a day that is over", known, False)])


def _scan(pid: int, forms: Sequence[tuple[str, Sequence[bytes], bool]]) -> list[str]:
    """By region, where needles of each form are; the last of a form says that case is no matter."""
    found: Counter[tuple[str, str]] = Counter()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for start, end, name in _regions(pid):
            for data in _pieces(mem, start, end):
                for form, needles, any_case in forms:
                    where = data.lower() if any_case else data
                    # Most are nowhere, which `in` says in a third of the time of `count`.
                    many = sum(where.count(needle) for needle in needles if needle in where)
                    if many:
                        found[name or "anonymous memory", form] += many
    return [f"{name}: {form} in {count} places" for (name, form), count in found.items()]


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


def _regions(pid: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of what a process has mapped, can read and can have written to: what is
    mapped of a file and cannot be written is the file's."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = _REGION.fullmatch(line)
        if match is None or not match[3].startswith("r") or match[4] in _SKIPPED:
            continue
        if match[3][1] == "w" or not match[4].startswith("/"):
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
        if data != _NOTHING[: len(data)]:
            yield data
        at += len(data) if at + len(data) >= end else max(len(data) - _OVERLAP, 1)
