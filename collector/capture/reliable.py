"""Reliable delivery of conntrack events, the collector's side: switched on, watched, told of.

An event that finds the socket's buffer full is kept by the kernel and tried again, so none is
lost. The price: an ended flow keeps its place in the conntrack table until its event is delivered,
and a full table refuses subscribers' connections. So it is only ever on while a watchdog
(`collector.capture.watchdog`) looks on, which switches it off; after a rest it is on again.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from collector.capture import watchdog
from collector.capture.netlink_socket import NetlinkUnavailable

BEATS: Final = 8
"""Signs of life within the time after which a reader counts as stalled."""
ENDING_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ReliableConfig:
    """stall_s: without a look at the socket for so long the reader is stalled. table_share: as full
    may the conntrack table be. rest_s: from switching off to on again."""

    stall_s: float = 10.0
    table_share: float = 0.8
    rest_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.stall_s <= 600:
            raise ValueError("stall_s is 1 to 600")
        if not 0 < self.table_share <= 1:
            raise ValueError("table_share is above 0, and 1 at most")


@dataclass(frozen=True, slots=True)
class SwitchedOff:
    """reason: `stalled`, `table-filling` or `unwatched` (the watchdog is gone). drops: the kernel's
    count of events without room when it happened, not one too many; None where nobody read it."""

    reason: str
    drops: int | None


class Reliable:
    """Reliable delivery on one listening socket; off until `switch_on`."""

    def __init__(
        self, config: ReliableConfig, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._monotonic = config, monotonic
        self._listener: socket.socket | None = None
        self._pipe: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._beat_at = self._rest_until = 0.0
        self.is_on = False
        """As of the last `beat`."""

    @property
    def may_switch_on(self) -> bool:
        """Whether it is off and has rested."""
        return not self.is_on and self._monotonic() >= self._rest_until

    def switch_on(self, listener: socket.socket) -> None:
        """From here on no event is dropped; raises NetlinkUnavailable, and is off then."""
        if self._pipe is None:
            self._pipe = self._start(listener)
        self._listener = listener
        self.beat(force=True)
        listener.setsockopt(watchdog.SOL_NETLINK, watchdog.BROADCAST_ERROR, 1)
        self.is_on = True

    def beat(self, force: bool = False) -> SwitchedOff | None:
        """A sign of life; says once where delivery was found switched off."""
        listener, pipe = self._listener, self._pipe
        if listener is None or pipe is None:
            return None
        now = self._monotonic()
        if force or now >= self._beat_at:
            self._beat_at = now + self._config.stall_s / BEATS
            # A full pipe has signs enough in it; a broken one is found below.
            with suppress(OSError):
                pipe.send(b".")
        if not self.is_on:
            return None
        try:
            said = pipe.recv(64)
        except BlockingIOError:
            return None
        except OSError:
            said = b""
        listener.setsockopt(watchdog.SOL_NETLINK, watchdog.BROADCAST_ERROR, 0)
        self.is_on = False
        self._rest_until = now + self._config.rest_s
        if not said:
            self._end()
            return SwitchedOff("unwatched", None)
        reason, drops = said.split()
        return SwitchedOff(reason.decode(), int(drops))

    def stop(self) -> None:
        """Ends the watchdog; the listener is the caller's to close. May be called again."""
        self._end()
        self._listener, self.is_on = None, False

    def _start(self, listener: socket.socket) -> socket.socket:
        """The watchdog, in the network namespace of the thread that calls; gives our end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            descriptors = (listener.fileno(), theirs.fileno())
            limits = (self._config.stall_s, self._config.table_share)
            command = [sys.executable, "-I", "-S", watchdog.__file__]
            try:
                self._child = subprocess.Popen(
                    [*command, *map(str, (*descriptors, *limits))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    env={},
                )
            except OSError as error:
                ours.close()
                raise NetlinkUnavailable(
                    error.errno,
                    f"the watchdog of reliable delivery does not start ({error.strerror}): "
                    "set flows.reliable to false, or mend it",
                ) from error
        return ours

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            try:
                self._child.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None
