"""Memory of the process: shut to others, and freed bytes overwritten; each seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collector import hygiene

ROOT = Path(__file__).parents[2]
HARDENED = """
import os, resource, sys
from collector import hygiene
missing = hygiene.harden()
status = open("/proc/self/status").read()
locked = next(line for line in status.splitlines() if line.startswith("VmLck"))
print(resource.getrlimit(resource.RLIMIT_CORE), os.stat("/proc/self/mem").st_uid)
print(int(locked.split()[1]) > 0, len(missing), *missing, sep="|")
sys.stdin.read()
"""
UNPRIVILEGED = """
import ctypes, encodings.ascii, os, resource  # another user may not get at the library
from collector import hygiene
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which another user's id has cleared
def show():
    with open("/proc/self/status") as status:
        locked = next(line for line in status if line.startswith("VmLck")).split()[1]
    is_own = os.stat("/proc/self/mem").st_uid == os.getuid()
    print(is_own, locked, resource.getrlimit(resource.RLIMIT_CORE))
resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
show()
missing = hygiene.harden()
show()
print(*missing, sep="|")
"""
COUNT = """
gc.collect()
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        span, mode = line.split()[:2]
        if "w" in mode and "[v" not in line:
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            found += memory.read(end - start).count(needle)
print(found)
"""
FREED = """
import gc, hashlib
needle = hashlib.blake2b(b"needle", digest_size=24).digest()
rows = [{"n": n, "secret": needle + n.to_bytes(4, "big")} for n in range(2000)]
del rows
"""
PARSED = """
import gc, struct
from collector.parse import ip
number = int("3323123357")
layout = struct.Struct(">BxHHHBBHIIHHHH")
kept = []
for n in range(2000):
    data = bytearray(28)
    layout.pack_into(data, 0, 69, 28, n, 0, 64, 17, 0, number, number, 53, 4000, 8, 0)
    kept.append(ip.parse(n, ip.IPV4, data).ts_ns * 10**9)  # other objects come between
    data[:] = bytes(len(data))
del data
needle = number.to_bytes(4, "big")
"""


def run(script: str, environ: dict[str, str] | None = None) -> str:
    plain = {k: v for k, v in os.environ.items() if k not in hygiene.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=plain | (environ or {}),
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return done.stdout


def test_a_hardened_process_leaves_no_core_and_belongs_to_root() -> None:
    first, second = run(HARDENED).splitlines()
    assert first == "(0, 0) 0"
    is_locked, missing, *words = second.split("|")
    # What could not be had is said: here the environment, and memory where the limit is low.
    assert int(missing) == 1 + (is_locked == "False")
    assert "PYTHONMALLOC=malloc" in words[-1]


def test_another_process_of_the_user_is_kept_out_and_locking_is_no_condition() -> None:
    """Without a privilege, and with a limit that memory does not fit in."""
    before, after, missing = run(UNPRIVILEGED, dict(hygiene.ENVIRONMENT)).splitlines()
    assert before == "True 0 (1, 1)"
    assert after == "False 0 (0, 0)"
    assert "LimitMEMLOCK" in missing
    assert "|" not in missing


def test_nothing_is_missing_where_the_environment_is_right() -> None:
    assert "PYTHONMALLOC" not in run(HARDENED, dict(hygiene.ENVIRONMENT))
    assert hygiene.environment_missing(hygiene.ENVIRONMENT) == []
    assert len(hygiene.environment_missing({})) == 2
    assert len(hygiene.environment_missing({"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "x"})) == 1


def test_freed_memory_keeps_secrets_without_the_environment_and_loses_them_with_it() -> None:
    assert int(run(FREED + COUNT)) > 100, "the scan must be able to find something"
    assert int(run(FREED + COUNT, dict(hygiene.ENVIRONMENT))) <= 1, "all but the needle itself"


def test_random_bytes_fill_the_buffer_itself() -> None:
    buffer = bytearray(32)
    hygiene.fill_random(buffer)
    first = bytes(buffer)
    hygiene.fill_random(buffer)
    assert any(first)
    assert bytes(buffer) != first
    assert len(buffer) == 32
    with pytest.raises(ValueError, match="at most"):
        hygiene.fill_random(bytearray(257))


def test_addresses_of_parsed_packets_are_overwritten() -> None:
    """Four bytes of their own would lie where glibc does not overwrite."""
    assert int(run(PARSED + COUNT, dict(hygiene.ENVIRONMENT))) < 10, "but for the scan's own"
