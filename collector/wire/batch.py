"""Batch envelope: what a spool file and an upload are made of, and every limit on them.

    4 bytes   magic "TLH1"
    4 bytes   header length, big endian, at most MAX_HEADER_BYTES
    header    canonical JSON of `Header`, padded with spaces so that the sections are aligned
    sections  one Arrow IPC stream per record class, in the order and of the sizes the header gives

The digest in the header is SHA-256 over the header with an empty digest and then the sections, so
a flipped bit anywhere is found, and `Header.batch`, made from the digest, names every byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from collector.wire.records import CLASSES, SCHEMA_VERSION, record_id

MAGIC: Final = b"TLH1"
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Largest batch. A window of 1,000,000 visits is about 40 MB; a larger window is cut."""
MAX_SECTIONS: Final = 16
MAX_ROWS: Final = 2_000_000
MAX_RECEIPT_BYTES: Final = 64 * 1024
"""Largest answer to an upload. A receipt is five short fields; the rest is head room."""
MAX_MESSAGE_CHARS: Final = 300
"""Longest text for people taken from a receipt: two lines of a terminal."""
MAX_TIME_NS: Final = 2**63 - 1
ALIGNMENT: Final = 64
"""Sections start at a multiple of this, as Arrow asks of buffers, so none need be copied."""
VERDICTS: Final = ("accept", "duplicate", "gap", "reject", "retry")
MAX_CLOCK_SKEW_NS: Final = 300 * 1_000_000_000
"""Default tolerance between the collector's clock and the aggregator's at upload. Kerberos
allows five minutes (RFC 4120 section 8.2) for the same reason."""


class BatchError(ValueError):
    """The bytes are not a batch this version can read; the message says which part is wrong.

    `reason` is a short stable word for metrics and receipts, e.g. "digest", "schema-version".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Section:
    """One record class in the batch: class name, rows and bytes of its Arrow stream."""

    record_class: str
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Identity and extent of a batch.

    collector: name as in the collector's certificate. boot: id of the collector process's run.
    epoch: id of the spool folder. sequence: counts up by one per batch within an epoch, from 1.
    window_start_ns, window_end_ns: the interval the batch covers. created_ns: when it was closed.
    sha256: hex digest of header and sections, see above.
    """

    schema_version: int
    collector: str
    boot: str
    epoch: str
    sequence: int
    window_start_ns: int
    window_end_ns: int
    created_ns: int
    sections: tuple[Section, ...]
    sha256: str

    @property
    def batch(self) -> str:
        """Thirty-two hex digits that name this batch everywhere, from the digest and identity."""
        return record_id(
            "batch", self.collector, self.epoch, self.sequence, self.boot, self.sha256
        ).hex()

    @property
    def rows(self) -> int:
        """Rows of all sections together."""
        return sum(section.rows for section in self.sections)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the aggregator answers to a batch.

    verdict: accept, duplicate or gap (all three free the spool file), reject or retry (the file
    stays). `reject` means the batch can never be taken as it is and moves to the dead-letter
    folder; `retry` names a condition that will pass or be mended. message: for people.
    """

    batch: str
    verdict: str
    reason: str
    message: str
    rows: int


_NAME: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z._-]{0,252})")
"""Collector names are DNS names, at most 253 octets (RFC 1035 section 2.3.4); boot and epoch are
ids that we make ourselves and fit the same pattern."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BATCH: Final = re.compile(r"[0-9a-f]{32}")
_REASON: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MAX_BRACKETS: Final = 4 * MAX_SECTIONS
_MAX_SEQUENCE: Final = 2**63 - 1
_PREFIX_BYTES: Final = len(MAGIC) + 4
_INTEGERS: Final = ("sequence", "window_start_ns", "window_end_ns", "created_ns")
_TEXTS: Final = ("collector", "boot", "epoch", "sha256")
_KEYS: Final = frozenset((*_INTEGERS, *_TEXTS, "schema_version", "sections"))


def header_bytes(header: Header) -> bytes:
    """The one serialisation of a header: sorted keys, no white space but the padding at the end."""
    fields = {name: getattr(header, name) for name in (*_INTEGERS, *_TEXTS, "schema_version")}
    fields["sections"] = [
        {"class": s.record_class, "rows": s.rows, "size": s.size} for s in header.sections
    ]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")
    return text + b" " * (-(_PREFIX_BYTES + len(text)) % ALIGNMENT)


def parse_header(data: bytes) -> Header:
    """The header of its serialisation; raises BatchError for anything but the canonical form."""
    if len(data) > MAX_HEADER_BYTES:
        raise BatchError("header-size", f"the header has more than {MAX_HEADER_BYTES} bytes")
    # Counting brackets first bounds the depth of the JSON parser. Ours has one a section and two.
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        raise BatchError("header", "the header nests too deep")
    fields = _json_object(data, "header")
    version = fields.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise BatchError("schema-version", f"the schema version is not 1 to {SCHEMA_VERSION}")
    if fields.keys() != _KEYS:
        raise BatchError("header", "the header has missing or unknown fields")
    values: dict[str, Any] = {name: _text(fields, name) for name in _TEXTS}
    values |= {name: _integer(fields, name, "header") for name in _INTEGERS}
    values["sections"] = _sections(fields["sections"])
    header = Header(schema_version=version, **values)
    check_header(header)
    if header_bytes(header) != data:
        raise BatchError("header", "the header is not in canonical form")
    return header


def check_header(header: Header) -> None:
    """Raise BatchError unless every field of `header` is within its limits."""
    for name in ("collector", "boot", "epoch"):
        if not _NAME.fullmatch(getattr(header, name)):
            raise BatchError("header", f"{name} in the header is not a name")
    if not _DIGEST.fullmatch(header.sha256):
        raise BatchError("header", "sha256 in the header is not a digest")
    if not 1 <= header.sequence <= _MAX_SEQUENCE:
        raise BatchError("header", "the sequence number is out of range")
    if not 0 <= header.window_start_ns < header.window_end_ns <= MAX_TIME_NS:
        raise BatchError("header", "the window is empty, reversed or out of range")
    if not 0 <= header.created_ns <= MAX_TIME_NS:
        raise BatchError("header", "the time of creation is out of range")
    names = [section.record_class for section in header.sections]
    if len(names) > MAX_SECTIONS or names != [name for name in CLASSES if name in names]:
        raise BatchError("sections", "record classes are unknown, repeated or out of order")
    if any(section.rows < 1 or section.size < 1 for section in header.sections):
        raise BatchError("sections", "a section is empty")
    if header.rows > MAX_ROWS:
        raise BatchError("too-large", f"the batch has more than {MAX_ROWS} rows")
    if sum(section.size for section in header.sections) > MAX_BATCH_BYTES:
        raise BatchError("too-large", f"the batch has more than {MAX_BATCH_BYTES} bytes")


def receipt_bytes(receipt: Receipt) -> bytes:
    """JSON of a receipt, as the aggregator answers."""
    fields = {
        "batch": receipt.batch,
        "verdict": receipt.verdict,
        "reason": receipt.reason,
        "message": receipt.message,
        "rows": receipt.rows,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_receipt(data: bytes) -> Receipt:
    """The receipt in an answer; raises BatchError("receipt", ...) where it is none.

    Unknown fields are ignored, so that a newer aggregator may say more. `reason` is cut to a
    stable word and `message` to printable text, because both end in logs and labels.
    """
    if len(data) > MAX_RECEIPT_BYTES:
        raise BatchError("receipt", f"the receipt has more than {MAX_RECEIPT_BYTES} bytes")
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        raise BatchError("receipt", "the receipt nests too deep")
    fields = _json_object(data, "receipt")
    batch, verdict = fields.get("batch"), fields.get("verdict")
    reason, message = fields.get("reason"), fields.get("message")
    if not isinstance(batch, str) or not _BATCH.fullmatch(batch):
        raise BatchError("receipt", "the receipt names no batch")
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        raise BatchError("receipt", "the receipt has no known verdict")
    return Receipt(
        batch=batch,
        verdict=verdict,
        reason=stable_word(reason),
        message=printable(message),
        rows=_integer(fields, "rows", "receipt"),
    )


def stable_word(value: object) -> str:
    """`value` where it is a short lower-case word fit for a label, else "unspecified"."""
    return value if isinstance(value, str) and _REASON.fullmatch(value) else "unspecified"


def printable(value: object) -> str:
    """`value` as one line of at most MAX_MESSAGE_CHARS printable ASCII characters."""
    text = value if isinstance(value, str) else ""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:MAX_MESSAGE_CHARS])


def _json_object(data: bytes, reason: str) -> Mapping[str, object]:
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):  # includes bad UTF-8 and integers of too many digits
        raise BatchError(reason, f"the {reason} is not JSON") from None
    if not isinstance(fields, dict):
        raise BatchError(reason, f"the {reason} is not a JSON object")
    return fields


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise BatchError("header", f"{name} in the header is not text")
    return value


def _integer(fields: Mapping[str, object], name: str, reason: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= MAX_TIME_NS:
        raise BatchError(reason, f"{name} in the {reason} is not a count")
    return value


def _sections(value: object) -> tuple[Section, ...]:
    if not isinstance(value, list) or len(value) > MAX_SECTIONS:
        raise BatchError("header", "the sections in the header are not a short list")
    sections = []
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"class", "rows", "size"}:
            raise BatchError("header", "a section in the header lacks class, rows or size")
        name = entry["class"]
        if not isinstance(name, str):
            raise BatchError("header", "a section in the header has no class")
        rows, size = _integer(entry, "rows", "header"), _integer(entry, "size", "header")
        sections.append(Section(name, rows, size))
    return tuple(sections)
