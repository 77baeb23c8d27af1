"""What a piece of work costs: the CPU time of the engine that does it, and of us who ask."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step: the server's CPU, our own CPU, and by the clock."""

    server_s: float
    client_s: float
    wall_s: float


def server_cpu(pid: int) -> float:
    """User and system seconds of a process and all its threads so far, to the nanosecond.

    CPU-time clocks of other processes are numbered by their id (clock_getcpuclockid(3)).
    """
    return time.clock_gettime((~pid << 3) | 2)


def measured(pid: int, work: Callable[[], Any]) -> tuple[Cost, Any]:
    """The cost of some work, and what it gives."""
    own, server = resource.getrusage(resource.RUSAGE_SELF), server_cpu(pid)
    started = time.perf_counter()
    result = work()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    client = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    return Cost(server_cpu(pid) - server, client, wall), result
