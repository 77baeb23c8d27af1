"""The counters of the nftables sets in table `inet tally`, out of the kernel as numpy columns.

Four sets are dumped with GETSETELEM (linux/netfilter/nf_tables.h) and decoded in bulk: elements of
one set have one layout, so keys and counters are columns of a byte matrix. What the dump says is
cumulative, which settles its weaknesses: an element dumped twice because others arrived under the
dump counts with its larger value, one that was skipped comes with the next reading.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np

from collector.capture.nftdecode import U64, decode, decode_one, integer, join, unique
from collector.capture.rawnl import (
    NETLINK_NETFILTER,
    Answer,
    Netlink,
    attribute,
    attributes,
)
from collector.track.volume import Fill, Reading, Sample
from collector.wire import addr

TABLE: Final = "tally"
SETS: Final = ("up4", "down4", "up6", "down6")
UNCOUNTED: Final = tuple(f"{name}_full" for name in SETS)
OUTSIDE: Final = ("up_outside", "down_outside")

_FAMILY_INET: Final = 1
_NFTABLES: Final = 10 << 8
_GETTABLE: Final = _NFTABLES | 1
GETRULE: Final = _NFTABLES | 7
_GETSET: Final = _NFTABLES | 10
_GETSETELEM: Final = _NFTABLES | 13
_GETOBJ: Final = _NFTABLES | 19
_GENMSG: Final = bytes((_FAMILY_INET, 0, 0, 0))
_ATTEMPTS: Final = 3
"""Dumps of one set before what they gave is taken as it is."""


class NftUnavailable(OSError):
    """nftables cannot be used here; the message says what to install, grant or repair."""


class TableMissing(NftUnavailable):
    """There is no table `inet tally`: never installed, or taken away by a `flush ruleset`."""


def table_body(name: str = TABLE) -> bytes:
    """Request body that names a table."""
    return _GENMSG + attribute(1, name.encode() + b"\x00")


def comment(userdata: bytes) -> str:
    """The comment in an object's user data (libnftnl's udata: type, length, text)."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return (
                userdata[offset + 2 : offset + 2 + length]
                .rstrip(b"\x00")
                .decode("ascii", "replace")
            )
        offset += 2 + length
    return ""


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def table_comment(link: NftLink) -> str:
    """The comment of table `inet tally`; empty where it has none."""
    return comment(attributes(link.get(_GETTABLE, table_body())[4:]).get(6, b""))


def set_sizes(link: NftLink) -> dict[str, int]:
    """Size of each of the four sets that is there."""
    sizes = {}
    for name in SETS:
        try:
            sizes[name] = describe_set(link, name)[2]
        except TableMissing:
            continue
    return sizes


class SetReader:
    """Reads table `inet tally` in the network namespace of the calling thread.

    `ipv6_prefix_len` is the length to which the rules mask IPv6; `now` gives nanoseconds UTC.
    Holds nothing between calls. Every method raises TableMissing, or NftUnavailable with what to
    do.
    """

    def __init__(
        self, ipv6_prefix_len: int, now: Callable[[], int], timeout_s: float = 5.0
    ) -> None:
        self._ipv6_prefix_len = ipv6_prefix_len
        self._now = now
        self._timeout_s = timeout_s
        self._known: tuple[str, str] | None = None
        """The head of the generation `read_one` saw last, and all of that."""

    def generation(self) -> str:
        """Names the counters: equal as long as they have only ever counted up.

        Boot id, cookie of the network namespace, the table's handle and comment (which holds the
        nonce of its creation) and the handles of its sets.
        """
        with self._open() as link:
            return self._identity(link)[0]

    def read_sets(self) -> Reading:
        """Every address of the four sets; `ts_ns` is the end of the dumps.

        Read again, up to three times, when the table is replaced under the dumps.
        """
        with self._open() as link:
            for _ in range(_ATTEMPTS):
                began_ns = self._now()
                before, sizes = self._identity(link)
                columns = [self._dump(link, name, sizes[name][0]) for name in SETS]
                uncounted, outside = self._totals(link)
                ts_ns = self._now()
                if self._identity(link)[0] == before:
                    fill = tuple(
                        Fill(name, len(keys), sizes[name][1])
                        for (keys, _), name in zip(columns, SETS, strict=True)
                    )
                    return self._merge(began_ns, ts_ns, before, columns, fill, uncounted, outside)
        raise NftUnavailable(
            errno.EAGAIN, "table inet tally was replaced three times while it was read; try again"
        )

    def _dump(self, link: NftLink, name: str, expected: int) -> tuple[U64, U64]:
        """Sorted keys, each once, and counters of one set that had `expected` elements.

        Dumped again, up to three times, when the rules changed under it or elements are missing:
        a dump goes on by position, and elements that arrive meanwhile move the others. The
        dumps are joined; what all of them lack comes with the next reading.
        """
        keys, counters = np.empty((0, 2), np.uint64), np.empty((0, 2), np.uint64)
        for _ in range(_ATTEMPTS):
            dump = link.dump(_GETSETELEM, set_body(name))
            more = decode(dump, name)
            keys, counters = unique(
                np.concatenate([keys, more[0]]), np.concatenate([counters, more[1]])
            )
            if len(keys) >= expected and not dump.interrupted:
                break
        return keys, counters

    def read_one(self, address: bytes) -> Sample:
        """The counters of one address (16 bytes, masked here); zeros where no set holds it."""
        is_ipv4 = address[:12] == addr.MAPPED
        prefix_len = 128 if is_ipv4 else self._ipv6_prefix_len
        key = addr.network(address, prefix_len)
        names = SETS[:2] if is_ipv4 else SETS[2:]
        with self._open() as link:
            head = self._head(link)
            # Sets hold as long as the table: five requests less for each binding change.
            if self._known is None or self._known[0] != head:
                self._known = head, self._identity(link)[0]
            generation = self._known[1]
            up, down = (self._element(link, name, key[12:] if is_ipv4 else key) for name in names)
            ts_ns = self._now()
            if self._head(link) != head:
                raise NftUnavailable(errno.EAGAIN, "table inet tally was replaced under a reading")
        return Sample(ts_ns, generation, key, prefix_len, up[0], down[0], up[1], down[1])

    def _open(self) -> NftLink:
        return NftLink(self._timeout_s)

    def _identity(self, link: NftLink) -> tuple[str, dict[str, tuple[int, int]]]:
        """The generation, and (elements, size) of each set."""
        handles, sizes = [], {}
        for name in SETS:
            handle, elements, size = describe_set(link, name)
            handles.append(str(handle))
            sizes[name] = (elements, size)
        return f"{self._head(link)}/{'.'.join(handles)}", sizes

    def _head(self, link: NftLink) -> str:
        """Boot, namespace and table, without the sets."""
        table = attributes(link.get(_GETTABLE, table_body())[4:])
        handle, text = integer(table.get(4)), comment(table.get(6, b""))
        return f"{_boot_id()}/{link.namespace():x}/{handle}/{text}"

    def _totals(self, link: NftLink) -> tuple[tuple[int, int], tuple[int, int]]:
        """(bytes, packets) that found a set full, and that came from outside the prefixes."""
        body = table_body() + attribute(3, (1).to_bytes(4, "big"))
        full, outside = [0, 0], [0, 0]
        for payload in link.dump(_GETOBJ, body).payloads:
            found = attributes(payload[4:])
            name = found.get(2, b"").rstrip(b"\x00").decode("ascii", "replace")
            total = full if name in UNCOUNTED else outside if name in OUTSIDE else None
            if total is not None:
                values = attributes(found.get(4, b""))
                total[0] += integer(values.get(1))
                total[1] += integer(values.get(2))
        return (full[0], full[1]), (outside[0], outside[1])

    def _element(self, link: NftLink, name: str, key: bytes) -> tuple[int, int]:
        value = attribute(1, attribute(1, attribute(1, key)))
        try:
            payload = link.get(_GETSETELEM, set_body(name) + attribute(3, value))
        except TableMissing:
            return 0, 0  # ENOENT: no such element; the table was there a moment ago
        return decode_one(payload, len(key))

    def _merge(
        self,
        began_ns: int,
        ts_ns: int,
        generation: str,
        columns: list[tuple[U64, U64]],
        fill: tuple[Fill, ...],
        uncounted: tuple[int, int],
        outside: tuple[int, int],
    ) -> Reading:
        parts = [join(*columns[0], *columns[1]), join(*columns[2], *columns[3])]
        keys = np.concatenate([keys for keys, _ in parts])
        counters = np.concatenate([values for _, values in parts])
        lengths = np.full(len(keys), self._ipv6_prefix_len, np.uint8)
        lengths[: len(parts[0][0])] = 128
        return Reading(
            began_ns=began_ns,
            ts_ns=ts_ns,
            generation=generation,
            addresses=keys.astype(">u8").view("V16").reshape(-1),
            prefix_len=lengths,
            counters=counters,
            fill=fill,
            uncounted_bytes=uncounted[0],
            uncounted_packets=uncounted[1],
            outside_bytes=outside[0],
            outside_packets=outside[1],
        )


class NftLink(Netlink):
    """Netlink to nftables, with the kernel's refusals turned into what to do about them."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        super().__init__(NETLINK_NETFILTER, timeout_s)

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except OSError as error:
            raise explain(error) from error

    def dump(self, message_type: int, body: bytes) -> Answer:
        try:
            return super().dump(message_type, body)
        except OSError as error:
            raise explain(error) from error

    def get(self, message_type: int, body: bytes) -> bytes:
        try:
            return super().get(message_type, body)
        except OSError as error:
            raise explain(error) from error


def explain(error: OSError) -> NftUnavailable:
    """What to do about a refusal of the nftables subsystem."""
    if error.errno == errno.ENOENT:
        return TableMissing(
            errno.ENOENT,
            "table inet tally is not installed, or a ruleset flush removed it: install it again",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return NftUnavailable(errno.EPERM, "reading nftables needs CAP_NET_ADMIN: grant it")
    if error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return NftUnavailable(error.errno, "the kernel lacks nf_tables: load that module")
    if isinstance(error, TimeoutError):
        return NftUnavailable(errno.ETIMEDOUT, "the kernel did not answer about nftables in time")
    return NftUnavailable(error.errno or errno.EIO, f"nftables cannot be read: {error.strerror}")


def set_body(name: str) -> bytes:
    return table_body() + attribute(2, name.encode() + b"\x00")


def describe_set(link: NftLink, name: str) -> tuple[int, int, int]:
    """Handle, elements (NFTA_SET_COUNT, 0 before Linux 6.16) and size of a set."""
    found = attributes(link.get(_GETSET, set_body(name))[4:])
    size = integer(attributes(found.get(9, b"")).get(1))
    return integer(found.get(16)), integer(found.get(20)), size
