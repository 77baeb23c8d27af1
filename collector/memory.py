"""What keeps the process small: pages of libraries that only the start needed, and freed memory.

Of a collector that has just started, 40 MB are pages of Arrow, OpenSSL and others that the loader
and the imports went through once. They are read from disk again when they are needed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MADV_DONTNEED: Final = 4
"""madvise(2): of a file's pages that nobody wrote to, the next access brings the same bytes."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3). Set, they stay as they are: by itself glibc raises both up to 64 MB as large blocks
are freed, and then columns of a window that is over stay with the process."""
_LARGE_BYTES: Final = 1 << 17
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +/")
"""Of /proc/self/smaps: the first line of a private mapping of a file that cannot be written to."""


def settle() -> int:
    """Gives back what only the start needed; bytes of pages that were let go. To be called once
    everything is there that stays; does nothing where the kernel or the C library refuses."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    let_go = 0
    for start, size, resident in clean_mappings(Path("/proc/self/smaps").read_text()):
        if not libc.madvise(start, size, _MADV_DONTNEED):
            let_go += resident
    return let_go


def clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """(start, bytes, bytes in memory) of each mapping of a file that is just what the file is.

    Those that the loader wrote to, and shut afterwards, have pages of their own: `Anonymous`.
    """
    start, end, resident = 0, 0, 0
    for line in smaps.splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.partition(" ")[0]:
            found = _MAPPING.match(line)
            start, end = (int(each, 16) for each in found.groups()) if found else (0, 0)
        elif name == "Rss":
            resident = int(rest.split()[0]) * 1024
        elif name == "Anonymous" and end and resident and rest.split()[0] == "0":
            yield start, end - start, resident
