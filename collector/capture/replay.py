"""Capture files in, frames out: pcap and pcapng, one after another in order of time.

scapy's raw readers know the formats (both byte orders, micro- and nanoseconds, pcapng's blocks and
interfaces); here what they give becomes `Frame`, and what they raise becomes one error with the
file's name. A file that ends in the middle gives every whole packet before its end, then the error.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader, RawPcapReader

from collector.parse.link import Frame

INTERFACE: Final = 1
"""Replayed frames are all of one interface, read for every role."""
MAX_FILES: Final = 1_024
MAX_PACKET_BYTES: Final = 262_144
"""Longest packet taken, libpcap's own limit (MAXIMUM_SNAPLEN)."""
_HEADER: Final = 24
"""Bytes of pcap's file header; pcapng's first block has 28."""
_BLOCK_HEADER: Final = 12


class CaptureFileError(ValueError):
    """A file is no capture, or damaged; the message names the file and the packet."""


def frames(paths: Sequence[Path]) -> Iterator[Frame]:
    """The frames of all files by capture time; frames of one file keep their order.

    Raises CaptureFileError where a file cannot be read (on), OSError where it cannot be opened.
    """
    if len(paths) > MAX_FILES:
        raise CaptureFileError(f"{len(paths)} files: at most {MAX_FILES} at once")
    return heapq.merge(*map(_file, paths), key=lambda frame: frame.ts_ns)


def _file(path: Path) -> Iterator[Frame]:
    number = 0
    try:
        with path.open("rb") as file:  # ours to close: scapy leaves what it refuses open
            if not file.peek(_HEADER)[_HEADER - 1 :]:
                raise ValueError("no room for a header")
            reader = RawPcapReader(file)
            while found := _packet(reader):
                number += 1
                yield found
    except (Scapy_Exception, struct.error, LookupError, ValueError, OverflowError):
        where = f"damaged after packet {number}" if number else "no pcap or pcapng file, or empty"
        raise CaptureFileError(f"{path}: {where}") from None


def _packet(reader: Any) -> Frame | None:
    """The next packet; None at the end of a whole file, ValueError at that of a cut one."""
    is_ng = isinstance(reader, RawPcapNgReader)
    at = reader.f.tell()
    try:
        data, meta = reader._read_packet(size=MAX_PACKET_BYTES)
    except EOFError:
        if is_ng:
            _check_blocks(reader.f, at)
        elif reader.f.tell() != at:
            raise ValueError("a record cut short") from None
        return None
    if not is_ng and len(data) < min(meta.caplen, MAX_PACKET_BYTES):
        raise ValueError("a packet cut short")
    linktype = int(meta.linktype if is_ng else reader.linktype)
    return Frame(_time(reader, meta), bytes(data), linktype, INTERFACE, False)


def _check_blocks(file: Any, at: int) -> None:
    """Raise ValueError unless whole blocks follow from `at` on: scapy just ends at a cut one."""
    file.seek(at)
    while header := file.read(8):
        (length,) = struct.unpack("<I", header[4:8])
        swapped = int.from_bytes(header[4:8], "big")
        length = min(length, swapped)  # the section's byte order; the wrong one is the larger
        if length < _BLOCK_HEADER or len(file.read(length - 8)) != length - 8:
            raise ValueError("a block cut short")


def _time(reader: Any, meta: Any) -> int:
    """Nanoseconds UTC of a packet."""
    if isinstance(reader, RawPcapNgReader):
        ticks = (int(meta.tshigh or 0) << 32) + int(meta.tslow or 0)
        return ticks * 1_000_000_000 // int(meta.tsresol)
    return int(meta.sec) * 1_000_000_000 + int(meta.usec) * (1 if reader.nano else 1_000)
