"""What the subscribers of one day share: the clock of the day, addresses, programs, progress."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab.day import HOURS
from tests.lab.netns import LabError, Namespace, end
from tests.lab.radius import Accounting
from tests.lab.topology import Network

ADDRESS_TIMEOUT_S: Final = 60.0
"""How long a Connect waits for another line to give its address up."""


class Halted(LabError):
    """The day was stopped from outside."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that just happened. `subscriber` is empty for what concerns the whole lab.

    `wall_s` since the day's start, `fraction` 0 to 1 of it, `hour` of the simulated day.
    """

    wall_s: float
    fraction: float
    hour: float
    subscriber: str
    text: str
    ok: bool = True


class Context:
    """What all subscribers of one day share."""

    def __init__(
        self, network: Network, accounting: Accounting, folder: Path, ca: Path, wall_s: float
    ) -> None:
        self.network = network
        self.accounting = accounting
        self.folder = folder
        self.ca = ca
        self.wall_s = wall_s
        # Session ids of a second day must not repeat those of the first (RFC 2866 section 5.5).
        self.run_id = f"{int(time.time()):08X}"
        self.halt = threading.Event()
        self.news: queue.Queue[Progress] = queue.Queue()
        self._begin = time.monotonic()
        self._held: dict[str, str] = {}
        self._freed = threading.Condition()
        self._live: set[subprocess.Popen[str]] = set()
        self._live_lock = threading.Lock()

    def begin(self) -> None:
        """The day starts now."""
        self._begin = time.monotonic()

    def tell(self, subscriber: str, text: str, *, ok: bool = True) -> None:
        """Report progress."""
        wall = time.monotonic() - self._begin
        fraction = min(1.0, wall / self.wall_s)
        self.news.put(Progress(wall, fraction, fraction * HOURS, subscriber, text, ok))

    def wait_until(self, fraction: float) -> None:
        """Sleep until that part of the day; Halted if the day is stopped meanwhile."""
        if self.halt.wait(max(0.0, self._begin + fraction * self.wall_s - time.monotonic())):
            raise Halted("the day was stopped")

    def hold(self, owner: str, addresses: Sequence[str]) -> None:
        """Take addresses, waiting until their last holder has given them up."""
        with self._freed:
            free = self._freed.wait_for(
                lambda: self.halt.is_set() or not any(a in self._held for a in addresses),
                ADDRESS_TIMEOUT_S,
            )
            if self.halt.is_set() or not free:
                raise Halted(f"{owner} got no address")
            self._held.update(dict.fromkeys(addresses, owner))

    def free(self, addresses: Sequence[str]) -> None:
        """Give addresses up."""
        with self._freed:
            for address in addresses:
                self._held.pop(address, None)
            self._freed.notify_all()

    def popen(self, home: Namespace, argv: Sequence[str], **how: Any) -> subprocess.Popen[str]:
        """Start a program that `stop()` ends."""
        process = home.popen(argv, **how)
        with self._live_lock:
            self._live.add(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """End a program of `popen`."""
        with self._live_lock:
            self._live.discard(process)
        end(process)

    def stop(self) -> None:
        """Stop the day: sleeping threads wake, programs end."""
        self.halt.set()
        with self._freed:
            self._freed.notify_all()
        with self._live_lock:
            for process in self._live:
                process.kill()
