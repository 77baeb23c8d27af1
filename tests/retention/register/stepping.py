"""Runs a function in a child process and kills that before its k-th system call that writes.

By ptrace(2), so that what SQLite's C code does counts too: no function has to be replaced.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long
_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD_EXITKILL: Final = 0x1 | 0x100000
_ENTRY: Final = 1

# write pwrite64 ftruncate fallocate rename(at, at2) link(at) unlink(at) mkdir(at) rmdir; openat, if
# it creates. Not fsync: a kill leaves what was written, so before it is as before the next call.
_CALLS: Final = {
    "x86_64": ({1, 18, 77, 285, 82, 264, 316, 86, 265, 87, 263, 83, 258, 84}, 257),
    "aarch64": ({64, 68, 46, 47, 38, 276, 37, 35, 34}, 56),
}
_WRITE: Final = {"x86_64": 1, "aarch64": 64}


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as it is at the entry to a call."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


@dataclass(frozen=True)
class Ran:
    """killed: or it ran to its end. said: what it had said by then, line by line."""

    killed: bool
    calls: int
    said: list[str]


def run(act: Callable[[Callable[[str], None]], None], stop: int) -> Ran:
    """Run `act(say)` in a child until before its writing call of number `stop` (from 0)."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            act(lambda text: _say(writer, text))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        killed, calls = _step(child, stop, writer)
        return Ran(killed, calls, pipe.read().splitlines())


def _say(handle: int, text: str) -> None:
    os.write(handle, f"{text}\n".encode())


def _step(child: int, stop: int, quiet: int) -> tuple[bool, int]:
    """Let the child go from call to call; calls that write to `quiet` do not count."""
    calls = 0
    writing, creating = _CALLS[platform.machine()]
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, _SYSGOOD_EXITKILL)
    passed = 0
    while True:
        _ptrace(_SYSCALL, child, passed)
        passed = 0
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
            return False, calls
        assert os.WIFSTOPPED(status), status
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            passed = os.WSTOPSIG(status)  # a signal of the child's own
            continue
        info = _Info()
        _ptrace(_SYSCALL_INFO, child, ctypes.sizeof(info), ctypes.addressof(info))
        number, given = info.number, info.arguments
        if info.op != _ENTRY or number == _WRITE[platform.machine()] and given[0] == quiet:
            continue
        if number in writing or number == creating and given[2] & os.O_CREAT:
            if calls == stop:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True, calls
            calls += 1


def _ptrace(request: int, child: int, data: int = 0, address: int = 0) -> None:
    # PTRACE_GET_SYSCALL_INFO has its size where others have an address.
    first, second = (data, address) if request == _SYSCALL_INFO else (address, data)
    if _LIBC.ptrace(request, child, first, second) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
