"""Capture files in, frames out: pcap and pcapng, one after another in order of time.

What is wrong with a file becomes one error with its name. One that ends in the middle gives every
whole packet before its end, then the error.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from collector.capture.pcapfile import Damaged, packets
from collector.parse.link import Frame

INTERFACE: Final = 1
"""Replayed frames are all of one interface, read for every role."""
MAX_FILES: Final = 1_024
MAX_TIME_NS: Final = 2**62
"""A year above 2100, so that sums with a time stay within 64 bits."""


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
    where = "no pcap or pcapng file, or empty"
    try:
        with path.open("rb") as file:
            found = packets(file)
            where = "damaged before its first packet"
            for ts_ns, linktype, data in found:
                if not 0 <= ts_ns < MAX_TIME_NS:
                    raise Damaged("a time that cannot be")
                number += 1
                where = f"damaged after packet {number}"
                yield Frame(ts_ns, data, linktype, INTERFACE, False)
    except Damaged:
        raise CaptureFileError(f"{path}: {where}") from None
