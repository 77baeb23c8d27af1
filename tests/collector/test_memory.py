"""Memory that is given back: only what the file on disk still says, and the process goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from collector import memory

ROOT = Path(__file__).parents[2]
SMAPS = """\
55d0-55e0 r-xp 00000000 08:01 42                 /usr/lib/clean.so
Rss:                  8 kB
Anonymous:            0 kB
55e0-55f0 r--p 00000000 08:01 42                 /usr/lib/relocated.so
Rss:                  8 kB
Anonymous:            4 kB
55f0-5600 rw-p 00000000 08:01 42                 /usr/lib/written.so
Rss:                  8 kB
Anonymous:            0 kB
5600-5610 r--p 00000000 00:00 0
Rss:                  8 kB
Anonymous:            0 kB
5610-5620 r--s 00000000 08:01 43                 /usr/lib/shared
Rss:                  8 kB
Anonymous:            0 kB
5620-5630 r--p 00000000 08:01 43                 /usr/lib/untouched
Rss:                  0 kB
Anonymous:            0 kB
"""
SETTLED = """
import pyarrow as pa
from collector import memory
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
before = resident()
told = memory.settle()
print(before - resident() > 4_000_000, told > 4_000_000)
print(pa.array([1, 2]).to_pylist())
"""


def test_only_what_the_file_still_says_is_let_go() -> None:
    assert list(memory.clean_mappings(SMAPS)) == [(0x55D0, 0x10, 8192)]


def test_libraries_work_after_their_pages_went() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SETTLED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True True", "[1, 2]"]
