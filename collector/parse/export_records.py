"""Records of a data set, by their template, into columns: flows, NAT events and sampling.

A set is read as a matrix of bytes, a row a record, and each wanted field is a slice of it, whatever
its length (reduced-size encoding, RFC 7011 section 6.2). Only records with fields of variable
length are walked one by one, to cut those out.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.parse.export import VARIABLE, Message, Template
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

EXPORTED: Final = np.dtype(
    [
        ("first_ns", "i8"),
        ("last_ns", "i8"),
        ("src", "V16"),
        ("dst", "V16"),
        ("nat_src", "V16"),
        ("nat_dst", "V16"),
        ("sport", "u2"),
        ("dport", "u2"),
        ("nat_sport", "u2"),
        ("port_first", "u2"),
        ("port_last", "u2"),
        ("protocol", "u1"),
        ("event", "u1"),
        ("bytes", "u8"),
        ("packets", "u8"),
        ("back_bytes", "u8"),
        ("back_packets", "u8"),
    ]
)
"""One record. Addresses have sixteen bytes, zeros where absent; nat_*: after translation; `event`:
natEvent (RFC 8158), 0 for a flow; back_*: of the answers, where one record tells both ways; a time
of 0 is unknown."""

Rows = npt.NDArray[Any]
"""A structured array of EXPORTED."""

_REVERSE: Final = 29_305 << 16
"""Elements of the way back (RFC 5103 section 6.1)."""
_NUMBERS: Final[dict[str, tuple[int, ...]]] = {
    "sport": (7, 180, 182),
    "dport": (11, 181, 183),
    "nat_sport": (227,),
    "port_first": (361,),
    "port_last": (362,),
    "protocol": (4,),
    "event": (230,),
    "bytes": (1, 85, 231, 23),
    "packets": (2, 86, 298, 24),
    "back_bytes": (232, _REVERSE | 1, _REVERSE | 85),
    "back_packets": (299, _REVERSE | 2, _REVERSE | 86),
}
"""Elements of each column (IANA, IPFIX Information Elements); the first one present counts."""
_ADDRESSES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "src": ((8, 4), (27, 16)),
    "dst": ((12, 4), (28, 16)),
    "nat_src": ((225, 4), (281, 16)),
    "nat_dst": ((226, 4), (282, 16)),
}
_PORTS, _STEP = 364, 363
_INTERVALS, _TAKEN, _LEFT = (34, 50), 305, 306
_MS, _SECOND = 10**6, 10**9
_TIMES: Final[dict[str, tuple[tuple[int, str], ...]]] = {
    "first_ns": (
        *((152, "ms"), (156, "ntp"), (154, "ntp"), (150, "s"), (22, "uptime"), (158, "before")),
        *((323, "ms"), (325, "ntp"), (324, "ntp"), (322, "s")),
    ),
    "last_ns": (
        *((153, "ms"), (157, "ntp"), (155, "ntp"), (151, "s"), (21, "uptime"), (159, "before")),
    ),
}
"""Elements of begin and end with their form; an event's time of observation is its begin."""
_BOOT: Final = 160
_NTP_EPOCH_S: Final = 2_208_988_800

V5_TEMPLATE: Final = Template(
    (
        *((8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2)),
        *((11, 2), (0, 1), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (0, 2)),
    )
)
"""The one layout of NetFlow v5, in the elements that later versions gave its fields."""


class Records:
    """The records of one data set, as a matrix of bytes."""

    def __init__(self, template: Template, data: bytes) -> None:
        """Raises ParseError where a field of variable length reaches past the set."""
        fixed, size = template, template.record_bytes
        if not template.is_fixed:
            fixed = Template(tuple(f for f in template.fields if f[1] != VARIABLE), template.scope)
            data, size = _without_variable(template, data), fixed.record_bytes
        self.count = len(data) // size if size else 0
        raw = np.frombuffer(data, np.uint8, self.count * size)
        self._raw = raw.reshape(self.count, size) if size else raw.reshape(0, 0)
        self._at: dict[int, tuple[int, int]] = {}
        at = 0
        for element, length in fixed.fields:
            self._at.setdefault(element, (at, length))
            at += length

    def has(self, element: int) -> bool:
        return element in self._at

    def number(self, element: int) -> npt.NDArray[np.uint64]:
        """An unsigned field of up to eight bytes; of a longer one the last eight."""
        at, size = self._at[element]
        used = min(size, 8)
        wide = np.zeros((self.count, 8), np.uint8)
        wide[:, 8 - used :] = self._raw[:, at + size - used : at + size]
        return wide.view(">u8").ravel().astype(np.uint64)

    def first_of(self, elements: tuple[int, ...]) -> npt.NDArray[np.uint64] | None:
        """The first of the elements that is present and not zero throughout; None without any."""
        found = None
        for element in elements:
            if self.has(element):
                found = self.number(element)
                if found.any():
                    return found
        return found

    def address(self, element: int, size: int) -> npt.NDArray[Any] | None:
        """An address in sixteen bytes, an unspecified one as zeros; None where it is absent."""
        at, length = self._at.get(element, (0, 0))
        if length != size:
            return None
        wide = np.zeros((self.count, 16), np.uint8)
        wide[:, 16 - size :] = self._raw[:, at : at + size]
        if size == 4:
            wide[wide.any(axis=1), :12] = np.frombuffer(MAPPED, np.uint8)
        elif self.count:  # no mapped address stands on a wire
            wide[(wide[:, :12] == np.frombuffer(MAPPED, np.uint8)).all(axis=1)] = 0
        return wide.view("V16").ravel()


def decode(template: Template, data: bytes, message: Message, boot_ms: int = 0) -> Rows:
    """The flows and events of a data set. `boot_ms`: when the exporter began, epoch milliseconds,
    where an options record of IPFIX said so. Raises ParseError; see `Records`."""
    records = Records(template, data)
    rows = np.zeros(records.count, EXPORTED)
    for name, elements in _NUMBERS.items():
        values = records.first_of(elements)
        if values is not None:
            limit = np.iinfo(EXPORTED[name]).max
            rows[name] = np.minimum(values, np.uint64(limit))
    for name, kinds in _ADDRESSES.items():
        for element, size in kinds:
            found = records.address(element, size)
            if found is not None:
                given = found.view(np.uint8).reshape(-1, 16).any(axis=1)
                rows[name] = np.where(given, found, rows[name])
    if records.has(_PORTS) and not records.has(362):
        ports = records.number(_PORTS).astype(np.int64)
        rows["port_last"] = np.clip(rows["port_first"].astype(np.int64) + ports - 1, 0, 65_535)
    if records.has(_STEP):  # ports with holes between are no block
        holed = records.number(_STEP) > 1
        rows["port_first"][holed] = rows["port_last"][holed] = 0
    for name, forms in _TIMES.items():
        rows[name] = _time(records, forms, message, boot_ms)
    rows["last_ns"] = np.where(rows["last_ns"] > 0, rows["last_ns"], rows["first_ns"])
    return rows


def options(template: Template, data: bytes) -> tuple[int, int]:
    """What options records say of their exporter: one of how many packets is looked at, the most
    that any says, and when it began in epoch milliseconds; 0 where they say nothing."""
    records = Records(template, data)
    if not records.count:
        return 0, 0
    interval = max((int(records.number(e).max()) for e in _INTERVALS if records.has(e)), default=0)
    if records.has(_TAKEN):  # systematic sampling: so many are taken, then so many left
        taken = max(1, int(records.number(_TAKEN)[0]))
        left = int(records.number(_LEFT)[0]) if records.has(_LEFT) else 0
        interval = max(interval, (taken + left) // taken)
    boot = int(records.number(_BOOT)[-1]) if records.has(_BOOT) else 0
    return interval, min(boot, 1 << 43)


def _time(
    records: Records, forms: tuple[tuple[int, str], ...], message: Message, boot_ms: int
) -> npt.NDArray[np.int64]:
    """Epoch nanoseconds by the first form that is present; zeros without any."""
    for element, form in forms:
        if not records.has(element):
            continue
        value = records.number(element)
        if form == "ntp":  # RFC 7011 sections 6.1.9 and 6.1.10: seconds and fraction since 1900
            seconds = (value >> np.uint64(32)).astype(np.int64) - _NTP_EPOCH_S
            fraction = (value & np.uint64(0xFFFFFFFF)) * np.uint64(_SECOND) >> np.uint64(32)
            return np.maximum(seconds * _SECOND + fraction.astype(np.int64), 0)
        signed = np.minimum(value, np.uint64(1 << 53)).astype(np.int64)
        if form == "s":
            return _bounded(signed, _SECOND)
        if form == "ms":
            return _bounded(signed, _MS)
        if form == "before":
            return np.maximum(message.exported_ns - _bounded(signed, 1000), 0)
        if message.uptime_ms:
            boot_ms = message.exported_ns // _MS - message.uptime_ms
        if records.has(_BOOT):
            boot = np.minimum(records.number(_BOOT), np.uint64(1 << 53)).astype(np.int64)
            return _bounded(boot + signed, _MS)
        if boot_ms:
            return np.maximum(_bounded(boot_ms + signed, _MS), 0)
    return np.zeros(records.count, np.int64)


def _bounded(values: npt.NDArray[np.int64], unit: int) -> npt.NDArray[np.int64]:
    """In nanoseconds, the latest that a time may be where it would be later."""
    return np.minimum(values, (1 << 62) // unit) * unit


def _without_variable(template: Template, data: bytes) -> bytes:
    """The records with their fields of variable length cut out (RFC 7011 section 7)."""
    out = bytearray()
    at = 0
    while len(data) - at >= template.record_bytes:
        for _, size in template.fields:
            if size == VARIABLE:
                if at >= len(data):
                    raise ParseError("truncated")
                length = data[at]
                at += 1
                if length == 255:
                    length = int.from_bytes(data[at : at + 2], "big")
                    at += 2
                at += length
            else:
                out += data[at : at + size]
                at += size
            if at > len(data):
                raise ParseError("truncated")
    return bytes(out)
