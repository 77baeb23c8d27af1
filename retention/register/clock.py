"""Judges whether the clock can be believed: from what it said before, and how long ago that was.

A clock that is ahead destroys too early, so it is not believed once it shows more than the time
that passed. What passed is known while the service runs, from a clock that nobody sets (the time
since boot); over a stop, only that `max_ahead_us` is the most a stop should take. The high-water
mark, the latest time that was believed, is a note in the register and survives restarts.

    believed      within 2 s of the first believed time of this run plus what passed since;
                  in a run that has none yet: from 2 s before the mark to `max_ahead_us` after it
    not believed  until it fits again, or a person confirms it; a restart does not make a clock fit
                  that was seen to jump
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from retention.model import DAY_US
from retention.register import leaves
from retention.register.store import Register

SLACK_US: Final = 2_000_000
"""A leap second and then some; the kernel slews both clocks alike, so they do not drift apart."""
MARK_EVERY_US: Final = 1_000_000
MAX_AHEAD_US: Final = 7 * DAY_US
LONGEST_AHEAD_US: Final = 30 * DAY_US
"""After 31 days without a leaf the log's replay wants the clock confirmed before a destruction."""
MARK: Final = "clock/mark"
DISTRUST: Final = "clock/distrust"
"""Key of the note why the clock is not believed; " jumped" behind it if this was seen to happen."""
_JUMPED: Final = " jumped"
_TIME_ERROR: Final = 5  # adjtimex(2): what it returns for a clock that is not synchronised
_STA_UNSYNC: Final = 0x0040


@dataclass(frozen=True, slots=True)
class Trust:
    """Whether the clock is believed; if not: backwards, far-ahead, unsynchronised or unknown."""

    trusted: bool
    reason: str = ""


def latest_us(now_us: int, mark: str | None) -> int:
    """The time to count from: never before the latest that was believed.

    A clock that is back would have what is placed under it end once it is right again. mark: the
    note MARK.
    """
    return max(now_us, int(mark)) if mark else now_us


class _Timex(ctypes.Structure):
    """The head of struct timex of adjtimex(2); `rest` is more than any machine's remainder."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def kernel_synchronised() -> bool | None:
    """Whether the kernel says that something keeps its clock right; None where it says nothing."""
    asked = _Timex()  # modes 0: read only
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError):  # no such function in this system's library
        return None
    if state < 0:
        return None
    return bool(state != _TIME_ERROR and not asked.status & _STA_UNSYNC)


def since_boot_ns() -> int:
    """Nanoseconds since boot, sleep included; nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ClockGuard:
    """Says before each destruction whether the clock is believed. For any thread.

    now: nanoseconds since 1970, the clock that is judged. synchronised: counts only where
    `require_sync`. passed: nanoseconds on a clock that only runs forward.
    """

    def __init__(
        self,
        register: Register,
        now: Callable[[], int],
        max_ahead_us: int = MAX_AHEAD_US,
        synchronised: Callable[[], bool | None] = kernel_synchronised,
        *,
        require_sync: bool = False,
        passed: Callable[[], int] = since_boot_ns,
    ) -> None:
        if not 0 < max_ahead_us <= LONGEST_AHEAD_US:
            raise ValueError("a clock may be ahead by up to 30 days after a stop")
        self._register, self._now, self._passed = register, now, passed
        self._max_ahead_us = max_ahead_us
        self._synchronised, self._require_sync = synchronised, require_sync
        self._lock = threading.Lock()
        self._believed: tuple[int, int] | None = None
        """Clock and passed time, µs, when this run first believed the clock."""

    def check(self) -> Trust:
        """Judge the clock now; a change of trust is a leaf before this returns.

        Raises RegisterError where the change cannot be written: destroy nothing then either.
        """
        with self._lock:
            return self._check()

    def confirm(self, actor: str) -> Trust:
        """Believe the clock because a person does; `actor` is the commitment of who it is.

        A clock that has to be synchronised and is not stays what it is.
        """
        with self._lock:
            found = self._check()
            if found.trusted or self._unsynchronised():
                return found
            now_us = self._now() // 1000
            delta = now_us - self._mark(now_us)
            leaf = leaves.clock_step(abs(delta), delta < 0, True, "confirmed", actor)
            self._believed = None  # what this run believed before is disproved
            self._register.write(notes={MARK: str(now_us), DISTRUST: None}, leaves=[leaf])
            self._believed = now_us, self._passed() // 1000
            return Trust(True)

    def _check(self) -> Trust:
        now_us, passed_us = self._now() // 1000, self._passed() // 1000
        mark, distrust = self._mark(now_us), self._register.note(DISTRUST)
        reason, delta = self._judge(now_us, passed_us, mark, distrust or "")
        if reason:
            if distrust is None:
                word = reason.removesuffix(_JUMPED)
                leaf = leaves.clock_step(abs(delta), delta < 0, False, word)
                self._register.write(notes={DISTRUST: reason, MARK: str(mark)}, leaves=[leaf])
            elif distrust != reason:
                self._register.write(notes={DISTRUST: reason})
            return Trust(False, reason.removesuffix(_JUMPED))
        if distrust is not None:
            leaf = leaves.clock_step(abs(delta), delta < 0, True, "recovered")
            self._register.write(notes={DISTRUST: None, MARK: str(now_us)}, leaves=[leaf])
        elif now_us >= mark + MARK_EVERY_US or self._register.note(MARK) is None:
            self._register.write(notes={MARK: str(max(mark, now_us))})
        self._believed = self._believed or (now_us, passed_us)
        return Trust(True)

    def _judge(self, now_us: int, passed_us: int, mark: int, distrust: str) -> tuple[str, int]:
        """Why the clock is not believed ("" if it is), and how far it is from what is expected."""
        if self._believed:
            expected = self._believed[0] + passed_us - self._believed[1]
            most, jumped = expected + SLACK_US, _JUMPED
        else:
            expected, most, jumped = mark, mark + self._max_ahead_us, ""
        delta = now_us - expected
        if delta < -SLACK_US:
            return "backwards" + jumped, delta
        if now_us > most:
            return "far-ahead" + jumped, delta
        if not self._believed and distrust.endswith(_JUMPED):
            return distrust, delta  # this run cannot know where the clock was before it jumped
        return self._unsynchronised(), delta

    def _mark(self, now_us: int) -> int:
        """The high-water mark, µs; without one the last leaf's time, or now."""
        text = self._register.note(MARK)
        return int(text) if text else max(now_us, self._register.now() // 1000)

    def _unsynchronised(self) -> str:
        if not self._require_sync:
            return ""
        return {True: "", False: "unsynchronised", None: "unknown"}[self._synchronised()]
