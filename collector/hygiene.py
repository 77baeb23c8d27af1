"""What a process does so that its memory stays where it is: no core, no swap, no stale bytes.

Counts and keys of SafeGuard live in memory only. The kernel can write memory to a disk (a core
dump, swap) and so can another process of the same user (ptrace, /proc/PID/mem); freed memory keeps
what was in it. `harden` shuts the first three, `ENVIRONMENT` the last: it has to be there when the
process starts, so it belongs into the unit file, or `environment_missing` tells to start anew.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Mapping
from typing import Final

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
"""prctl(2). Without it /proc/PID belongs to root, and only root can attach."""
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
"""mlockall(2). On fault: pages that are never touched, such as thread stacks, take no memory."""

ENVIRONMENT: Final[Mapping[str, str]] = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
}
"""Makes glibc overwrite what is freed. Python's own allocator would not give it back, and chunks in
glibc's thread cache are not overwritten, so both are off. The byte is 165 on allocation and its
complement on free; its value is of no matter as long as it is not 0. The last eight bytes of a
chunk are not overwritten, so nothing personal may end an object that ends there (`parse.ip`)."""


class HygieneError(OSError):
    """A protection that is always there on Linux was refused."""


def harden() -> list[str]:
    """Protect the memory of this process; gives what could not be had, in words for an operator.

    Core dumps and attaching by other processes of the user are shut for certain: raises
    HygieneError otherwise. Memory is locked where the limit allows it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0):
        raise HygieneError(ctypes.get_errno(), "the process stays dumpable")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    missing = []
    if not _lock(libc):
        missing.append("memory is not locked and can be swapped: raise LimitMEMLOCK to infinity")
    absent = environment_missing(os.environ)
    if absent:
        missing.append(f"freed memory is not overwritten: start with {' '.join(absent)}")
    return missing


def environment_missing(environ: Mapping[str, str]) -> list[str]:
    """NAME=VALUE of what ENVIRONMENT asks for and `environ` has not."""
    return [f"{key}={value}" for key, value in ENVIRONMENT.items() if environ.get(key) != value]


def fill_random(buffer: bytearray) -> None:
    """Overwrite a buffer with bytes of the kernel's generator, with no copy of them elsewhere.

    getrandom(2) into the buffer itself: `os.urandom` would leave a bytes object behind. Raises
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    # Up to 256 bytes come whole and uninterrupted (getrandom(2)); more are for nobody here.
    if len(buffer) > 256:
        raise ValueError("at most 256 bytes at once")
    if libc.getrandom(view, ctypes.c_size_t(len(buffer)), 0) != len(buffer):
        raise OSError(ctypes.get_errno(), "no random bytes from the kernel")


def _lock(libc: ctypes.CDLL) -> bool:
    """Lock what is mapped and what will be, or nothing: under a limit, locking what is to come
    would make an allocation fail one day."""
    unlimited = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
    except (OSError, ValueError):
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != unlimited and not _may_lock():
            return False
    return not libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _may_lock() -> bool:
    """Whether CAP_IPC_LOCK (bit 14, capabilities(7)) is in effect, which lifts the limit."""
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 14 & 1)
    return False
